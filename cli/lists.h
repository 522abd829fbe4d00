/* SPDX-License-Identifier: MIT */
/*
 * The nouns' list and show: a reply's list of objects as a table, by a table of
 * its columns.
 */
#pragma once
#include "cli/cli.h"

enum column_kind {
	COLUMN_TEXT,
	COLUMN_NUMBER,
	COLUMN_BYTES,
	COLUMN_TIME,    /* ns */
	COLUMN_LIST,    /* numbers or texts, joined */
	COLUMN_BOOLEAN, /* "yes" or nothing */
};

struct column {
	const char *title; /* NULL ends the list */
	const char *field;
	enum column_kind kind;
};

struct listing {
	const char *method, *field;  /* the call, and the list in its reply */
	const char *singular;        /* "program" */
	const char *schema;
	const struct column *columns;
};

/* bpfctl NOUN list */
struct uerr *listing_print(struct cli *cli, const struct listing *l) UERR_MUST_CHECK;

/* bpfctl NOUN show [ID|NAME]: line by line. */
struct uerr *listing_show(struct cli *cli, const struct listing *l) UERR_MUST_CHECK;

/* One object of such a list, a line a column. */
void listing_print_item(struct cli *cli, const struct listing *l, const cJSON *item);

/* Says how much memory the copies of the text at a reply's SITES take, if that is
 * worth a line (a MiB); TENSE is "take" or "would take". */
void warn_private_text(const cJSON *sites, const char *tense);
