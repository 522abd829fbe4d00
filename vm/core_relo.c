/* SPDX-License-Identifier: MIT */
/*
 * CO-RE relocation. libbpf has one, but in the mode in which it does not talk to
 * the kernel (object.c) it leaves these relocations to the kernel that would load
 * the program. So here is what we need of it; the rules are those of libbpf's
 * relo_core.c.
 *
 * A record says: this instruction holds a fact (an offset, a size, whether it
 * exists, …) about the type LOCAL.type_id, or about what the access string
 * "0:1:2" leads to inside of it. Types of the same name ("___flavour" dropped)
 * are looked up in the target BTF; the access is followed there by member
 * *names*; the fact as the target has it replaces the one in the instruction.
 */
#include "vm/core_relo.h"

#include <stdlib.h>
#include <string.h>

#include "vm/btf_value.h"
#include "vm/opcodes.h"

enum relo_kind {
	FIELD_BYTE_OFFSET, FIELD_BYTE_SIZE, FIELD_EXISTS, FIELD_SIGNED, FIELD_LSHIFT, FIELD_RSHIFT,
	TYPE_ID_LOCAL, TYPE_ID_TARGET, TYPE_EXISTS, TYPE_SIZE, ENUMVAL_EXISTS, ENUMVAL_VALUE, TYPE_MATCHES,
};

#define MAX_ACCESS 64

/* One step of an access: a member by name, or an element by number. */
struct step {
	const char *name; /* NULL: element */
	u32 index;
};

/* Where an access leads. */
struct place {
	u32 type;        /* of what is there */
	u64 bit_off;
	u32 bits;        /* of a bit-field, else 0 */
};

/* The access as the program's own types have it. */
struct access {
	struct step steps[MAX_ACCESS];
	u32 n;
	struct place place;
	const char *enum_name;
	u64 enum_value;
};

static bool is_composite(const struct btf_type *t)
{
	return t && (type_kind(t) == BTF_KIND_STRUCT || type_kind(t) == BTF_KIND_UNION);
}

static bool is_enum(const struct btf_type *t)
{
	return t && (type_kind(t) == BTF_KIND_ENUM || type_kind(t) == BTF_KIND_ENUM64);
}

/* Length of a name without its ___flavour. */
static size_t essential_len(const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 1; i + 4 <= n; i++)
		if (!strncmp(name + i, "___", 3) && name[i - 1] != '_' && name[i + 3] != '_')
			return i;
	return n;
}

/* --- the program's own access --- */

static struct uerr *broken(const char *what)
{
	return uerr_new(UERR_FAILED, "a CO-RE relocation with %s", what);
}

static bool enum_get(const struct btf_index *ix, const struct btf_type *t, u32 i, const char **name, u64 *value)
{
	const struct btf_enum *e = (const struct btf_enum *)(t + 1) + i;
	const struct btf_enum64 *e64 = (const struct btf_enum64 *)(t + 1) + i;

	if (i >= type_count(t))
		return false;
	if (type_kind(t) == BTF_KIND_ENUM64) {
		*name = btf_index_str(ix, e64->name_off);
		*value = (u64)e64->val_hi32 << 32 | e64->val_lo32;
	} else {
		*name = btf_index_str(ix, e->name_off);
		*value = BTF_INFO_KFLAG(t->info) ? (u64)(s64)e->val : (u32)e->val;
	}
	return true;
}

/* Goes one step further from A->place by member or element INDEX. */
static bool local_step(const struct btf_index *ix, struct access *a, u32 index)
{
	const struct btf_type *t = btf_index_resolve(ix, a->place.type);
	struct step *s = &a->steps[a->n++];

	s->index = index;
	if (is_composite(t)) {
		struct btf_field f;

		if (index >= type_count(t))
			return false;
		f = btf_field_get(ix, t, index);
		s->name = f.name;
		a->place.type = f.type;
		a->place.bit_off += f.bit_off;
		a->place.bits = f.bits;
		if (!*f.name) /* members of anonymous ones are found by their own names */
			a->n--;
		return true;
	}
	if (!t || type_kind(t) != BTF_KIND_ARRAY)
		return false;
	a->place.type = ((const struct btf_array *)(t + 1))->type;
	a->place.bit_off += index * btf_index_size(ix, a->place.type) * 8;
	return true;
}

/* Parses "0:1:2": the first number is an element of an array of the type. */
static struct uerr *access_parse(const struct btf_index *ix, const struct core_relo *relo, struct access *ret)
{
	const char *s = btf_index_str(ix, relo->access_str_off);
	bool first = true;

