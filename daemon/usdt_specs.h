/* SPDX-License-Identifier: MIT */
/*
 * The arguments of USDT probes, for programs built with libbpf's usdt.bpf.h: its
 * map __bpf_usdt_specs holds how to read them, an element for each different
 * argument string and cookie of an attachment, and the program finds the number
 * of its element as the BPF cookie. (The other map, from addresses to numbers, is
 * for kernels without cookies: LINUX_HAS_BPF_COOKIE is 1 here, so it stays empty,
 * as under libbpf.)
 *
 * Workers hand out elements at the same time, so who owns which is in memory that
 * they share with the daemon.
 */
#pragma once
#include "daemon/state.h"

/* Finds the map in L, and makes its owners; l->usdt stays NULL when there is none. */
struct uerr *usdt_specs_create(struct loaded *l) UERR_MUST_CHECK;
void usdt_specs_destroy(struct loaded *l);

/* Can programs of L read ARGS (of a note)? UERR_CANNOT_PROBE says why not. */
struct uerr *usdt_spec_check(const struct loaded *l, const char *args) UERR_MUST_CHECK;

/* In a worker: the number of an element that describes ARGS (of a note) and
 * COOKIE, owned by LINK. UERR_CANNOT_PROBE as above, or when the map
 * is full. */
struct uerr *usdt_spec_take(const struct loaded *l, u32 link, const char *args, u64 cookie, u64 *ret) UERR_MUST_CHECK;

/* LINK has ended: its elements are free again. */
void usdt_specs_free(const struct loaded *l, u32 link);
