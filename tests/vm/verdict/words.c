/* SPDX-License-Identifier: MIT */
/*
 * In which words our verifier refuses: a line for every program of the tables
 * that it does refuse, with the instruction, the rule for a person, the rule as the
 * log has it, and what to do. They stand in refusals.txt, against which each run is held,
 * so that neither a wrong instruction nor a wrong reason passes unseen. After a
 * change that is meant: verdict -W FILE, and the difference is read.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tests/vm/verdict/verdict.h"

#define PREFIX "program verdict is not safe: "
#define INSN "          insn "
#define TRY "  try:    "

static char *said;
static size_t said_size;
static FILE *out;

void words_init(void)
{
	out = open_memstream(&said, &said_size);
	if (!out)
		exit(1);
}

void words_deinit(void)
{
	fclose(out);
	free(said);
}

/* LOG: "PREFIX what at instruction N", then, in lines of their own, "INSN N: the
 * instruction: rule" and "TRY what to do". */
bool words_add(const struct program *p, const char *log)
{
	const char *line = log ? strchrnul(log, '\n') : "", *insn = strstr(line, "\n" INSN), *at = NULL, *rule, *try;
	char number[16];
	int len;

	for (const char *s = log; s && (s = strstr(s, " at instruction ")) && s < line; s++)
		at = s;
	if (!at || !insn || strncmp(log, PREFIX, strlen(PREFIX)))
		return false;
	len = snprintf(number, sizeof(number), "%u: ", (u32)strtoul(at + strlen(" at instruction "), NULL, 10));
	insn += 1 + strlen(INSN);
	if (strncmp(insn, number, (size_t)len))
		return false;
	rule = strchrnul(insn, '\n');
	if (strncmp(rule, "\n" TRY, 1 + strlen(TRY)))
		return false;
	try = rule + 1 + strlen(TRY);
	fprintf(out, "%s/%s%s: %.*s: %.*s: try: %.*s\n", p->theme, p->name, p->bad ? " (bad)" : "",
		(int)(at - log - (s64)strlen(PREFIX)), log + strlen(PREFIX), (int)(rule - insn), insn,
		(int)strcspn(try, "\n"), try);
	return true;
}

bool words_write(const char *path)
{
	FILE *f = fopen(path, "w");
	bool ok;

	fflush(out);
	if (!f)
		return false;
	ok = fputs(said, f) >= 0;
	return !fclose(f) && ok;
}

u32 words_compare(const char *path)
{
	cleanup_fclose FILE *f = fopen(path, "r");
	cleanup_free char *line = NULL;
	const char *now = NULL;
	size_t cap = 0;
	u32 differ = 0;

	fflush(out);
	if (!f) {
		printf("# %s cannot be read\n", path);
		return 1;
	}
	for (now = said; getline(&line, &cap, f) > 0 || *now;) {
		const char *end = strchrnul(now, '\n');

		line[strcspn(line, "\n")] = 0;
		if (strlen(line) != (size_t)(end - now) || strncmp(line, now, (size_t)(end - now))) {
			printf("# recorded: %s\n# now:      %.*s\n", line, (int)(end - now), now);
			differ++;
		}
		*line = 0;
		now = *end ? end + 1 : end;
	}
	return differ;
}
