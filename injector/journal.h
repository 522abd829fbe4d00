/* SPDX-License-Identifier: MIT */
/*
 * Writing a target's journal. Records are appended; each is complete in itself
 * and checksummed, and whatever prefix of the file survives tells a truth: what
 * may be in the target ("about to") is recorded before it is done, what is no
 * longer there after it is undone. Nothing is synced to disk: the journal has
 * to outlive this process, not the machine (the boot id tells).
 */
#pragma once
#include "injector/inject.h"
#include "base/vec.h"

struct journal_writer {
	int fd; /* -1: no journal is kept */
	VEC(u8) buf;
	bool failed;
};

/* Opens the journal of process PID at PATH (NULL: none), creates it, starts it
 * anew when it is about another process, cuts off a torn tail, compacts it. */
struct uerr *journal_open(struct journal_writer *w, const char *path, pid_t pid, u64 starttime) UERR_MUST_CHECK;
void journal_close(struct journal_writer *w);

/* Records are collected until journal_flush(), which says whether all went out. */
void journal_range(struct journal_writer *w, const struct journal_range *r); /* about to be, or is */
void journal_range_gone(struct journal_writer *w, addr_t addr);
void journal_range_retired(struct journal_writer *w, addr_t addr);
void journal_site(struct journal_writer *w, const struct journal_site *s);   /* about to be */
void journal_site_active(struct journal_writer *w, addr_t addr);
void journal_site_gone(struct journal_writer *w, addr_t addr);
void journal_site_reverted(struct journal_writer *w, addr_t addr); /* the last "about to" did not happen */
void journal_sema(struct journal_writer *w, const struct journal_sema *s); /* its new state */
void journal_sema_gone(struct journal_writer *w, addr_t addr);
void journal_sockets(struct journal_writer *w, const u64 inodes[2]); /* 0, 0: gone again */
struct uerr *journal_flush(struct journal_writer *w) UERR_MUST_CHECK;

/* This boot's id; "" when it cannot be read. */
void boot_id_read(char ret[40]);
