/* SPDX-License-Identifier: MIT */
/*
 * The listing of compiled code: address, bytes, instruction (Zydis), and above
 * the code of each BPF instruction that instruction, as disasm_xlated() prints
 * it.
 */
#include <Zydis/Zydis.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vm/jit.h"

struct listing {
	FILE *out;
	const struct vm_prog *prog;
	char **lines; /* of the xlated listing, by instruction; NULL where there is none */
};

/* Points lines[i] at the line of instruction I in TEXT, which is cut into lines. */
static void index_lines(char *text, char **lines, u32 n)
{
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		char *end;
		unsigned long i = strtoul(line, &end, 10);

		if (*end == ':' && i < n)
			lines[i] = line;
	}
}

static void print_insn(FILE *out, addr_t addr, const u8 *code, size_t left, size_t *len)
{
	ZydisDisassembledInstruction insn;
	char hex[3 * 16 + 1] = "";

	*len = 1;
	insn.text[0] = 0;
	if (ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, addr, code, left, &insn)))
		*len = insn.info.length;
	for (size_t i = 0; i < *len; i++)
		sprintf(hex + 3 * i, "%02x ", code[i]);
	fprintf(out, "%#14lx:  %-33s%s\n", (unsigned long)addr, hex, insn.text[0] ? insn.text : "(bad)");
}

static void print_comments(const struct listing *l, const struct jit_output *o, u32 *next, size_t at)
{
	for (; *next < l->prog->ninsns && o->insn_off[*next] <= at; ++*next)
		if (l->lines[*next])
			fprintf(l->out, "; %s\n", l->lines[*next]);
}

char *disasm_jited(const struct vm_prog *prog, const struct jit_output *out, addr_t addr)
{
	cleanup_free char *xlated = disasm_xlated(prog, NULL, 0);
	cleanup_free char **lines = calloc(prog->ninsns + 1, sizeof(*lines));
	struct listing l = { .prog = prog, .lines = lines };
	char *text = NULL;
	size_t size, len;
	u32 next = 0;

	if (!xlated || !lines)
		return NULL;
	index_lines(xlated, lines, prog->ninsns);
	l.out = open_memstream(&text, &size);
	if (!l.out)
		return NULL;
	for (size_t at = 0; at < out->size; at += len) {
		print_comments(&l, out, &next, at);
		print_insn(l.out, addr + at, out->code + at, out->size - at, &len);
	}
	if (fclose(l.out)) {
		free(text);
		return NULL;
	}
	return text;
}
