/* SPDX-License-Identifier: MIT */
/*
 * The verifier's log, in the kernel's manner: each instruction with what it
 * changed. At level 1 only the path that led to the refusal stays: what was
 * written about paths that ended well is taken back when the next one is taken
 * up. Of a very long log the beginning is dropped.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm/disasm.h"
#include "vm/verify_internal.h"

#define LOG_MAX (1u << 20)
#define SCALAR_TEXT 400

void log_init(struct log_buf *l, u32 level)
{
	*l = (struct log_buf){ .level = level };
}

void log_deinit(struct log_buf *l)
{
	free(l->data);
	l->data = NULL;
}

u64 log_pos(const struct verifier *v)
{
	return v->log.dropped + v->log.len;
}

void log_reset(struct verifier *v, u64 pos)
{
	struct log_buf *l = &v->log;

	if (pos < l->dropped)
		l->len = 0;
	else if (pos - l->dropped < l->len)
		l->len = pos - l->dropped;
}

static bool make_room(struct log_buf *l, size_t n)
{
	size_t cap = l->cap ? l->cap : 4096;
	char *data;

	if (l->len + n > LOG_MAX && l->level < 2) {
		size_t drop = l->len / 2;

		memmove(l->data, l->data + drop, l->len - drop);
		l->len -= drop;
		l->dropped += drop;
	}
	while (cap < l->len + n)
		cap *= 2;
	if (cap == l->cap)
		return true;
	data = realloc(l->data, cap);
	if (!data)
		return false;
	l->data = data;
	l->cap = cap;
	return true;
}

void log_printf(struct verifier *v, const char *fmt, ...)
{
	struct log_buf *l = &v->log;
	char text[1024];
	va_list ap;
	int n;

	if (!l->level)
		return;
	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	if ((size_t)n >= sizeof(text))
		n = sizeof(text) - 1;
	if (!make_room(l, (size_t)n + 1)) {
		l->failed = true;
		return;
	}
	memcpy(l->data + l->len, text, (size_t)n + 1);
	l->len += (size_t)n;
}

const char *reg_type_name(const struct reg *r)
{
	bool null = r->flags & REG_MAYBE_NULL;

	switch (r->type) {
	case SCALAR:
		return "scalar";
	case PTR_CTX:
		return "ctx";
	case PTR_STACK:
		return "fp";
	case PTR_MAP:
		return "map_ptr";
	case PTR_MAP_VALUE:
		return null ? "map_value_or_null" : "map_value";
	case PTR_MEM:
		if (r->flags & REG_RINGBUF)
			return null ? "ringbuf_mem_or_null" : "ringbuf_mem";
		if (r->flags & REG_KEY)
			return "map_key";
		return null ? "mem_or_null" : "mem";
	case PTR_FUNC:
		return "func";
	case PTR_DYNPTR:
		return "dynptr_ptr";
	case PTR_OPAQUE:
		return null ? "ptr_or_null_" : "ptr_";
	}
	return "?";
}

/* As it stands in a register, or in the stack, of FRAME. */
static void reg_format(const struct verifier *v, const struct reg *r, u32 frame, char *ret, size_t size)
{
	char var[SCALAR_TEXT] = "", id[32] = "", more[96] = "", whose[8] = "";
	const struct umap *map;

	if (r->type == SCALAR && scalar_is_const(&r->var)) {
		snprintf(ret, size, "%lld", (long long)r->var.bits.value);
		return;
	}
	if (r->type == PTR_STACK && scalar_is_const(&r->var)) {
		if (r->frame != frame)
			snprintf(whose, sizeof(whose), "[%u]", r->frame);
		snprintf(ret, size, "fp%s%lld", whose, (long long)(r->off + (s64)r->var.bits.value));
		return;
	}
	if (!scalar_is_const(&r->var) || r->var.bits.value)
		scalar_format(&r->var, var, sizeof(var));
	if (r->id)
		snprintf(id, sizeof(id), "id=%u%s", r->id, var[0] ? "," : "");
	if (r->type == PTR_MAP || r->type == PTR_MAP_VALUE) {
		map = map_of(v, r);
		snprintf(more, sizeof(more), "%smap=%u,ks=%u,vs=%u", id[0] && !var[0] ? "," : "", map->id, map->key_size,
			 map->value_size);
	} else if (r->type == PTR_MEM) {
		snprintf(more, sizeof(more), "%ssz=%u", id[0] && !var[0] ? "," : "", r->mem_size);
	}
	if (is_pointer(r) && r->off)
		snprintf(more + strlen(more), sizeof(more) - strlen(more), "%soff=%d", more[0] || id[0] ? "," : "", r->off);
	snprintf(ret, size, "%s(%s%s%s%s)", reg_type_name(r), id, more, more[0] && var[0] ? "," : "", var);
}

