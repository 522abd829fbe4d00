/* SPDX-License-Identifier: MIT */
/*
 * What the files of the verifier share. They follow the design of Linux'
 * kernel/bpf/verifier.c, so that who knows one finds their way in the other, but
 * are written anew:
 *
 *	verify.c           driver, main loop, what is told to others
 *	verify_state.c     states: copies, comparison, pruning
 *	verify_precision.c history, backtracking of what must be exact
 *	verify_mem.c       loads, stores, the stack
 *	verify_alu.c       arithmetic on registers
 *	verify_branch.c    conditional jumps
 *	verify_call.c      calls of helpers, and what they take and give
 *	verify_func.c      functions: static, global, callbacks
 *	verify_scalar.c    what is known of a number
 *	verify_log.c       the log
 *
 * A state is what registers and stack hold at one point of one path. Paths are
 * followed depth first; where a path comes to an instruction in a state that is
 * contained in one from which everything has been followed already, it ends.
 * What decides "contained":
 *	live       registers that nobody reads any more do not matter (known before,
 *	           from the code), nor stack slots that were not read on the paths
 *	           from the older state (marked there while following)
 *	precise    a number matters only if on some path from the older state it
 *	           decided something: a jump, an address, a size. Found out backwards
 *	           along the history of executed instructions (verify_precision.c)
 *
 * A state's frames are shared with its copies until one of them writes.
 */
#pragma once
#include <stdarg.h>

#include "vm/check_internal.h"
#include "vm/env.h"
#include "vm/helpers.h"
#include "vm/verify.h"
#include "vm/verify_scalar.h"

#define MAX_VAR_OFF (1 << 29) /* of a pointer, as in the kernel */
#define MAX_SLOTS (INSN_STACK_SIZE / 8)
#define MAX_REFS 32
#define MAX_BRANCHES 8192 /* that wait to be followed, as in the kernel */
#define NREGS 11

enum reg_type {
	NOT_INIT,
	SCALAR,
	PTR_CTX,
	PTR_STACK,
	PTR_MAP,       /* the map itself */
	PTR_MAP_VALUE,
	PTR_MEM,       /* mem_size bytes: ring buffer, argument of a global function, a map's key */
	PTR_FUNC,      /* a subprogram, for a callback; off = its first instruction */
	PTR_DYNPTR,    /* a dynptr that a callback is given: of no stack, always the same */
	PTR_OPAQUE,    /* an object of the kernel (VERIFY_ABSENT_HELPERS): may be passed on only */
};

enum reg_flags {
	REG_MAYBE_NULL = 1,
	REG_RINGBUF = 2,  /* PTR_MEM from ringbuf_reserve */
	REG_RDONLY = 4,   /* PTR_MEM that may not be written */
	REG_KEY = 8,      /* PTR_MEM: a map's key, given to a callback */
	REG_CUT = 16,     /* in a slot: only the lower part of the number was stored */
};

struct reg {
	u8 type;       /* enum reg_type */
	u8 flags;      /* enum reg_flags */
	u8 frame;      /* PTR_STACK: whose */
	u8 dynptr;     /* in a slot of a dynptr: enum dynptr_kind, DYNPTR_FIRST */
	u16 map;       /* PTR_MAP, PTR_MAP_VALUE */
	s32 off;       /* pointers: the constant part of the offset */
	u32 id;        /* copies have the same; 0 none */
	u32 ref;       /* what must be released, 0 none */
	u32 parent;    /* PTR_MEM from a dynptr: its id */
	u32 mem_size;
	struct scalar var; /* the number; pointers: the variable part of the offset */
};

enum slot_type {
	SLOT_INVALID, /* never written */
	SLOT_SPILL,   /* part of a register that was stored */
	SLOT_MISC,    /* something */
	SLOT_ZERO,
	SLOT_DYNPTR,
};

enum dynptr_kind { DYNPTR_NONE, DYNPTR_LOCAL, DYNPTR_RINGBUF, DYNPTR_KIND = 3, DYNPTR_FIRST = 4 };

/* Eight bytes of stack; byte[0] is the lowest. Of a spilled register the low
 * bytes are SLOT_SPILL, all eight of a pointer. */
struct slot {
	u8 byte[8];
	struct reg reg;
};

