/* SPDX-License-Identifier: MIT */
/* The constants of a target; see env.h. */
#include "daemon/env.h"

#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "elfsym/resolve.h"
#include "vm/runtime.h"

/* Our own vDSO, in memory: the one ELF image that the kernel vouches for. */
u64 vdso_clock_off(void)
{
	const char *base = (const char *)getauxval(AT_SYSINFO_EHDR);
	const ElfW(Ehdr) *eh = (const void *)base;
	const ElfW(Shdr) *sh;

	if (!base || !eh->e_shoff)
		return 0;
	sh = (const void *)(base + eh->e_shoff);
	for (unsigned i = 0; i < eh->e_shnum; i++) {
		const ElfW(Sym) *syms = (const void *)(base + sh[i].sh_offset);
		const char *names;

		if (sh[i].sh_type != SHT_DYNSYM)
			continue;
		names = base + sh[sh[i].sh_link].sh_offset;
		for (size_t k = 0; k < sh[i].sh_size / sizeof(*syms); k++)
			if (!strcmp(names + syms[k].st_name, "__vdso_clock_gettime"))
				return syms[k].st_value;
	}
	return 0;
}

void env_take_facts(struct target *t, const struct inject_facts *f)
{
	u64 off = vdso_clock_off();

	t->tid_off = f->tid_off;
	t->rseq_off = f->rseq_off;
	t->clock = f->vdso && off ? f->vdso + off : 0;
	t->main_stack_lo = f->main_stack_lo;
	t->main_stack_hi = f->main_stack_hi;
}

/* Whether MAP is readable and part of MOD: of its file, or the pages behind the
 * file's that belong to its data. */
static bool is_part(const struct procmap *map, const struct module *mod)
{
	if (!(map->prot & PROT_READ) || map->start < mod->lo || map->end > mod->hi)
		return false;
	return map->ino ? map->ino == mod->ino && map->dev == mod->dev : !map->path[0];
}

/* Never PROT_WRITE: what is to be read-only after relocation may not be so yet. */
static void add_segment(struct target_env *env, const struct procmap *map)
{
	u32 n = env->nsegments;

	if (n && env->segments[n - 1].hi == map->start) {
		env->segments[n - 1].hi = map->end;
		return;
	}
	if (n == TARGET_SEGMENTS)
		return;
	env->segments[n].lo = map->start;
	env->segments[n].hi = map->end;
	env->segments[n].prot = PROT_READ;
	env->nsegments++;
}

/* What cannot be unloaded may be read without asking. */
static struct uerr *fill_segments(const struct target *t, struct target_env *env)
{
	cleanup(modules_deinit) struct modules mods = {};
	struct uerr *err = modules_read(t->pid, &mods);

	if (err)
		return err;
	modules_mark_lasting(&mods);
	for (size_t i = 0; i < mods.maps.n; i++) {
		const struct procmap *map = &mods.maps.maps[i];

		for (size_t k = 0; k < mods.n; k++)
			if (mods.mods[k].lasting && is_part(map, &mods.mods[k]))
				add_segment(env, map);
	}
	return NULL;
}

struct uerr *env_fill(const struct target *t, u32 ncpus, struct target_env *ret)
{
	*ret = (struct target_env){
		.version = TARGET_ABI_VERSION,
		.target_no = t->threads->no,
		.tid_off = t->tid_off,
		.rseq_off = t->rseq_off,
		.nrecs = THREAD_RECS_DEFAULT,
		.ncpus = ncpus,
		.threads = t->threads_addr,
		.private_ = t->private_addr,
		.vdso_clock_gettime = t->clock,
		.trace_ring = t->threads_addr + t->threads->ring_off,
		.cells = t->cells_retired ? 0 : t->cells_addr,
		.all_cells = t->cells_addr,
		.main_stack_lo = t->main_stack_lo,
		.main_stack_hi = t->main_stack_hi,
		.tsc_clock = runtime_tsc_is_clock(),
		.denied = t->denied,
		.identity = target_watches_identity(t),
	};
	runtime_tick(ret);
	runtime_pidns(t->pid, ret);
	return fill_segments(t, ret);
}

/* A record that is free or the thread's own; NULL when all near slots are taken. */
static struct thread_rec *claim(const struct target *t, u32 tid)
{
	for (u32 i = 0; i < THREAD_PROBES; i++) {
		struct thread_rec *r = threads_rec(t->threads, (tid + i) & (THREAD_RECS_DEFAULT - 1));
		u32 free_tid = 0;

		if (__atomic_compare_exchange_n(&r->tid, &free_tid, tid, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) ||
		    free_tid == tid)
			return r;
	}
	return NULL;
}

/* The low end first: a thread that looks meanwhile sees an empty range. */
void env_fill_threads(const struct target *t, const struct inject_thread *threads, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct thread_rec *r = claim(t, threads[i].tid);

		if (!r || r->stack_hi)
			continue;
		__atomic_store_n(&r->stack_lo, threads[i].stack_lo, __ATOMIC_RELEASE);
		__atomic_store_n(&r->stack_hi, threads[i].stack_hi, __ATOMIC_RELEASE);
	}
}
