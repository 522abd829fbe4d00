/* SPDX-License-Identifier: MIT */
/*
 * What the commands of bpfctl share: the command table's row, and what a
 * command gets to work with. main.c calls; each cmd_*.c holds one verb or noun.
 */
#pragma once
#include <cjson/cJSON.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/types.h"
#include "base/uerr.h"
#include "cli/opts.h"

struct cli {
	struct opts *o;
	FILE *out;       /* results: stdout, -o FILE, or stderr when stdout is CMD's */
	int status;      /* exit status when no error is returned */
	int fail_status; /* exit status of an error; 0: the error's own code */
	bool exec_failed; /* CMD itself could not be run */
	const char *aftermath; /* sentence to add to an error, or NULL */
};

struct cmd {
	const char *noun; /* "prog" of "prog list", or NULL */
	const char *name;
	const char *args; /* for help */
	const char *help; /* one line */
	u32 opts;         /* options that it takes beside OPTS_EVERYWHERE */
	unsigned min_args, max_args;
	struct uerr *(*run)(struct cli *cli);
};

extern const struct cmd commands[];
extern const size_t ncommands;

/* cJSON with the failure to allocate and what is absent taken care of. */
static inline void cleanup_jsonp(cJSON **j)
{
	cJSON_Delete(*j);
}
#define cleanup_json cleanup(cleanup_jsonp)

/* Prints REPLY as a document of SCHEMA (which is added to it). */
void reply_print(struct cli *cli, cJSON *reply, const char *schema);

/* Connects, calls METHOD, and is done. PARAMS is taken. */
struct uerr *call_once(struct cli *cli, const char *method, cJSON *params, cJSON **ret) UERR_MUST_CHECK;

/* {NAME: VALUE} */
cJSON *params_of(const char *name, const char *value);

struct uerr *cmd_status(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_doctor(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_load(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_unload(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_attach(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_detach(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_prog_list(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_prog_show(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_prog_dump(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_prog_tracelog(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_map_list(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_map_show(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_map_dump(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_map_lookup(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_map_update(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_map_delete(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_map_pop(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_map_freeze(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_map_tail(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_link_list(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_link_show(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_target_list(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_target_show(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_symbols(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_count(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_latency(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_stacks(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_call(struct cli *cli) UERR_MUST_CHECK;
struct uerr *cmd_help(struct cli *cli) UERR_MUST_CHECK;
