/* SPDX-License-Identifier: MIT */
/*
 * What comes out of a hostile object file. First byte:
 *	0   packed bytes as a taken-over worker could send them
 *	1   what we read of the file ourselves: u16 size of BTF, BTF, ELF (libbpf is
 *	    not asked: it crashes on hostile files, which is why it has a worker)
 *	2   BTF, and a value by each of its types, to text and back
 * What is unpacked is then used as the daemon would.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm/btf_index.h"
#include "vm/object_internal.h"
#include "vm/verify.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void value_there_and_back(const struct object *obj, u32 id, const void *value, size_t size)
{
	char *text = NULL;
	u8 *back = malloc(size + 1);
	struct uerr *err = btf_value_to_json(obj, id, value, size, &text);

	if (!err) {
		err = btf_value_from_text(obj, id, text, back, size);
		free(text);
	}
	uerr_free(err);
	free(btf_type_name(obj, id));
	free(back);
}

static void use(struct object *obj)
{
	struct umap umaps[64];
	struct vm_map maps[64] = {};

	if (obj->nmaps > 64)
		return;
	for (size_t i = 0; i < obj->nmaps; i++) {
		const struct object_map *m = &obj->maps[i];

		maps[i].map = &umaps[i];
		if (umap_geometry(m->type, m->key_size, m->value_size, m->max_entries, m->map_flags, 2, i, &umaps[i]))
			return;
		if (m->initial)
			value_there_and_back(obj, m->btf_value_type_id, m->initial, m->value_size);
	}
	for (size_t i = 0; i < obj->nprogs; i++) {
		uerr_free(verify_program(&obj->progs[i], maps, obj->nmaps, NULL, NULL));
		free(disasm_xlated(&obj->progs[i], maps, obj->nmaps));
	}
}

static void values(const u8 *data, size_t size)
{
	struct object obj = { .name = "fuzz" };
	u8 value[256];

	memset(value, 0x41, sizeof(value));
	value[sizeof(value) - 1] = 0;
	if (!object_set_btf(&obj, data, size) || !obj.types)
		return;
	for (u32 id = 0; id <= obj.types->ntypes && id < 64; id++) {
		u64 n = btf_index_size(obj.types, id);

		if (n <= sizeof(value))
			value_there_and_back(&obj, id, value, n);
	}
	btf_index_destroy(obj.types);
	free(obj.btf);
}

/* Lines and relocations of a program that calls two functions, by names that the
 * seeds have. */
static void elf(const u8 *data, size_t size)
{
	struct bpf_insn insns[64] = { 0 };
	struct vm_prog p = { .name = "on_malloc", .section = "uprobe/libc:malloc", .insns = insns, .ninsns = 45 };
	struct btf_index *target = NULL;
	struct object obj = { .name = "fuzz" };
	struct object_elf *e;
	u16 btf_size;

	memcpy(&btf_size, data, 2);
	if (btf_size > size - 2 || !object_set_btf(&obj, data + 2, btf_size))
		return;
	e = object_elf_open(data + 2 + btf_size, size - 2 - btf_size);
	insns[7] = (struct bpf_insn){ .code = BPF_JMP | BPF_CALL, .src_reg = BPF_PSEUDO_CALL, .imm = 11 };
	insns[17] = (struct bpf_insn){ .code = BPF_JMP | BPF_CALL, .src_reg = BPF_PSEUDO_CALL, .imm = 11 };
	insns[41] = (struct bpf_insn){ .code = BPF_JMP | BPF_CALL, .src_reg = BPF_PSEUDO_CALL, .imm = -23 };
	if (e) {
		object_elf_license(e, obj.license, sizeof(obj.license));
		object_elf_lines(e, &obj, &p);
		if (obj.types && object_elf_has_relos(e)) {
			snprintf(p.name, sizeof(p.name), "direct");
			snprintf(p.section, sizeof(p.section), "uprobe");
			memset(insns, 0, sizeof(insns));
			insns[0].code = insns[1].code = BPF_LDX | BPF_MEM | BPF_DW;
			uerr_free(btf_index_create(obj.btf, obj.btf_size, &target));
			p.ninsns = 4;
			uerr_free(object_elf_relocate(e, &obj, target, &p));
			btf_index_destroy(target);
		}
	}
	object_elf_close(e);
	free(p.lines);
	free(p.texts);
	free((char *)p.file);
	btf_index_destroy(obj.types);
	free(obj.btf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct object *obj = NULL;
	struct uerr *err = NULL;

	if (!size)
		return 0;
	switch (data[0]) {
	case 0:
		err = object_unpack(data + 1, size - 1, &obj);
		break;
	case 1:
		if (size > 3)
			elf(data + 1, size - 1);
		break;
	case 2:
		values(data + 1, size - 1);
		break;
	}
	uerr_free(err);
	if (!err && obj) {
		use(obj);
		object_free(obj);
	}
	return 0;
}
