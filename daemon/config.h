/* SPDX-License-Identifier: MIT */
/* What the command line says, and the places that follow from it. */
#pragma once
#include <stdbool.h>

#include "base/uerr.h"

struct config {
	char *socket;      /* path */
	char *state_dir;   /* journals in state_dir/targets */
	char *cache_dir;   /* scans of text, by build-id */
	bool private_;     /* ends when nobody needs it */
	bool keep;         /* probes stay when it stops */
	bool verbose;
	bool show_help, show_version;
};

/* Parses the command line; UERR_USAGE. */
struct uerr *config_parse(struct config *c, int argc, char **argv) UERR_MUST_CHECK;

/* Makes the folders. */
struct uerr *config_make_dirs(struct config *c) UERR_MUST_CHECK;

void config_deinit(struct config *c);

extern const char config_help[];
