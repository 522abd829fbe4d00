/* SPDX-License-Identifier: MIT */
/*
 * Functions of the program. A static one is followed into from each call, with
 * what the call passes. A global one (as BTF tells) is verified once on its own
 * with any arguments that its prototype allows, and a call of it is only checked
 * against that. A callback is followed from the helper's call any number of
 * times: after each it comes back to the call as if that were to be made again,
 * until nothing changes any more.
 */
#include <string.h>

#include "vm/btf_index.h"
#include "vm/verify_internal.h"

/* --- global functions: what BTF says --- */

enum param_kind { PARAM_BAD, PARAM_NUMBER, PARAM_CTX, PARAM_MEM };

struct param {
	u8 kind;
	u64 size;
};

static const struct btf_type *prototype(const struct verifier *v, u32 sub)
{
	const struct btf_index *btf = v->c->p->btf;
	const struct btf_type *t = btf ? btf_index_type(btf, v->subs[sub].type_id) : NULL;

	if (!t || BTF_INFO_KIND(t->info) != BTF_KIND_FUNC)
		return NULL;
	t = btf_index_type(btf, t->type);
	return t && BTF_INFO_KIND(t->info) == BTF_KIND_FUNC_PROTO ? t : NULL;
}

static bool is_number(const struct btf_type *t)
{
	u32 kind = t ? BTF_INFO_KIND(t->info) : 0;

	return kind == BTF_KIND_INT || kind == BTF_KIND_ENUM || kind == BTF_KIND_ENUM64;
}

static struct param param_of(const struct verifier *v, u32 type)
{
	const struct btf_index *btf = v->c->p->btf;
	const struct btf_type *t = btf_index_resolve(btf, type), *to;
	u64 size;

	if (is_number(t))
		return (struct param){ PARAM_NUMBER, 0 };
	if (!t || BTF_INFO_KIND(t->info) != BTF_KIND_PTR)
		return (struct param){ PARAM_BAD, 0 };
	to = btf_index_resolve(btf, t->type);
	if (to && BTF_INFO_KIND(to->info) == BTF_KIND_STRUCT &&
	    (!strcmp(btf_index_str(btf, to->name_off), "pt_regs") ||
	     !strcmp(btf_index_str(btf, to->name_off), "bpf_user_pt_regs_t")))
		return (struct param){ PARAM_CTX, 0 };
	size = btf_index_size(btf, t->type);
	return (struct param){ size && size < MAX_VAR_OFF ? PARAM_MEM : PARAM_BAD, size };
}

static struct uerr *refuse_global(struct verifier *v, u32 sub, const char *what)
{
	return v_refuse(v, v_text(v, "Global function %s() cannot be verified on its own", v->subs[sub].name),
			"make the function static", "function %s, which is not static, %s", v->subs[sub].name, what);
}

static u32 nparams(const struct btf_type *proto)
{
	return BTF_INFO_VLEN(proto->info);
}

static const struct btf_param *params(const struct btf_type *proto)
{
	return (const struct btf_param *)(proto + 1);
}

struct uerr *global_entry(struct verifier *v, u32 sub)
{
	const struct btf_type *proto = prototype(v, sub);

	if (nparams(proto) > 5)
		return refuse_global(v, sub, "has more than 5 arguments");
	if (!is_number(btf_index_resolve(v->c->p->btf, proto->type)))
		return refuse_global(v, sub, "does not return a number");
	for (u32 i = 0; i < nparams(proto); i++) {
		struct param p = param_of(v, params(proto)[i].type);
		struct reg *r = &v->regs[i + 1];

		switch (p.kind) {
		case PARAM_BAD:
			return refuse_global(v, sub, "has an argument that is neither number nor memory of known size");
		case PARAM_NUMBER:
			reg_unknown(r);
			break;
		case PARAM_CTX:
			*r = reg_pointer(PTR_CTX);
			break;
		case PARAM_MEM:
			*r = reg_pointer(PTR_MEM);
			r->flags = REG_MAYBE_NULL;
			r->id = ++v->last_id;
			r->mem_size = (u32)p.size;
			break;
		}
	}
	return NULL;
}

static struct uerr *global_arg(struct verifier *v, u32 reg, const struct param *p)
{
	struct mem_access a = { .reg = reg, .min = p->size, .max = p->size, .read = true, .write = true };
	struct reg *r = &v->regs[reg];
	struct uerr *err;
	u8 flags;

