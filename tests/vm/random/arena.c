/* SPDX-License-Identifier: MIT */
/*
 * Where random programs run (arena.h). An input is a number: it chooses one of a
 * few fillings of the maps and makes the registers of ctx. Each execution starts
 * from the same memory, byte by byte; afterwards what the maps hold is compared
 * as readers see it, since where a hash map keeps an element is its own affair.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/vm/jit_run.h"
#include "tests/vm/random/arena.h"

#define FILLINGS 8
#define MAX_INSNS 4000000
#define MAX_ELEMENTS 64

static const struct {
	u32 type, key_size, value_size, max_entries, flags;
	bool frozen;
} kinds[] = {
	{ UMAP_HASH, 8, 16, 8, 0, false },
	{ UMAP_ARRAY, 4, 64, 4, 0, false },
	{ UMAP_ARRAY, 4, 64, 1, 0, false }, /* global variables */
	{ UMAP_ARRAY, 4, 16, 1, BPF_F_RDONLY_PROG, true },
	{ UMAP_PERCPU_ARRAY, 4, 16, 4, 0, false },
	{ UMAP_HASH, 4, 40, 8, 0, false },
	{ UMAP_PERCPU_HASH, 4, 8, 8, 0, false },
};
#define NMAPS ARRAY_SIZE(kinds)

struct arena {
	struct umap map[NMAPS];
	int fd[NMAPS];
	struct vm_map vm[NMAPS];
	struct jit_map jit[NMAPS];
	u8 *filling[FILLINGS][NMAPS];
	u8 frozen[16];
	u8 known[256]; /* what ctx may point to */
	struct umap_claims *claims;
	int claims_fd;
	struct site_data site;
	struct hook_frame frame;
};