/* A function's registers and stack. slots[0] is [fp-8, fp). */
struct frame {
	u32 refs;      /* states that share it */
	u32 callsite;  /* of the caller */
	u16 subprog;
	bool callback; /* called by the helper at callsite */
	u8 nrefs_at_entry;
	u32 callbacks_run; /* how often the helper of this function's call in hand has called back */
	u32 call_id;       /* which call that is: another one each time the program comes to it */
	u32 nslots, cap;
	struct slot *slots;
	struct reg regs[NREGS];
};

struct state {
	struct state *parent; /* the newest checkpoint on the way here */
	struct state *next;   /* in the list of its instruction, or of those kept for their children */
	struct frame *frames[INSN_MAX_FRAMES];
	u8 curframe;
	u8 nrefs;
	bool exact;           /* its marks below are not complete: compare everything */
	bool stored;          /* a checkpoint */
	bool detached;        /* in no list of an instruction any more */
	u32 pc;               /* of a checkpoint */
	u32 history;          /* newest entry */
	u32 since;            /* entries since the parent */
	u32 branches;         /* of a checkpoint: paths below that are not yet followed */
	u32 hits, misses;
	struct {
		u32 id, at;
	} refs[MAX_REFS];
	struct {
		bool held;
		u16 map;
		u32 id;
	} lock;
	/* of a checkpoint, by frame: slots read, registers and slots that must be precise on the way
	 * from it; of the state in hand: slots written since its parent */
	u64 read[INSN_MAX_FRAMES], written[INSN_MAX_FRAMES], precise_slots[INSN_MAX_FRAMES];
	u16 precise_regs[INSN_MAX_FRAMES];
};

/* One executed instruction. */
struct history {
	u32 prev;
	u32 pc : 20;
	u32 what : 12; /* HIST_*, and for HIST_STACK frame << 6 | slot */
	u64 linked;  /* see verify_precision.c */
};
_Static_assert(INSN_MAX <= 1 << 20, "history.pc");
enum {
	HIST_STACK = 0x200,
	HIST_ENTER = 0x400,
	HIST_CALLBACK = 0x800,
	HIST_LEAVE = HIST_ENTER | HIST_STACK, /* a tail call out of a function */
};

struct pending {
	struct state *st;
	u32 pc, from;
	u64 log_pos;
};

struct log_buf {
	char *data;
	size_t len, cap;
	u64 dropped; /* bytes cut off in front */
	u32 level;
	bool failed;
};

enum load_from { LOAD_NOTHING, LOAD_CTX, LOAD_MEMORY };

/* What is collected of an instruction for its insn_fact. */
struct gathered {
	bool seen, call_seen;
	u8 loads_from;      /* enum load_from */
	bool elsewhere;     /* writes other memory than its own frame, on some path */
	bool own;           /* writes its own frame, on some path */
	/* of the frame of the function that it is in */
	u64 slots_read, slots_written;
	u64 slots_replaced; /* written whole on every path */
};

struct map_traits {
	s32 lock_off; /* of a bpf_spin_lock in the value, or -1 */
};

struct verifier {
	struct checker *c; /* the program, decoded */
	u32 n;
	const struct bpf_insn *insns;
	u32 flags;         /* enum verify_flags */
	u32 max_insns;
	struct log_buf log;

	struct state *cur;
	struct frame *f;   /* of CUR, for writing */
	struct reg *regs;  /* of F */
	u32 pc, next;      /* the instruction in hand, the one after it */
	u32 prev_pc;
	bool ended;        /* this path does */
	struct uerr *err;  /* of helpers that cannot say it otherwise */

	struct pending *pending;
	u32 npending, pending_cap;
	struct state **explored; /* by instruction: checkpoints */
	struct state *kept;      /* out of the lists, but with children */
	u8 *point;               /* by instruction: POINT_* */
	u16 *live;               /* by instruction: registers read later, before it */
	struct history *hist;
	u32 nhist, hist_cap;

	u32 processed, jumps, prev_processed, prev_jumps;
	u32 nstates, peak_states, total_states, max_states_at; /* the last: of one instruction */
	u32 last_id, last_call_id;