	if (r->type == NOT_INIT)
		return v_refuse(v, v_text(v, "R%u !read_ok", reg), "pass all arguments", "R%u is used before it has a value", reg);
	switch (p->kind) {
	case PARAM_NUMBER:
		if (r->type != SCALAR)
			return v_refuse(v, v_text(v, "R%u is not a scalar", reg), "pass a number",
					"R%u must be a number", reg);
		return NULL;
	case PARAM_CTX:
		if (r->type != PTR_CTX || r->off || !scalar_is_const(&r->var) || r->var.bits.value)
			return v_refuse(v, v_text(v, "R%u expects pointer to ctx", reg), "pass the program's own argument",
					"R%u is not ctx", reg);
		return NULL;
	}
	if (reg_is_null(r))
		return mark_precise(v, reg);
	flags = r->flags;
	if (is_pointer(r))
		r->flags &= ~REG_MAYBE_NULL;
	err = check_helper_mem(v, &a);
	v->regs[reg].flags = flags;
	return err;
}

static void clobber(struct verifier *v)
{
	for (u32 i = 0; i <= 5; i++)
		v->regs[i] = (struct reg){ 0 };
	v->touched_regs |= 1;
}

static struct uerr *call_global(struct verifier *v, u32 sub)
{
	const struct btf_type *proto = prototype(v, sub);

	if (v->cur->lock.held)
		return v_refuse(v, "global function calls are not allowed while holding a lock",
				"unlock it first, or make the function static",
				"a function is called while a lock is held");
	if (v->locks[sub]) {
		struct uerr *err = check_may_lock(v);

		if (err)
			return err;
	}
	for (u32 i = 0; i < nparams(proto) && i < 5; i++) {
		struct param p = param_of(v, params(proto)[i].type);
		struct uerr *err = p.kind == PARAM_BAD ? NULL : global_arg(v, i + 1, &p);

		if (err)
			return err;
	}
	v->called[sub] = true;
	clobber(v);
	reg_unknown(&v->regs[0]);
	return NULL;
}

/* --- static functions --- */

static struct frame *push_frame(struct verifier *v, struct state *st, u32 sub)
{
	struct frame *f = frame_new(v->pc, sub);

	if (!f) {
		v->err = uerr_nomem();
		return NULL;
	}
	st->frames[++st->curframe] = f;
	st->written[st->curframe] = 0;
	f->nrefs_at_entry = st->nrefs;
	f->regs[BPF_REG_10] = reg_pointer(PTR_STACK);
	f->regs[BPF_REG_10].frame = st->curframe;
	return f;
}

static struct uerr *check_depth(struct verifier *v)
{
	if (v->cur->curframe + 1 < INSN_MAX_FRAMES)
		return NULL;
	return v_refuse(v, v_text(v, "the call stack of %u frames is too deep", INSN_MAX_FRAMES), "inline some of the functions",
			"more than %u functions deep", INSN_MAX_FRAMES);
}

struct uerr *do_call(struct verifier *v, const struct bpf_insn *insn)
{
	u32 target = v->pc + 1 + (u32)insn->imm, sub = v->c->sub_of[target];
	struct frame *callee;
	struct uerr *err;

	if (v->subs[sub].global && prototype(v, sub))
		return call_global(v, sub);
	err = check_depth(v);
	if (err)
		return err;
	callee = push_frame(v, v->cur, sub);
	if (!callee)
		return v->err;
	memcpy(&callee->regs[1], &v->regs[1], 5 * sizeof(callee->regs[0]));
	clobber(v);
	v->touched_regs = 0;
	history_note(v, HIST_ENTER);
	log_call(v);
	v->next = target;
	return NULL;
}

static struct uerr *exit_static(struct verifier *v)
{
	const struct reg *r0 = &v->regs[0];
	struct reg result = *r0;
	u32 callsite = v->f->callsite;

	if (r0->type == PTR_STACK)
		return v_refuse(v, "cannot return stack pointer to the caller",
				"return a number, or take the address as an argument", "a function returns an address of a stack");
	log_leaving(v);
	state_drop_frame(v, v->cur);
	if (!v_own_frame(v))
		return v->err;
	v->regs[0] = result;
	log_back(v, callsite + 1);
	v->next = callsite + 1;
	return NULL;
}

static struct uerr *exit_callback(struct verifier *v)
{
	const struct reg *r0 = &v->regs[0];
	u32 callsite = v->f->callsite;
	struct uerr *err;

	if (r0->type != SCALAR)
		return v_refuse(v, "At callback return the register R0 is not a scalar value", "return 0 to go on, 1 to stop",
				"a callback returns no number");
	err = mark_precise(v, 0);
	if (err)
		return err;
	if (r0->var.umax > 1)
		return v_refuse(v, "At callback return the register R0 should have been in [0, 1]", "return 0 to go on, 1 to stop",
				"a callback returns other than 0 or 1");
	if (v->cur->nrefs > v->f->nrefs_at_entry)
		return check_refs(v);
	if (v->cur->nrefs < v->f->nrefs_at_entry)
		return v_refuse(v, "reference has not been acquired in the callback", "give it back after the call",
				"a callback gives back what its caller reserved");
	if (v->cur->lock.held)
		return v_refuse(v, "bpf_spin_lock is held at the end of a callback", "unlock it first",
				"a callback returns while a lock is held");
	log_leaving(v);
	state_drop_frame(v, v->cur);
	history_note(v, HIST_CALLBACK);
	v->next = callsite;
	state_widen(v, callsite);
	if (v_own_frame(v))
		log_back(v, callsite);
	return v->err;
}