static u64 mix(u64 x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static void die(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(99);
}

/* --- setting up --- */

static struct umap_ctx host_ctx(const struct arena *a)
{
	return (struct umap_ctx){ .rec = (struct thread_rec *)a->frame.rec };
}

static void fill_map(struct arena *a, u32 m, u64 seed)
{
	struct umap_ctx cx = host_ctx(a);
	u8 value[4096];
	u64 key = 0;

	for (u32 i = 0; i < kinds[m].max_entries; i++) {
		bool array = kinds[m].type == UMAP_ARRAY || kinds[m].type == UMAP_PERCPU_ARRAY;

		if (!array && (i > 5 || mix(seed + i) % 2))
			continue;
		for (u64 w = 0; w < umap_user_value_size(&a->map[m]); w += 8) {
			u64 v = mix(seed * 1000 + i * 100 + w);

			v = seed % 3 == 0 ? 0 : v % 4 == 0 ? v : v % 16;
			memcpy(value + w, &v, 8);
		}
		key = i;
		if (umap_write(&a->map[m], &key, value, 0, &cx))
			die("a map cannot be filled");
	}
}

static void make_fillings(struct arena *a)
{
	for (u32 f = 0; f < FILLINGS; f++) {
		for (u32 m = 0; m < NMAPS; m++) {
			memset((void *)a->map[m].base, 0, a->map[m].size);
			umap_format(&a->map[m]);
			if (kinds[m].frozen)
				memcpy((void *)(a->map[m].base + a->map[m].data_off), a->frozen, sizeof(a->frozen));
			else
				fill_map(a, m, f * NMAPS + m);
			a->filling[f][m] = malloc(a->map[m].size);
			if (!a->filling[f][m])
				die("out of memory");
			memcpy(a->filling[f][m], (void *)a->map[m].base, a->map[m].size);
		}
	}
}

/* Every execution on the same CPU: the same copy of per-CPU maps. */
static void stay_here(void)
{
	cpu_set_t set;
	int cpu = sched_getcpu();

	CPU_ZERO(&set);
	CPU_SET(cpu < 0 ? 0 : cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

struct arena *arena_create(void)
{
	static const u8 frozen[16] = { 5, 0, 0, 0, 40, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255 };
	struct arena *a = calloc(1, sizeof(*a));
	u32 ncpus = (u32)sysconf(_SC_NPROCESSORS_CONF);

	if (!a)
		die("out of memory");
	stay_here();
	runtime_self_frame(&a->frame);
	memcpy(a->frozen, frozen, sizeof(frozen));
	for (u32 i = 0; i < sizeof(a->known); i++)
		a->known[i] = (u8)(i % 7 ? mix(i) : 0);
	for (u32 m = 0; m < NMAPS; m++) {
		if (umap_create("random", kinds[m].type, kinds[m].key_size, kinds[m].value_size, kinds[m].max_entries,
				kinds[m].flags, ncpus, m + 1, &a->map[m], &a->fd[m]))
			die("a map cannot be made");
		a->map[m].frozen = kinds[m].frozen;
		a->vm[m] = (struct vm_map){ .map = &a->map[m], .frozen = kinds[m].frozen ? a->frozen : NULL };
		a->jit[m] = (struct jit_map){ &a->map[m], (addr_t)&a->map[m] };
	}
	if (umap_claims_create(ncpus, &a->claims, &a->claims_fd))
		die("claims cannot be made");
	a->site = *(const struct site_data *)a->frame.site;
	a->site.claims = (addr_t)a->claims;
	a->site.nclaims = ncpus + UMAP_SPARE_SLOTS;
	a->site.cookie = 0x1122334455667788;
	a->site.func_ip = 0x401000;
	make_fillings(a);
	return a;
}

void arena_destroy(struct arena *a)
{
	if (!a)
		return;
	for (u32 f = 0; f < FILLINGS; f++)
		for (u32 m = 0; m < NMAPS; m++)
			free(a->filling[f][m]);
	for (u32 m = 0; m < NMAPS; m++)
		umap_destroy(&a->map[m], a->fd[m]);
	munmap(a->claims, UMAP_CLAIMS_SIZE((u64)sysconf(_SC_NPROCESSORS_CONF)));
	close(a->claims_fd);
	free(a);
}

const struct umap *arena_geometry(const struct arena *a, u32 *ret_n)
{
	*ret_n = NMAPS;
	return a->map;
}

const struct vm_map *arena_maps(const struct arena *a, u32 *ret_n)
{
	*ret_n = NMAPS;
	return a->vm;
}

/* --- a run --- */

/* Memory and registers as INPUT has them. */
static void begin(struct arena *a, u64 input)
{
	u64 *regs = (u64 *)&a->frame.regs;

	for (u32 m = 0; m < NMAPS; m++)
		memcpy((void *)a->map[m].base, a->filling[input % FILLINGS][m], a->map[m].size);
	for (u32 i = 0; i < sizeof(a->frame.regs) / 8; i++) {
		u64 v = mix(input * 64 + i);

		switch (v % 5) {
		case 0:
			break;
		case 1:
			v = v >> 8 & 15;
			break;
		case 2:
			v = (u64)((s64)v >> (v >> 8 & 63));
			break;
		case 3:
			v = (u64)(uintptr_t)a->known + (v >> 8) % (sizeof(a->known) - 32);
			break;
		case 4:
			v = v >> (v >> 8 & 63);
			break;
		}
		regs[i] = input % 16 ? v : 0;
	}
	a->frame.site = (addr_t)&a->site;
	a->frame.slot = HOOK_NO_SLOT;
	((struct thread_rec *)a->frame.rec)->random = 1;
}

/* What readers see in the maps, whatever the order. */
static u64 contents(const struct arena *a)
{
	struct umap_ctx cx = host_ctx(a);
	u64 sum = 0;

	for (u32 m = 0; m < NMAPS; m++) {
		u64 key = 0, n = 0, size = umap_user_value_size(&a->map[m]);
		long err = umap_next_key(&a->map[m], NULL, &key);

		for (; !err && n < MAX_ELEMENTS; n++) {
			u8 value[4096];
			u64 h = mix(m * 1000 + key);

			if (!umap_read(&a->map[m], &key, value, &cx))
				for (u64 i = 0; i < size; i++)
					h = (h ^ value[i]) * 0x100000001b3ull;
			sum += mix(h);
			err = umap_next_key(&a->map[m], &key, &key);
		}
		sum += mix(n + m);
	}
	return sum;
}

struct outcome {
	u64 r0, maps;
};

static bool run_checked(struct arena *a, const struct vm_prog *p, u64 input, struct checked_result *ret)
{
	struct checked_opts opts = { .frame = &a->frame, .known = a->known, .known_size = sizeof(a->known),
				     .max_insns = MAX_INSNS };

	begin(a, input);
	if (p->info.uses_percpu && runtime_helper(VM_RT_CLAIM)(0, 0, 0, 0, 0, &a->frame) == HOOK_NO_SLOT)
		die("no per-CPU slot");
	checked_run(p, a->vm, NMAPS, &opts, ret);
	if (p->info.uses_percpu)
		runtime_helper(VM_RT_RELEASE)(0, 0, 0, 0, 0, &a->frame);
	return !ret->violation[0];
}

bool arena_try(struct arena *a, const struct vm_prog *p, u64 from, u32 n, struct arena_counts *counts, char *why,
	       size_t why_size)
{
	struct jit_code code = { 0 };
	bool compiled = false, good = true;
	struct uerr *err;

	if (p->info.helpers[0] >> BPF_FUNC_probe_write_user & 1) /* it may write what this process lives by */
		return true;
	for (u64 input = from; good && input < from + n; input++) {
		struct outcome want, interp, jit;
		struct checked_result r;
		long ret;

		good = run_checked(a, p, input, &r);
		if (!good) {
			snprintf(why, why_size, "input %llu, instruction %u: %s", (unsigned long long)input, r.pc, r.violation);
			break;
		}
		want = (struct outcome){ r.r0, contents(a) };
		counts->runs++;
		counts->insns += r.insns;
		counts->varied += r.varies;
		counts->unfinished += r.unfinished;
		if (r.unfinished)
			continue;
		begin(a, input);
		ret = interp_run(p, a->vm, NMAPS, (u64)(uintptr_t)&a->frame.regs, 0, &a->frame, 0, &interp.r0);
		interp.maps = contents(a);
		if (ret) {
			snprintf(why, why_size, "input %llu: the interpreter gives up: %ld", (unsigned long long)input, ret);
			good = false;
			break;
		}
		if (!compiled) {
			err = jit_code_create(p, a->jit, NMAPS, from & 1 ? JIT_NO_BMI2 : 0, &code);
			if (err) {
				snprintf(why, why_size, "cannot be compiled: %s", err->message);
				uerr_free(err);
				return false;
			}
			compiled = true;
		}
		begin(a, input);
		jit.r0 = code.fn((u64)(uintptr_t)&a->frame.regs, 0, &a->frame);
		jit.maps = contents(a);
		if (r.varies)
			continue;
		counts->compared++;
		good = interp.r0 == want.r0 && interp.maps == want.maps && jit.r0 == want.r0 && jit.maps == want.maps;
		if (!good)
			snprintf(why, why_size, "input %llu: checked r0=%#llx maps %#llx, interpreter %#llx %#llx, JIT %#llx %#llx",
				 (unsigned long long)input, (unsigned long long)want.r0, (unsigned long long)want.maps,
				 (unsigned long long)interp.r0, (unsigned long long)interp.maps, (unsigned long long)jit.r0,
				 (unsigned long long)jit.maps);
	}
	if (compiled)
		jit_code_destroy(&code);
	return good;
}