static void log_slot(struct verifier *v, const struct frame *f, u32 frame, u32 i)
{
	static const char letters[] = { [SLOT_INVALID] = '?', [SLOT_SPILL] = 'r', [SLOT_MISC] = 'm', [SLOT_ZERO] = '0',
					[SLOT_DYNPTR] = 'd' };
	const struct slot *s = &f->slots[i];
	char text[SCALAR_TEXT + 128], bytes[9] = "";

	if (slot_is_spill(s) && s->byte[7] == SLOT_SPILL) {
		reg_format(v, &s->reg, frame, text, sizeof(text));
		log_printf(v, " fp-%u=%s", (i + 1) * 8, text);
		return;
	}
	for (u32 k = 0; k < 8; k++)
		bytes[k] = letters[s->byte[7 - k]];
	if (slot_is_spill(s)) {
		reg_format(v, &s->reg, frame, text, sizeof(text));
		log_printf(v, " fp-%u=%s(%s)", (i + 1) * 8, bytes, text);
		return;
	}
	log_printf(v, " fp-%u=%s", (i + 1) * 8, bytes);
}

static void log_frame(struct verifier *v, const struct state *st, u32 frame, bool all)
{
	static const u8 none[8];
	const struct frame *f = st->frames[frame];
	char text[SCALAR_TEXT + 128];

	if (frame && all)
		log_printf(v, " frame%u:", frame);
	for (u32 i = 0; i < NREGS; i++) {
		if (f->regs[i].type == NOT_INIT || !(all || v->touched_regs & 1u << i))
			continue;
		reg_format(v, &f->regs[i], frame, text, sizeof(text));
		log_printf(v, " R%u=%s", i, text);
	}
	for (u32 i = 0; i < f->nslots; i++)
		if ((all || v->touched_slots & 1ull << i) && memcmp(f->slots[i].byte, none, 8))
			log_slot(v, f, frame, i);
	for (u32 i = 0; all && i < st->nrefs; i++)
		log_printf(v, " refs=%u", st->refs[i].id);
}

void log_state(struct verifier *v, const struct state *st, bool all)
{
	log_frame(v, st, st->curframe, all);
}

void log_call(struct verifier *v)
{
	if (!v->log.level)
		return;
	log_printf(v, "\ncaller:\n");
	log_frame(v, v->cur, v->cur->curframe - 1, true);
	log_printf(v, "\ncallee:\n");
	log_frame(v, v->cur, v->cur->curframe, true);
}

void log_leaving(struct verifier *v)
{
	if (!v->log.level)
		return;
	log_printf(v, "\nreturning from callee:\n");
	log_state(v, v->cur, true);
}

void log_back(struct verifier *v, u32 at)
{
	if (!v->log.level)
		return;
	log_printf(v, "\nto caller at %u:\n", at);
	log_state(v, v->cur, true);
	v->touched_regs = 0;
}

void log_insn(struct verifier *v)
{
	const struct vm_prog *p = v->c->p;
	char line[DISASM_LINE];

	if (p->texts && p->texts[v->pc] && (v->pc == 0 || p->texts[v->pc - 1] != p->texts[v->pc]))
		log_printf(v, "; %s @ %s:%u\n", p->texts[v->pc], p->file ? p->file : "?", p->lines ? p->lines[v->pc] : 0);
	disasm_insn(p, v->pc, v->c->maps, v->c->nmaps, line);
	log_printf(v, "%u: %s", v->pc, line);
}

void log_from(struct verifier *v, u32 from, u32 to)
{
	log_printf(v, "\nfrom %u to %u:", from, to);
	log_state(v, v->cur, true);
	log_printf(v, "\n");
}
