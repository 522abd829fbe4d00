/* SPDX-License-Identifier: MIT */
/*
 * Reading and writing a target's memory. Reading works while it runs; writing
 * to read-only pages (text) forces a private copy of the page and wants the
 * target stopped.
 */
#pragma once
#include "injector/tracee.h"

/* All LEN bytes or an errno (positive; EIO where nothing is mapped). */
int remote_read(struct tracee *t, addr_t remote_addr, void *buf, size_t len);

/* As much of LEN as is mapped from REMOTE_ADDR on; bytes read. */
size_t remote_read_some(struct tracee *t, addr_t remote_addr, void *buf, size_t len);

/* Writes to memory that the target itself can write. */
int remote_write(struct tracee *t, addr_t remote_addr, const void *buf, size_t len);

/* Writes to text through the stopped thread TH: /proc/PID/mem, or PTRACE_POKETEXT where
 * the kernel forbids forced writes there (proc_mem.force_override=never). OLD
 * is what stands there now. */
int remote_write_text(struct tracee *t, const struct thread *th, addr_t remote_addr, const void *buf,
		      const void *old, size_t len);
