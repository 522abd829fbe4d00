/* SPDX-License-Identifier: MIT */
/*
 * The command line of bpfctl: one table of options that mean the same with
 * every command, before or after its other arguments.
 */
#pragma once
#include <stdio.h>

#include "base/types.h"
#include "base/uerr.h"
#include "base/vec.h"

/* Bits of struct opts' `given`, and of a command's row. */
enum opt_id {
	OPT_PID = 1 << 0,
	OPT_NAME = 1 << 1,
	OPT_PATH = 1 << 2,
	OPT_CMD = 1 << 3, /* -- CMD ARG… */
	OPT_NO_FOLLOW = 1 << 4,
	OPT_FORCE = 1 << 5,
	OPT_NOT = 1 << 6,
	OPT_FOR = 1 << 7,
	OPT_INTERVAL = 1 << 8,
	OPT_TOP = 1 << 9,
	OPT_DRY_RUN = 1 << 10,
	OPT_ALL = 1 << 11,
	OPT_MORE = 1 << 12,
	OPT_OUT = 1 << 13,
	OPT_JSON = 1 << 14,
	OPT_QUIET = 1 << 15,
	OPT_VERBOSE = 1 << 16,
	OPT_SOCKET = 1 << 17,
	OPT_HELP = 1 << 18,
	OPT_VERSION = 1 << 19,
	OPT_ALLOW_OVERRIDE = 1 << 20,
	OPT_FOLDED = 1 << 21,
	OPT_TRAP = 1 << 22,
};
#define OPTS_EVERYWHERE (OPT_OUT | OPT_JSON | OPT_QUIET | OPT_VERBOSE | OPT_SOCKET | OPT_HELP | OPT_VERSION)
#define OPTS_TARGET (OPT_PID | OPT_NAME | OPT_PATH | OPT_NO_FOLLOW | OPT_FORCE)
#define OPTS_ONE_SHOT (OPTS_TARGET | OPT_CMD | OPT_NOT | OPT_FOR | OPT_INTERVAL | OPT_TOP | OPT_DRY_RUN | OPT_TRAP)

#define TOP_DEFAULT 20 /* rows on a terminal */

struct opts {
	u32 given;                /* enum opt_id bits */
	VEC(const char *) args;   /* what is no option; args.data[0] is the command */
	VEC(pid_t) pids;
	VEC(const char *) names, paths, nots;
	char **cmd;               /* behind "--", NULL-terminated; or NULL */
	u64 for_ns, interval_ns;  /* 0: not limited */
	unsigned long top;        /* 0: all */
	const char *out, *socket;
};

static inline bool opt_given(const struct opts *o, enum opt_id id)
{
	return o->given & id;
}

/* Takes ARGV apart; its strings are borrowed. UERR_USAGE. What was read until
 * the error is in RET, so that --json can be obeyed. */
struct uerr *opts_parse(int argc, char **argv, struct opts *ret) UERR_MUST_CHECK;
void opts_deinit(struct opts *o);

/* Refuses options that are not in ALLOWED, for command NAME. */
struct uerr *opts_check(const struct opts *o, u32 allowed, const char *name) UERR_MUST_CHECK;

/* Prints a line for each option in MASK. */
void opts_help(FILE *out, u32 mask);

/* "10s", "1.5ms": units ns us µs ms s m h. UERR_USAGE says that a unit is needed. */
struct uerr *duration_parse(const char *text, u64 *ret) UERR_MUST_CHECK;

/* Of NAMES (n) the one nearest to WORD if near enough to be meant, else NULL. */
const char *nearest_word(const char *word, const char *const *names, size_t n);

/* True if WORD is a command of the design that is not there yet. */
bool verb_is_planned(const char *word);