	memset(ret, 0, sizeof(*ret));
	ret->place.type = relo->type_id;
	if (relo->kind >= TYPE_ID_LOCAL && relo->kind != ENUMVAL_EXISTS && relo->kind != ENUMVAL_VALUE)
		return NULL;
	while (*s) {
		char *end;
		unsigned long index = strtoul(s, &end, 10);

		if (end == s || (*end && *end != ':') || ret->n >= MAX_ACCESS - 1 || index > UINT32_MAX)
			return broken("a strange access");
		s = *end ? end + 1 : end;
		if (relo->kind == ENUMVAL_EXISTS || relo->kind == ENUMVAL_VALUE) {
			const struct btf_type *t = btf_index_resolve(ix, relo->type_id);

			if (!is_enum(t) || !enum_get(ix, t, index, &ret->enum_name, &ret->enum_value))
				return broken("a strange enum");
			return NULL;
		}
		if (first) {
			ret->steps[ret->n++] = (struct step){ NULL, index };
			ret->place.bit_off = index * btf_index_size(ix, relo->type_id) * 8;
		} else if (!local_step(ix, ret, index)) {
			return broken("an access outside of its type");
		}
		first = false;
	}
	return first ? broken("no access") : NULL;
}

/* --- the same in the target --- */

static bool fields_compatible(const struct btf_index *li, u32 lid, const struct btf_index *ti, u32 tid)
{
	for (int depth = 0; depth < BTF_MAX_DEPTH; depth++) {
		const struct btf_type *l = btf_index_resolve(li, lid), *t = btf_index_resolve(ti, tid);

		if (!l || !t)
			return false;
		if (is_composite(l) && is_composite(t))
			return true;
		if (is_enum(l) && is_enum(t))
			return true;
		if (type_kind(l) != type_kind(t))
			return false;
		if (type_kind(l) != BTF_KIND_ARRAY)
			return true;
		lid = ((const struct btf_array *)(l + 1))->type;
		tid = ((const struct btf_array *)(t + 1))->type;
	}
	return false;
}

static bool member_find(const struct btf_index *ix, const struct btf_type *t, const char *name, u64 off, int depth,
			u32 *budget, struct place *ret)
{
	for (u32 i = 0; depth < BTF_MAX_DEPTH && i < type_count(t) && *budget; i++) {
		struct btf_field f = btf_field_get(ix, t, i);
		const struct btf_type *inner;

		(*budget)--;
		if (*f.name && !strcmp(f.name, name)) {
			*ret = (struct place){ f.type, off + f.bit_off, f.bits };
			return true;
		}
		inner = *f.name ? NULL : btf_index_resolve(ix, f.type);
		if (is_composite(inner) && member_find(ix, inner, name, off + f.bit_off, depth + 1, budget, ret))
			return true;
	}
	return false;
}

/* Follows A from the type CAND of the target; false when it is not there. */
static bool access_follow(const struct btf_index *ix, const struct access *a, u32 cand, struct place *ret)
{
	u32 budget = 1u << 16;

	*ret = (struct place){ .type = cand };
	for (u32 i = 0; i < a->n; i++) {
		const struct btf_type *t = btf_index_resolve(ix, ret->type);
		const struct btf_array *array;

		if (!i) {
			ret->bit_off = a->steps[0].index * btf_index_size(ix, cand) * 8;
			continue;
		}
		if (!t)
			return false;
		if (a->steps[i].name) {
			if (!is_composite(t) || !member_find(ix, t, a->steps[i].name, ret->bit_off, 0, &budget, ret))
				return false;
			continue;
		}
		array = (const struct btf_array *)(t + 1);
		if (type_kind(t) != BTF_KIND_ARRAY || (array->nelems && a->steps[i].index >= array->nelems))
			return false;
		ret->type = array->type;
		ret->bits = 0;
		ret->bit_off += a->steps[i].index * btf_index_size(ix, array->type) * 8;
	}
	return true;
}

/* --- facts --- */

struct fact {
	u64 value;
	u32 size;     /* of the field, where the access to it may have to change width */
	bool pointer, is_signed;
	bool loose;   /* of a bit-field: compilers choose its bytes differently */
};

