/* SPDX-License-Identifier: MIT */
/*
 * A probe made by hand, for tests of the injection itself: a window of the
 * victim is replaced by a jump to code that adds one to a counter, runs the
 * displaced instructions and jumps back.
 */
#pragma once
#include <stddef.h>

#include "injector/inject.h"
#include "tests/support/victim.h"

struct probe {
	struct inject_range code, data;
	struct patch patch;
	volatile u64 *counter; /* in data.local */
};

/* A fresh injection, or the test fails with what was said. */
struct injection *probe_begin(pid_t pid, const char *journal);

/* Places code and data near the victim's site, fills them, hands in the patch. */
struct uerr *probe_place(struct injection *in, const struct victim *v, struct probe *ret);

/* Begin, place, commit, end. */
struct probe probe_install(const struct victim *v, const char *journal, struct inject_stats *stats);

/* Takes the patch back and unmaps; stats as of the commit. */
struct uerr *probe_remove(const struct victim *v, const struct probe *p, const char *journal,
			  struct inject_stats *stats);
void probe_unmap_here(struct probe *p);

/* Whole text of the victim's program, for comparing. */
struct text {
	addr_t lo;
	size_t len;
	u8 *bytes;
};
struct text text_read(pid_t pid, addr_t inside);
bool text_equal(const struct text *a, const struct text *b);
void text_free(struct text *t);

/* Fails the test with the message of ERR, if there is one. */
void ok(struct uerr *err);

/* ERR must be there, be CODE and mention WORDS; frees it. */
void refused(struct uerr *err, enum uerr_code code, const char *words);

/* Path of a journal in a folder of its own; journal_drop removes both. */
char *journal_path(void);
void journal_drop(char *path);

/* Root, or a loud skip: true means that the caller shall return. */
bool not_root(const char *test);