bool returns_number(const struct verifier *v, u32 sub)
{
	const struct btf_type *proto = prototype(v, sub);

	return proto && is_number(btf_index_resolve(v->c->p->btf, proto->type));
}

struct uerr *leave_by_tail_call(struct verifier *v)
{
	struct frame *caller;
	struct state *st;

	if (!v->cur->curframe) /* and with it the program */
		return NULL;
	if (v->f->callback)
		return v_refuse(v, "At callback return the register R0 should have been in [0, 1]",
				"call a static function",
				"a tail call in a callback, which then returns anything,");
	st = state_push_as(v, v->f->callsite + 1, HIST_LEAVE);
	if (!st)
		return v->err;
	state_drop_frame(v, st);
	caller = state_frame(v, st, st->curframe);
	if (!caller)
		return v->err;
	reg_unknown(&caller->regs[0]);
	return v_own_frame(v) ? NULL : v->err;
}

struct uerr *do_exit(struct verifier *v)
{
	const struct reg *r0 = &v->regs[0];
	struct uerr *err;

	if (v->cur->curframe && !v->f->callback)
		return exit_static(v);
	if (!v->cur->curframe) {
		err = check_refs(v);
		if (err)
			return err;
	}
	if (r0->type == NOT_INIT)
		return v_refuse(v, "R0 !read_ok", "return 0;", "R0 is used before it has a value");
	if (v->cur->curframe)
		return exit_callback(v);
	if (v->cur->lock.held)
		return v_refuse(v, "BPF_EXIT instruction cannot be used inside bpf_spin_lock-ed region", "unlock it first",
				"the program ends while a lock is held");
	if (v->in_global && r0->type != SCALAR)
		return v_refuse(v, v_text(v, "At subprogram exit the register R0 is not a scalar value (%s)", reg_type_name(r0)),
				"return a number", "a function that is not static returns an address");
	v->ended = true;
	return NULL;
}

/* --- callbacks --- */

static void callback_args(struct verifier *v, u32 helper, struct frame *callee, const struct reg *args)
{
	const struct umap *map = args[1].type == PTR_MAP ? map_of(v, &args[1]) : NULL;

	if (helper == BPF_FUNC_loop) {
		reg_unknown(&callee->regs[1]);
		callee->regs[2] = args[3];
		return;
	}
	if (helper == BPF_FUNC_user_ringbuf_drain) {
		callee->regs[1] = reg_pointer(PTR_DYNPTR);
		callee->regs[1].id = ++v->last_id;
		callee->regs[2] = args[3];
		return;
	}
	/* for_each_map_elem */
	callee->regs[1] = args[1];
	callee->regs[2] = reg_pointer(PTR_MEM);
	callee->regs[2].flags = REG_RDONLY | REG_KEY;
	callee->regs[2].mem_size = map->key_size;
	callee->regs[3] = reg_pointer(PTR_MAP_VALUE);
	callee->regs[3].map = args[1].map;
	if (v->traits[args[1].map].lock_off >= 0)
		callee->regs[3].id = ++v->last_id;
	callee->regs[4] = args[3];
}

struct uerr *enter_callback(struct verifier *v, u32 helper)
{
	u32 start = (u32)v->regs[2].off;
	struct frame *callee, *caller;
	struct uerr *err = check_depth(v);
	struct state *st;

	if (!err && helper == BPF_FUNC_loop)
		err = mark_precise(v, 1);
	if (err)
		return err;
	if (helper == BPF_FUNC_loop && v->f->callbacks_run >= v->regs[1].var.umax) {
		v->f->callbacks_run = 0;
		return NULL;
	}
	st = state_push_as(v, start, HIST_ENTER | HIST_CALLBACK);
	if (!st)
		return v->err;
	caller = state_frame(v, st, st->curframe);
	if (!caller)
		return v->err;
	caller->callbacks_run++;
	callee = push_frame(v, st, v->c->sub_of[start]);
	if (!callee)
		return v->err;
	callee->callback = true;
	callback_args(v, helper, callee, caller->regs);
	if (!v_own_frame(v))
		return v->err;
	v->f->callbacks_run = 0;
	return NULL;
}