/* The bytes that a load of the bit-field at P takes. */
static void bit_field_bytes(const struct btf_index *ix, const struct place *p, u64 *off, u64 *size)
{
	*size = btf_index_size(ix, p->type);
	if (!*size || *size > 8)
		*size = 8;
	*off = p->bit_off / 8 / *size * *size;
	while (p->bit_off + p->bits - *off * 8 > *size * 8 && *size < 8) {
		*size *= 2;
		*off = p->bit_off / 8 / *size * *size;
	}
}

static bool field_signed(const struct btf_type *t)
{
	if (is_enum(t))
		return BTF_INFO_KFLAG(t->info);
	return type_kind(t) == BTF_KIND_INT && BTF_INT_ENCODING(((const u32 *)(t + 1))[0]) & BTF_INT_SIGNED;
}

/* The fact KIND about the field at P; false when there is none. */
static bool field_fact(const struct btf_index *ix, u32 kind, const struct place *p, struct fact *ret)
{
	const struct btf_type *t = btf_index_resolve(ix, p->type);
	u64 off = p->bit_off / 8, size = btf_index_size(ix, p->type);

	memset(ret, 0, sizeof(*ret));
	if (!t)
		return false;
	if (p->bits)
		bit_field_bytes(ix, p, &off, &size);
	ret->is_signed = field_signed(t);
	ret->pointer = type_kind(t) == BTF_KIND_PTR;
	ret->loose = p->bits;
	switch (kind) {
	case FIELD_BYTE_OFFSET:
		ret->value = off;
		ret->size = p->bits ? 0 : size;
		return true;
	case FIELD_BYTE_SIZE:
		ret->value = size;
		return true;
	case FIELD_EXISTS:
		ret->value = 1;
		return true;
	case FIELD_SIGNED:
		ret->value = ret->is_signed;
		return true;
	case FIELD_LSHIFT:
		ret->value = 64 - (p->bits ? p->bits : size * 8) - (p->bits ? p->bit_off - off * 8 : 0);
		return true;
	case FIELD_RSHIFT:
		ret->value = 64 - (p->bits ? p->bits : size * 8);
		return true;
	}
	return false;
}

/* The fact in candidate CAND of the target; false: not of this candidate. */
static bool target_fact(const struct btf_index *li, const struct btf_index *ti, const struct core_relo *relo,
			const struct access *a, u32 cand, struct fact *ret)
{
	const struct btf_type *t = btf_index_resolve(ti, cand);
	struct place place;
	const char *name;

	memset(ret, 0, sizeof(*ret));
	switch (relo->kind) {
	case TYPE_ID_TARGET:
		ret->value = cand;
		return true;
	case TYPE_EXISTS:
		ret->value = 1;
		return true;
	case TYPE_SIZE:
		ret->value = btf_index_size(ti, cand);
		return true;
	case ENUMVAL_EXISTS:
	case ENUMVAL_VALUE:
		for (u32 i = 0; is_enum(t) && enum_get(ti, t, i, &name, &ret->value); i++) {
			size_t n = essential_len(a->enum_name);

			if (essential_len(name) != n || strncmp(name, a->enum_name, n))
				continue;
			if (relo->kind == ENUMVAL_EXISTS)
				ret->value = 1;
			return true;
		}
		return false;
	}
	return access_follow(ti, a, cand, &place) && fields_compatible(li, a->place.type, ti, place.type) &&
	       field_fact(ti, relo->kind, &place, ret);
}

static bool kinds_compatible(const struct btf_type *l, const struct btf_type *t)
{
	return type_kind(l) == type_kind(t) || (is_enum(l) && is_enum(t));
}

enum found { FOUND_NONE, FOUND_ONE, FOUND_AMBIGUOUS };

static enum found target_find(const struct btf_index *li, const struct btf_index *ti, const struct core_relo *relo,
			      const struct access *a, struct fact *ret)
{
	const struct btf_type *l = btf_index_type(li, relo->type_id);
	const char *name = l ? btf_index_str(li, l->name_off) : "";
	size_t n = essential_len(name);
	enum found found = FOUND_NONE;

	for (u32 id = 1; l && *name && id <= ti->ntypes; id++) {
		const struct btf_type *t = btf_index_type(ti, id);
		const char *t_name = btf_index_str(ti, t->name_off);
		struct fact fact;

		if (!kinds_compatible(l, t) || strncmp(t_name, name, n) || essential_len(t_name) != n)
			continue;
		if (!target_fact(li, ti, relo, a, id, &fact))
			continue;
		if (found == FOUND_ONE && relo->kind != TYPE_ID_TARGET && fact.value != ret->value)
			return FOUND_AMBIGUOUS;
		if (found == FOUND_NONE)
			*ret = fact;
		found = FOUND_ONE;
	}
	return found;
}