	struct gathered *gathered; /* by instruction */
	struct insn_fact *facts;
	struct vm_subprog *subs;
	u32 *tail_call;            /* by subprogram: an instruction, 0: none (that in the main one is no matter) */
	bool *called, *done;       /* by subprogram: global functions, called and verified */
	bool *locks;               /* by subprogram: it, or what it calls, takes a lock */
	bool in_global;            /* a global function is being verified on its own */
	bool stack_escaped;        /* an address of the stack may be known to anybody */
	struct map_traits *traits; /* by map */
	struct vm_prog_info info;
	bool impure;
	u16 touched_regs;          /* for the log: changed by the instruction in hand */
	u64 touched_slots;
};

enum { POINT_PRUNE = 1, POINT_FORCE = 2 };

/* Refuses the program because of the instruction in hand: WHAT is for a person,
 * DETAIL in the kernel's words, TRY what to do. */
struct uerr *v_refuse(struct verifier *v, const char *detail, const char *try, const char *what, ...) UERR_MUST_CHECK
	__attribute__((format(printf, 4, 5)));
/* The registers of the function in hand may have been copied to be shared. */
bool v_own_frame(struct verifier *v);
/* A string for DETAIL that lives until the next but three. */
const char *v_text(struct verifier *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* --- verify_state.c --- */
struct state *state_new(struct verifier *v);                         /* NULL: no memory; likewise below */
struct state *state_copy(struct verifier *v, const struct state *st);
void state_free(struct verifier *v, struct state *st);
struct frame *frame_new(u32 callsite, u32 subprog);
/* ST's frame I for writing. */
struct frame *state_frame(struct verifier *v, struct state *st, u32 i);
bool frame_grow(struct frame *f, u32 nslots);
void state_drop_frame(struct verifier *v, struct state *st);
/* The state in hand goes on elsewhere, too: a copy, that is followed later from
 * PC. NULL with v->err. */
struct state *state_push(struct verifier *v, u32 pc);
/* The same for a way that begins with the instruction in hand doing WHAT: it gets
 * an entry of its own in history. */
struct state *state_push_as(struct verifier *v, u32 pc, u16 what);
/* The path in hand has ended. */
void state_end(struct verifier *v);
/* Takes up the next waiting path; false: there is none. */
bool state_pop(struct verifier *v);
#define SINCE_MAX 200
static inline bool state_is_far(const struct state *st)
{
	return st->since > SINCE_MAX;
}
/* At v->pc: whether the path ends because all that can follow was followed.
 * Makes checkpoints. */
struct uerr *state_visit(struct verifier *v, bool *pruned);
void slot_read_mark(struct state *st, u32 frame, u32 slot);
/* Numbers that the helper's callback changed from one call to the next are taken
 * as unknown, unless they were needed exactly. */
void state_widen(struct verifier *v, u32 callsite);

/* --- verify_precision.c --- */
bool history_add(struct verifier *v, u32 pc);
void history_note(struct verifier *v, u16 what); /* on the newest entry */
void history_linked(struct verifier *v, const struct bpf_insn *insn);
/* The number in REG (of the function in hand), or in a slot, must be exact, as it
 * was before the instruction in hand. */
struct uerr *mark_precise(struct verifier *v, u32 reg);
void mark_slot_precise(struct verifier *v, u32 frame, u32 slot);
/* What OLD wants exact, the state in hand that it stands for must have exact. */
void precision_propagate(struct verifier *v, const struct state *old);

/* --- verify_mem.c --- */
struct uerr *do_load(struct verifier *v, const struct bpf_insn *insn, const struct opcode *op);
struct uerr *do_store(struct verifier *v, const struct bpf_insn *insn, const struct opcode *op);
struct uerr *do_atomic(struct verifier *v, const struct bpf_insn *insn, const struct opcode *op);
struct mem_access {
	u32 reg;
	u64 min, max;       /* bytes: at least, at most */
	bool read, write;   /* a write without read may hit what was never set */
	bool zero_ok;
};
/* Memory that a helper or a global function gets. */
struct uerr *check_helper_mem(struct verifier *v, const struct mem_access *a);
struct uerr *check_mem_region(struct verifier *v, u32 reg, s64 off, u64 size, u64 mem_size, const char *what);
/* Bytes [OFF, OFF + SIZE) of frame FRAME are needed by its function. */
void note_stack_use(struct verifier *v, u32 frame, s32 off);
void note_stack_read(struct verifier *v, u32 frame, u32 slot);
/* What the slot holds goes; its bytes stay readable as something. */
void slot_scrub(struct verifier *v, struct slot *s);
/* Somebody may read through R, an address that is no longer followed. */
void address_escapes(struct verifier *v, const struct reg *r);
void ctx_read(struct verifier *v, s64 off, u64 size);

/* --- verify_alu.c --- */
struct uerr *do_alu(struct verifier *v, const struct bpf_insn *insn, u32 id, const struct opcode *op);

/* --- verify_branch.c --- */
struct uerr *do_jump(struct verifier *v, const struct bpf_insn *insn);
/* Copies of REG (same id) become what it is now. */
void sync_linked(struct verifier *v, struct state *st, const struct reg *known);

/* --- verify_call.c --- */
struct uerr *do_helper(struct verifier *v, const struct bpf_insn *insn);
struct uerr *check_refs(struct verifier *v);
/* Whether a lock may be taken here, where the program ends if it is not to be had. */
struct uerr *check_may_lock(struct verifier *v);
u32 ref_acquire(struct verifier *v); /* 0: too many */
bool ref_release(struct state *st, u32 id);
/* A dynptr at slot of FRAME is overwritten. */
struct uerr *dynptr_destroy(struct verifier *v, u32 frame, u32 slot);

/* --- verify_func.c --- */
struct uerr *do_call(struct verifier *v, const struct bpf_insn *insn);
struct uerr *do_exit(struct verifier *v);
struct uerr *enter_callback(struct verifier *v, u32 helper);
/* A tail call that succeeds does not come back to its function, but leaves it. */
struct uerr *leave_by_tail_call(struct verifier *v);
/* Whether BTF says that function SUB returns a number. */
bool returns_number(const struct verifier *v, u32 sub);
/* Sets the registers of the state in hand to what a global function may be called
 * with. */
struct uerr *global_entry(struct verifier *v, u32 sub);

/* --- verify_log.c --- */
void log_init(struct log_buf *l, u32 level);
void log_deinit(struct log_buf *l);
void log_printf(struct verifier *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
u64 log_pos(const struct verifier *v);
void log_reset(struct verifier *v, u64 pos);
void log_state(struct verifier *v, const struct state *st, bool all);
void log_insn(struct verifier *v);
/* A function was entered; is about to be left; its caller goes on at AT. */
void log_call(struct verifier *v);
void log_leaving(struct verifier *v);
void log_back(struct verifier *v, u32 at);
void log_from(struct verifier *v, u32 from, u32 to);
const char *reg_type_name(const struct reg *r);

/* --- small things --- */

static inline bool is_pointer(const struct reg *r)
{
	return r->type > SCALAR;
}

static inline bool reg_is_const(const struct reg *r)
{
	return r->type == SCALAR && scalar_is_const(&r->var);
}

static inline bool reg_is_null(const struct reg *r)
{
	return reg_is_const(r) && !r->var.bits.value;
}

static inline void reg_unknown(struct reg *r)
{
	*r = (struct reg){ .type = SCALAR, .var = scalar_unknown };
}

static inline void reg_const(struct reg *r, u64 value)
{
	*r = (struct reg){ .type = SCALAR, .var = scalar_const(value) };
}

static inline struct reg reg_pointer(u8 type)
{
	return (struct reg){ .type = type, .var = scalar_const(0) };
}

static inline bool slot_is_spill(const struct slot *s)
{
	return s->byte[0] == SLOT_SPILL;
}

static inline bool slot_is_scalar(const struct slot *s)
{
	return slot_is_spill(s) && s->reg.type == SCALAR;
}

static inline const struct umap *map_of(const struct verifier *v, const struct reg *r)
{
	return v->c->maps[r->map].map;
}

/* The slot of byte OFF (negative) of a frame. */
static inline u32 slot_of(s64 off)
{
	return (u32)(-off - 1) / 8;
}

/* Every register and every spilled one of frame F. */
#define for_each_reg(r, frame)                                                                                  \
	for (u32 _i = 0; _i < NREGS + (frame)->nslots; _i++)                                                    \
		for (struct reg *r = _i < NREGS ? &(frame)->regs[_i] :                                          \
				     slot_is_spill(&(frame)->slots[_i - NREGS]) ? &(frame)->slots[_i - NREGS].reg : NULL; \
		     r; r = NULL)
