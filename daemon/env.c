/* SPDX-License-Identifier: MIT */
/* The constants of a target; see env.h. */
#include "daemon/env.h"

#include <elf.h>
#include <link.h>
#include <string.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "daemon/procinfo.h"
#include "elfsym/procmaps.h"
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

static bool starts(const char *s, const char *prefix)
{
	return !strncmp(s, prefix, strlen(prefix));
}

/* Files that stay mapped as long as the process lives. */
static bool is_lasting(const struct procmap *m, dev_t exe_dev, ino_t exe_ino)
{
	const char *base = pathname_base(m->path);

	if (m->path[0] != '/')
		return false;
	if (m->dev == exe_dev && m->ino == exe_ino)
		return true;
	return starts(base, "ld-linux") || starts(base, "ld-musl") || starts(base, "ld-2") || starts(base, "libc.so") ||
	       starts(base, "libc-2");
}

static struct uerr *fill_segments(const struct target *t, struct target_env *env)
{
	cleanup(procmaps_deinit) struct procmaps pm = {};
	struct uerr *err = procmaps_read(t->pid, &pm);
	struct stat exe = {};
	char path[64];

	if (err)
		return err;
	snprintf(path, sizeof(path), "/proc/%d/exe", t->pid);
	(void)!stat(path, &exe);
	for (size_t i = 0; i < pm.n && env->nsegments < TARGET_SEGMENTS; i++) {
		const struct procmap *m = &pm.maps[i];

		if (!(m->prot & PROT_READ) || !is_lasting(m, exe.st_dev, exe.st_ino))
			continue;
		env->segments[env->nsegments].lo = m->start;
		env->segments[env->nsegments].hi = m->end;
		env->segments[env->nsegments].prot = m->prot & (PROT_READ | PROT_WRITE);
		env->nsegments++;
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
		.main_stack_lo = t->main_stack_lo,
		.main_stack_hi = t->main_stack_hi,
		.tsc_clock = runtime_tsc_is_clock(),
	};
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