/* --- into the instruction --- */

static void poison(struct vm_prog *p, u32 at)
{
	u32 slots = p->insns[at].code == (BPF_LD | BPF_IMM | BPF_DW) && at + 1 < p->ninsns ? 2 : 1;

	for (u32 i = at; i < at + slots; i++)
		p->insns[i] = (struct bpf_insn){ .code = BPF_JMP | BPF_CALL, .imm = CORE_POISON };
}

/* A field that is wider or narrower in the target is loaded as such. */
static bool adjust_width(struct bpf_insn *insn, const struct fact *local, const struct fact *target)
{
	u8 size;

	if (!local->size || !target->size || local->size == target->size)
		return true;
	if (!(local->pointer && target->pointer) && (local->is_signed || target->is_signed))
		return false;
	switch (target->size) {
	case 1:
		size = BPF_B;
		break;
	case 2:
		size = BPF_H;
		break;
	case 4:
		size = BPF_W;
		break;
	case 8:
		size = BPF_DW;
		break;
	default:
		return false;
	}
	insn->code = (insn->code & ~0x18) | size;
	return true;
}

static struct uerr *patch(struct vm_prog *p, u32 at, const struct fact *local, const struct fact *target)
{
	struct bpf_insn *insn = &p->insns[at];

	switch (BPF_CLASS(insn->code)) {
	case BPF_ALU:
	case BPF_ALU64:
		if (BPF_SRC(insn->code) != BPF_K || (!local->loose && (u32)insn->imm != (u32)local->value))
			return broken("another instruction than it says");
		insn->imm = target->value;
		return NULL;
	case BPF_LDX:
	case BPF_ST:
	case BPF_STX:
		if ((!local->loose && (u64)insn->off != local->value) || target->value > INT16_MAX)
			return broken("another offset than it says");
		insn->off = target->value;
		if (!adjust_width(insn, local, target))
			poison(p, at);
		return NULL;
	case BPF_LD:
		if (insn->code != (BPF_LD | BPF_IMM | BPF_DW) || at + 1 >= p->ninsns || insn_imm64(insn) != local->value)
			return broken("another constant than it says");
		insn[0].imm = target->value;
		insn[1].imm = target->value >> 32;
		return NULL;
	}
	return broken("an instruction that holds no number");
}

static bool local_fact(const struct btf_index *ix, const struct core_relo *relo, const struct access *a, struct fact *ret)
{
	memset(ret, 0, sizeof(*ret));
	switch (relo->kind) {
	case TYPE_ID_LOCAL:
	case TYPE_ID_TARGET:
		ret->value = relo->type_id;
		return true;
	case TYPE_EXISTS:
	case TYPE_MATCHES:
	case ENUMVAL_EXISTS:
		ret->value = 1;
		return true;
	case TYPE_SIZE:
		ret->value = btf_index_size(ix, relo->type_id);
		return true;
	case ENUMVAL_VALUE:
		ret->value = a->enum_value;
		return true;
	}
	return field_fact(ix, relo->kind, &a->place, ret);
}

struct uerr *core_relocate(const struct btf_index *li, const struct btf_index *ti, const struct core_relo *relo,
			   struct vm_prog *p, u32 at)
{
	struct fact local, target = { 0 };
	struct access a;
	struct uerr *err = access_parse(li, relo, &a);

	if (err)
		return err;
	if (relo->kind == TYPE_MATCHES)
		return uerr_new(UERR_REJECTED, "bpf_core_type_matches() is not there yet: use bpf_core_type_exists()");
	if (relo->kind == TYPE_ID_LOCAL)
		return NULL;
	if (!local_fact(li, relo, &a, &local))
		return broken("a kind that means nothing here");
	switch (target_find(li, ti, relo, &a, &target)) {
	case FOUND_ONE:
		return patch(p, at, &local, &target);
	case FOUND_AMBIGUOUS:
		return uerr_new(UERR_FAILED, "CO-RE: several types '%s' in the target differ",
				btf_index_str(li, btf_index_type(li, relo->type_id)->name_off));
	case FOUND_NONE:
		break;
	}
	if (relo->kind == FIELD_EXISTS || relo->kind == TYPE_EXISTS || relo->kind == TYPE_SIZE ||
	    relo->kind == ENUMVAL_EXISTS)
		return patch(p, at, &local, &target);
	poison(p, at);
	return NULL;
}
