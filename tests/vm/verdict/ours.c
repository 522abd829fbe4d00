/* SPDX-License-Identifier: MIT */
/*
 * Our verifier as judge. Helpers that our runtime does not have, but whose
 * prototypes are known, count as if they were there: what is compared is the
 * verdict. Maps are geometry only.
 */
#include <bpf/btf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tests/vm/verdict/verdict.h"
#include "vm/btf_index.h"
#include "vm/verify.h"

static struct umap umaps[NMAPS];
static struct vm_map vm_maps[NMAPS];
static struct btf *btf;
static struct btf_index *types;

void ours_init(void)
{
	struct uerr *err;
	const void *raw;
	u32 size;

	for (u32 i = 0; i < NMAPS; i++) {
		const struct geometry *g = &map_geometry[i];

		umaps[i] = (struct umap){ .type = g->type, .key_size = g->key_size, .value_size = g->value_size,
					  .max_entries = g->max_entries, .map_flags = g->flags, .id = i + 1,
					  .frozen = map_contents(i) != NULL };
		vm_maps[i] = (struct vm_map){ .map = &umaps[i], .frozen = map_contents(i) };
	}
	btf = funcs_btf();
	raw = btf__raw_data(btf, &size);
	err = btf_index_create(raw, size, &types);
	if (err) {
		fprintf(stderr, "BTF: %s\n", err->message);
		exit(1);
	}
	for (u32 i = 0; i < NMAPS; i++) {
		funcs_map_types(i, &vm_maps[i].key_type, &vm_maps[i].value_type);
		vm_maps[i].btf = types;
	}
}

void ours_deinit(void)
{
	btf_index_destroy(types);
	btf__free(btf);
}

const struct umap *ours_maps(void)
{
	return umaps;
}

/* As the loader does it from the object's func_info */
static struct vm_subprog *describe_funcs(const struct program *p, u32 *ret_n)
{
	struct bpf_func_info funcs[MAX_FUNCS];
	u32 n = funcs_find(p, funcs);
	struct vm_subprog *subs = calloc(n, sizeof(*subs));

	for (u32 i = 0; i < n; i++) {
		subs[i].start = funcs[i].insn_off;
		subs[i].type_id = funcs[i].type_id;
		subs[i].global = i && funcs_are_global(p);
		snprintf(subs[i].name, sizeof(subs[i].name), "f%u", i);
	}
	*ret_n = n;
	return subs;
}

void ours_judge(const struct program *p, u32 level, struct judgement *ret)
{
	struct verify_opts opts = { .flags = VERIFY_ABSENT_HELPERS, .log_level = level };
	struct vm_prog prog = { .name = "verdict", .section = "uprobe", .ninsns = p->n, .btf = types };
	struct verify_stats stats = {};
	struct uerr *err;

	*ret = (struct judgement){ .reason = "" };
	prog.insns = malloc(p->n * sizeof(*p->insns));
	memcpy(prog.insns, p->insns, p->n * sizeof(*p->insns));
	prog.subprogs = describe_funcs(p, &prog.nsubprogs);
	err = verify_program(&prog, vm_maps, NMAPS, &opts, &stats);
	ret->accepted = !err;
	ret->insns = stats.insns_processed;
	ret->ns = stats.ns;
	if (err) {
		if (asprintf(&ret->log, "%s\n%s", err->message, level && err->log ? err->log : "") < 0)
			ret->log = NULL;
		ret->reason = err->message && ret->log ? ret->log : "";
	}
	uerr_free(err);
	verify_forget(&prog);
	free(prog.subprogs);
	free(prog.insns);
}
