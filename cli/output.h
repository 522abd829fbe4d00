/* SPDX-License-Identifier: MIT */
/*
 * How things look: numbers, durations, tables, bars, errors. Names come from
 * targets and files, so control characters never reach the terminal.
 */
#pragma once
#include <cjson/cJSON.h>
#include <stdio.h>
#include <time.h>

#include "base/types.h"
#include "base/uerr.h"
#include "base/vec.h"

/* What the terminal can do. Call once; tests set the fields. */
struct output_style {
	bool utf8;  /* µ, … and bars */
};
extern struct output_style output_style;
void output_init(void);

/* Formats into BUF, which is returned. */
#define NUMBER_MAX 40
typedef char number_buf[NUMBER_MAX];
char *number_format(u64 v, number_buf buf);      /* 3,251 */
char *duration_format(u64 ns, number_buf buf);   /* 880 ns, 3.4 µs, 412 µs, 4.1 ms, 10 s, 3 min 20 s */
char *stop_format(u64 ns, number_buf buf);       /* 0.6 ms: in milliseconds always */
char *power_format(unsigned power, number_buf buf); /* 2^power ns: 512 ns, 1 µs (1,024 ns), 64 µs */
char *bytes_format(u64 n, number_buf buf);       /* 312 bytes, 4.0 KiB, 6.1 MiB */
char *time_format(const struct timespec *wall, number_buf buf); /* 2026-11-24T14:15:02.114380Z */

/* "1 function", "3,251 functions" */
char *count_format(u64 n, const char *singular, const char *plural, number_buf buf);

/* Prints VALUE of MAX as a bar of at most 40 columns; in ASCII with its frame. */
void bar_print(FILE *out, u64 value, u64 max);

/* A table: cells row by row, printed when all widths are known. ALIGN has a
 * letter a column, l or r. The first row is the header. */
struct table {
	const char *align;
	VEC(char *) cells;
	bool failed; /* out of memory */
};
void table_cell(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void table_number(struct table *t, u64 v);
void table_print(struct table *t, FILE *out); /* and frees the cells */

/* Columns that TEXT takes: characters, not bytes. */
int text_width(const char *text);

/* Replaces control characters in TEXT, in place; returns it. Newlines stay. */
char *text_clean(char *text);

/* A line on stderr, unless QUIET. "…" and "µ" become ASCII where needed. */
void progress(bool quiet, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Prints FMT to OUT, in ASCII where the locale is not UTF-8. */
void out_printf(FILE *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* An error on stderr: its line, what is near, AFTERMATH (a sentence, or NULL),
 * an excerpt of its log (all of it when VERBOSE). EXIT is the status; with JSON
 * an object goes to stdout too. */
void error_print(const struct uerr *err, int exit, const char *aftermath, bool json, bool verbose);

/* Exact integers in JSON; takes none of the memory. */
void json_add_u64(cJSON *obj, const char *name, u64 v);

/* JSON text of OBJ in one line and a newline. */
void json_print(FILE *out, const cJSON *obj);

/* Fields of a reply; absent or of the wrong type: 0, "", an empty array. */
u64 json_u64(const cJSON *obj, const char *name);
const char *json_str(const cJSON *obj, const char *name);
bool json_bool(const cJSON *obj, const char *name);
const cJSON *json_list(const cJSON *obj, const char *name);
