/* SPDX-License-Identifier: MIT */
/*
 * What helpers, functions and callbacks may be given, as far as verdict/ has no
 * pair for it: what wants types (locks, global functions), and what the kernel does
 * not refuse.
 */
#include <bpf/btf.h>

#include "tests/support/suite.h"
#include "tests/vm/verify_rules.h"
#include "vm/btf_index.h"

enum { HASH, ARRAY, LOCKED, FORMAT, UNENDED, RINGBUF, PROGS, USER, NMAPS };

static const struct umap umaps[NMAPS] = {
	[HASH] = { .type = UMAP_HASH, .key_size = 8, .value_size = 16, .max_entries = 10, .id = 1 },
	[ARRAY] = { .type = UMAP_ARRAY, .key_size = 4, .value_size = 64, .max_entries = 1, .id = 2 },
	[LOCKED] = { .type = UMAP_ARRAY, .key_size = 4, .value_size = 16, .max_entries = 1, .id = 3 },
	[FORMAT] = { .type = UMAP_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1, .id = 4, .frozen = 1 },
	[UNENDED] = { .type = UMAP_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1, .id = 5, .frozen = 1 },
	[RINGBUF] = { .type = BPF_MAP_TYPE_RINGBUF, .max_entries = 4096, .id = 6 },
	[PROGS] = { .type = BPF_MAP_TYPE_PROG_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 4, .id = 7 },
	[USER] = { .type = BPF_MAP_TYPE_USER_RINGBUF, .max_entries = 4096, .id = 8 },
};
static struct vm_map maps[NMAPS];

/* Types of functions: of six numbers, of a void *, of nothing, of an int * */
enum { T_NONE, T_SIX, T_UNSIZED, T_NO_ARGS, T_MEM, TYPES };
static u32 types[TYPES];
static struct rule_world world = { maps, NMAPS, NULL, types };

#define ADD(d, i) ALU64_IMM(BPF_ADD, d, i)
#define ADDR(d, o) MOV_REG(d, FP), ADD(d, o)
#define RETURN MOV_IMM(R0, 0), EXIT
#define LOCK MOV_REG(R1, R6), CALL(BPF_FUNC_spin_lock)
#define UNLOCK MOV_REG(R1, R6), CALL(BPF_FUNC_spin_unlock)
/* The callback follows two instructions behind the call; r3 is its context */
#define LOOP(to) MOV_IMM(R1, 10), LD_FUNC(R2, to), MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), RETURN
#define RECORD LD_MAP(R1, RINGBUF), MOV_IMM(R2, 8), MOV_IMM(R3, 0), CALL(BPF_FUNC_ringbuf_reserve)
#define TEXT(d, map) LD_VALUE(d, map, 0)
/* compares 4 bytes of stack with r3 */
#define STRNCMP STORE_IMM(DW, FP, -8, 0), ADDR(R1, -8), MOV_IMM(R2, 4), CALL(BPF_FUNC_strncmp), EXIT

static const struct rule rules[] = {
	/* locks */
	PAIR("what is locked", 3, "R1 is no lock of a map's value", "off 0 doesn't point to 'struct bpf_spin_lock'",
	     LD_VALUE(R6, LOCKED, 0), LD_VALUE(R6, ARRAY, 0), X, LOCK, UNLOCK, RETURN),
	PAIR("where the lock lies", 4, "R1 is no lock of a map's value",
	     "off 8 doesn't point to 'struct bpf_spin_lock'",
	     ADD(R1, 0), ADD(R1, 8), LD_VALUE(R6, LOCKED, 0), MOV_REG(R1, R6), X, CALL(BPF_FUNC_spin_lock), UNLOCK,
	     RETURN),
	PAIR("a lock is no number", 3, "R1 is scalar where map_value is needed", "R1 type=scalar expected=map_value",
	     MOV_REG(R1, R6), MOV_IMM(R1, 0), LD_VALUE(R6, LOCKED, 0), X, CALL(BPF_FUNC_spin_lock), UNLOCK, RETURN),
	PAIR("one lock at a time", 6, "a lock is taken while another is held",
	     "Locking two bpf_spin_locks are not allowed",
	     CALL(BPF_FUNC_spin_unlock), CALL(BPF_FUNC_spin_lock), LD_VALUE(R6, LOCKED, 0), LOCK, MOV_REG(R1, R6),
	     MOV_REG(R2, R6), X, RETURN),
	PAIR("given back, but not held", 6, "a lock is given back that is not held",
	     "bpf_spin_unlock without taking a lock", CALL(BPF_FUNC_spin_lock), CALL(BPF_FUNC_ktime_get_ns),
	     LD_VALUE(R6, LOCKED, 0), MOV_REG(R1, R6), MOV_REG(R2, R1), X, UNLOCK, RETURN),
	PAIR("another is given back", 14, "another lock is given back than is held", "bpf_spin_unlock of different lock",
	     MOV_REG(R1, R6), MOV_REG(R1, R7), LD_VALUE(R6, LOCKED, 0), STORE_IMM(W, FP, -4, 0), ADDR(R2, -4), LD_MAP(R1, LOCKED),
	     CALL(BPF_FUNC_map_lookup_elem), JUMP_IMM(BPF_JNE, R0, 0, 1), EXIT, MOV_REG(R7, R0), LOCK, X,
	     CALL(BPF_FUNC_spin_unlock), RETURN),
	PAIR("a helper meanwhile", 4, "a helper is called while a lock is held",
	     "function calls are not allowed while holding a lock", MOV_IMM(R7, 0), CALL(BPF_FUNC_ktime_get_ns),
	     LD_VALUE(R6, LOCKED, 0), LOCK, X, UNLOCK, RETURN),
	PAIR("held at the end", 7, "the program ends while a lock is held",
	     "BPF_EXIT instruction cannot be used inside bpf_spin_lock-ed region", CALL(BPF_FUNC_spin_unlock), MOV_IMM(R0, 0),
	     LD_VALUE(R6, LOCKED, 0), LOCK, MOV_REG(R1, R6), X, RETURN),
	PAIR("held at a callback's end", 15, "a callback returns while a lock is held",
	     "bpf_spin_lock is held at the end of a callback", CALL(BPF_FUNC_spin_unlock), MOV_IMM(R0, 0), MOV_IMM(R3, 0),
	     LOOP(5), LD_VALUE(R6, LOCKED, 0), LOCK, MOV_REG(R1, R6), X, RETURN),
	PAIR("the lock itself", 2, "the lock in a map's value is accessed as memory",
	     "bpf_spin_lock cannot be accessed directly by load/store", LOAD(DW, R0, R6, 8), LOAD(DW, R0, R6, 0),
	     LD_VALUE(R6, LOCKED, 0), X, EXIT),
	PAIR("the lock itself, written by a helper", 5, "the lock in a map's value is accessed as memory",
	     "bpf_spin_lock cannot be accessed directly by load/store", ADD(R1, 8), ADD(R1, 3), LD_VALUE(R1, LOCKED, 0), X,
	     MOV_IMM(R2, 8), MOV_IMM(R3, 0), CALL(BPF_FUNC_probe_read_user), RETURN),
	GLOBAL_PAIR(T_NO_ARGS, "a global function meanwhile", 4, "a function is called while a lock is held",
		    "global function calls are not allowed while holding a lock", MOV_IMM(R0, 0), CALL_LOCAL(5),
		    LD_VALUE(R6, LOCKED, 0), LOCK, X, UNLOCK, CALL_LOCAL(2), RETURN, RETURN),
	/* (the second of what it may call takes a lock) */
	GLOBAL_PAIR(T_NO_ARGS, "a global function that takes one, with a record in hand", 7,
		    "a lock is taken while what instruction 4 reserved is not given back",
		    "bpf_spin_lock with references held is not supported", CALL_LOCAL(7), CALL_LOCAL(9), RECORD,
		    JUMP_IMM(BPF_JEQ, R0, 0, 7), MOV_REG(R6, R0), X, MOV_REG(R1, R6), MOV_IMM(R2, 0),
		    CALL(BPF_FUNC_ringbuf_submit), CALL_LOCAL(3), CALL_LOCAL(4), RETURN, RETURN, LD_VALUE(R6, LOCKED, 0),
		    LOCK, UNLOCK, RETURN),
	GLOBAL_PAIR(T_NO_ARGS, "a global function that calls one that does", 7,
		    "a lock is taken while what instruction 4 reserved is not given back",
		    "bpf_spin_lock with references held is not supported", MOV_IMM(R0, 0), CALL_LOCAL(6), RECORD,
		    JUMP_IMM(BPF_JEQ, R0, 0, 6), MOV_REG(R6, R0), X, MOV_REG(R1, R6), MOV_IMM(R2, 0),
		    CALL(BPF_FUNC_ringbuf_submit), CALL_LOCAL(2), RETURN, CALL_LOCAL(1), EXIT, LD_VALUE(R6, LOCKED, 0),
		    LOCK, UNLOCK, RETURN),
	GLOBAL_PAIR(T_NO_ARGS, "a global function that takes one, in a callback", 10,
		    "a lock is taken in a function that another helper than bpf_loop() or bpf_for_each_map_elem() calls back",
		    "bpf_spin_lock in this callback is not supported", MOV_IMM(R0, 0), CALL_LOCAL(2), LD_MAP(R1, USER),
		    LD_FUNC(R2, 7), MOV_IMM(R3, 0), MOV_IMM(R4, 0), CALL(BPF_FUNC_user_ringbuf_drain), CALL_LOCAL(5),
		    RETURN, X, RETURN, LD_VALUE(R6, LOCKED, 0), LOCK, UNLOCK, RETURN),

	/* dynptrs, ring buffers */
	PAIR("a dynptr that was overwritten", 12, "R1 is no dynptr as it is needed here",
	     "Expected an initialized dynptr",
	     MOV_IMM(R7, 0), STORE_IMM(DW, FP, -16, 0), LD_VALUE(R1, ARRAY, 0), MOV_IMM(R2, 8), MOV_IMM(R3, 0), ADDR(R4,
	     -16),
	     CALL(BPF_FUNC_dynptr_from_mem), X, ADDR(R1, -16), MOV_IMM(R2, 0), MOV_IMM(R3, 8),
	     CALL(BPF_FUNC_dynptr_data),
	     RETURN),
	PAIR("a dynptr of which half was overwritten", 12, "R1 is no dynptr as it is needed here",
	     "Expected an initialized dynptr", STORE_IMM(B, FP, -17, 0), STORE_IMM(B, FP, -1, 0), LD_VALUE(R1, ARRAY, 0),
	     MOV_IMM(R2, 8), MOV_IMM(R3, 0), ADDR(R4, -16), CALL(BPF_FUNC_dynptr_from_mem), X, ADDR(R1, -16),
	     MOV_IMM(R2, 0),
	     MOV_IMM(R3, 8), CALL(BPF_FUNC_dynptr_data), RETURN),
	REFUSED("too much is held", 5, "more than 32 things are reserved at once", "too many references", MOV_IMM(R6,
	     0),
		RECORD, ADD(R6, 1), JUMP_IMM(BPF_JLT, R6, 40, -7), RETURN),
	REFUSED("too much is held with a dynptr", 14, "more than 32 things are reserved at once", "too many references",
		MOV_IMM(R6, 0), RECORD, ADD(R6, 1), JUMP_IMM(BPF_JLT, R6, 32, -7), LD_MAP(R1, RINGBUF), MOV_IMM(R2, 8),
		MOV_IMM(R3, 0), ADDR(R4, -16), CALL(BPF_FUNC_ringbuf_reserve_dynptr), RETURN),
	PAIR("how much is reserved", 4, "the size in R2 is too large", "R2 unbounded memory access",
	     MOV_IMM(R2, 8), MOV_IMM(R2, 1 << 29), LD_MAP(R1, RINGBUF), X, MOV_IMM(R3, 0),
	     CALL(BPF_FUNC_ringbuf_reserve),
	     JUMP_IMM(BPF_JEQ, R0, 0, 3), MOV_REG(R1, R0), MOV_IMM(R2, 0), CALL(BPF_FUNC_ringbuf_submit), RETURN),
	PAIR("what a callback gives back", 24, "a callback gives back what its caller reserved",
	     "reference has not been acquired in the callback", MOV_REG(R3, R1), CALL(BPF_FUNC_ringbuf_submit), RECORD,
	     JUMP_IMM(BPF_JEQ, R0, 0, 12), MOV_REG(R6, R0), STORE(DW, FP, -8, R6), ADDR(R3, -8), MOV_IMM(R1, 1),
	     LD_FUNC(R2, 8),
	     MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), LOAD(DW, R1, FP, -8), MOV_IMM(R2, 0), CALL(BPF_FUNC_ringbuf_submit),
	     RETURN,
	     LOAD(DW, R1, R2, 0), MOV_IMM(R2, 0), X, RETURN),

	/* texts */
	PAIR("a text", 7, "R3 is fp where a constant string is needed", "R3 type=fp expected=a constant string",
	     MOV_REG(R3, R6), MOV_REG(R3, FP), TEXT(R6, FORMAT), X, STRNCMP),
	PAIR("a text that ends", 6, "the text in R3 does not end", "string is not zero-terminated", TEXT(R3, FORMAT),
	     TEXT(R3, UNENDED), X, STRNCMP),
	PAIR("one certain text", 9, "the text in R3 is not one certain text", "R3 is not a constant address",
	     ALU64_IMM(BPF_AND, R6, 0), ALU64_IMM(BPF_AND, R6, 1), LOAD(DW, R6, R1, 112), X, TEXT(R3, FORMAT),
	     ALU64_REG(BPF_ADD, R3, R6), STRNCMP),

	/* what is NULL on one way must be NULL on the other */
	PAIR("context of a callback, NULL by one of two ways", 11, "R3 is scalar where fp is needed",
	     "R3 type=scalar expected=fp", MOV_IMM(R6, 0), MOV_IMM(R6, 1), CALL(BPF_FUNC_ktime_get_ns),
	     JUMP_IMM(BPF_JEQ, R0, 0, 2), MOV_IMM(R6, 0), JUMP(1), X, MOV_IMM(R1, 1), LD_FUNC(R2, 7), MOV_REG(R3, R6),
	     MOV_IMM(R4, 0), MOV_IMM(R5, 0), CALL(BPF_FUNC_loop), RETURN, RETURN),
	/* (so long that the ways meet at a checkpoint) */
	PAIR("memory of no size, NULL by one of two ways", 16, "R4 is scalar where fp is needed",
	     "R4 type=scalar expected=fp", MOV_IMM(R6, 0), MOV_IMM(R6, 1), CALL(BPF_FUNC_ktime_get_ns), ADDR(R1, -8),
	     STORE_IMM(DW, FP, -8, 0), MOV_IMM(R2, 8), TEXT(R3, FORMAT), MOV_IMM(R5, 0), MOV_IMM(R7, 0),
	     JUMP_IMM(BPF_JEQ, R0, 0, 2), MOV_IMM(R6, 0), JUMP(1), X, MOV_IMM(R7, 0), MOV_REG(R4, R6),
	     MOV_IMM(R5, 0), CALL(BPF_FUNC_snprintf), RETURN),

	/* objects of the kernel (their helpers are not there, but known) */
	PAIR("a task", 2, "R1 is scalar where an object of the kernel is needed",
	     "R1 type=scalar expected=an object of the kernel",
	     MOV_REG(R1, R0), MOV_IMM(R1, 0), CALL(BPF_FUNC_get_current_task_btf), X, CALL(BPF_FUNC_task_pt_regs),
	     RETURN),
	PAIR("a task is no memory", 1, "R0 is no address that the program may use", "R0 invalid mem access 'ptr_'",
	     MOV_REG(R1, R0), LOAD(DW, R1, R0, 0), CALL(BPF_FUNC_get_current_task_btf), X, RETURN),
	PAIR("a task is not moved", 1, "R0 is an address, with which this cannot be calculated",
	     "R0 pointer arithmetic on ptr_ prohibited", MOV_IMM(R1, 0), ADD(R0, 8), CALL(BPF_FUNC_get_current_task_btf), X,
	     RETURN),
	REFUSED("who cannot call back", 7, "bpf_find_vma cannot call back", "callback is not supported",
		CALL(BPF_FUNC_get_current_task_btf), MOV_REG(R1, R0), MOV_IMM(R2, 0), LD_FUNC(R3, 6), MOV_IMM(R4, 0),
		MOV_IMM(R5, 0), CALL(BPF_FUNC_find_vma), RETURN, RETURN),
	PAIR("a key is not written", 13, "R1 points to memory that may only be read", "R1 cannot write into map_key",
	     MOV_REG(R1, R3), MOV_REG(R1, R2), LD_MAP(R1, HASH), LD_FUNC(R2, 6), MOV_IMM(R3, 0), MOV_IMM(R4, 0),
	     CALL(BPF_FUNC_for_each_map_elem), RETURN, MOV_IMM(R0, 0), X, MOV_IMM(R2, 8), MOV_IMM(R3, 0),
	     CALL(BPF_FUNC_probe_read_user), RETURN),

	/* functions that are not static */
	GLOBAL_REFUSED(T_SIX, "how many arguments", 7, "function func, which is not static, has more than 5 arguments",
		    "Global function func() cannot be verified on its own", MOV_IMM(R1, 0), MOV_IMM(R2, 0), MOV_IMM(R3, 0),
		    MOV_IMM(R4, 0), MOV_IMM(R5, 0), CALL_LOCAL(1), EXIT, RETURN),
	GLOBAL_REFUSED(T_UNSIZED, "memory of what size", 2,
		    "function func, which is not static, has an argument that is neither number nor memory of known size",
		    "Global function func() cannot be verified on its own", CALL_LOCAL(1), EXIT, RETURN),
	GLOBAL_PAIR(T_MEM, "memory of its own", 6, "R1 goes outside of memory of 4 bytes (offset 4, size 4)",
		    "invalid access to memory, value_size=4 off=4 size=4; R1 max value is outside of the allowed memory range",
		    LOAD(W, R0, R1, 0), LOAD(W, R0, R1, 4), STORE_IMM(DW, FP, -8, 0), ADDR(R1, -8), CALL_LOCAL(1), EXIT,
		    JUMP_IMM(BPF_JEQ, R1, 0, 1), X, RETURN),

	/* tail calls */
	PAIR("a tail call in a function of no known type", 5,
	     "a tail call in a function that returns no number: what is called returns one,",
	     "tail_call is only allowed in functions that return 'int'", MOV_IMM(R0, 0), CALL(BPF_FUNC_tail_call),
	     CALL_LOCAL(1), EXIT, LD_MAP(R2, PROGS), MOV_IMM(R3, 0), X, RETURN),

	/* loops of one's own around a helper that calls back */
	PAIR("an endless loop around a helper's", 6, "a loop comes round without any change, so it may never end,",
	     "infinite loop detected at insn 6", JUMP_IMM(BPF_JEQ, R6, 1, -7), JUMP_IMM(BPF_JEQ, R6, 0, -7), MOV_IMM(R6, 0),
	     MOV_IMM(R1, 10), LD_FUNC(R2, 7), MOV_IMM(R3, 0), MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), X, RETURN, RETURN),
};

START_TEST(table)
{
	rule_check(&rules[_i], &world);
}
END_TEST

/* --- a global function and its caller's stack --- */

static void verify_call_of_global(struct bpf_insn *insns, u32 n, u32 func, struct vm_prog *ret)
{
	struct vm_subprog *subs = calloc(2, sizeof(*subs));
	struct uerr *err;

	subs[1] = (struct vm_subprog){ .name = "func", .start = func, .type_id = types[T_MEM], .global = true };
	*ret = (struct vm_prog){ .name = "t", .insns = insns, .ninsns = n, .btf = world.btf, .subprogs = subs, .nsubprogs = 2 };
	err = verify_program(ret, maps, NMAPS, NULL, NULL);
	ck_assert_msg(!err, "%s", err ? err->message : "");
}

START_TEST(a_store_that_a_global_function_reads)
{
	struct bpf_insn insns[] = { STORE_IMM(W, FP, -4, 7), STORE_IMM(W, FP, -16, 7), ADDR(R1, -4), CALL_LOCAL(1),
	     EXIT,
				    MOV_IMM(R0, 0), JUMP_IMM(BPF_JEQ, R1, 0, 1), LOAD(W, R0, R1, 0), EXIT };
	struct vm_prog p;

	verify_call_of_global(insns, ARRAY_SIZE(insns), 6, &p);
	ck_assert(!(p.facts[0].flags & FACT_DEAD_STORE));
	ck_assert(p.facts[1].flags & FACT_DEAD_STORE); /* nobody has its address */
	verify_forget(&p);
}
END_TEST

/* It keeps the address: whoever finds it may read the stack later. */
START_TEST(a_store_after_a_global_function_kept_the_address)
{
	struct bpf_insn insns[] = { STORE_IMM(W, FP, -4, 7), ADDR(R1, -4), CALL_LOCAL(2), STORE_IMM(W, FP, -4, 8), EXIT,
				    MOV_IMM(R0, 0), LD_VALUE(R2, ARRAY, 0), STORE(DW, R2, 0, R1), EXIT };
	struct vm_prog p;

	verify_call_of_global(insns, ARRAY_SIZE(insns), 6, &p);
	ck_assert(!(p.facts[4].flags & FACT_DEAD_STORE));
	verify_forget(&p);
	insns[9] = (struct bpf_insn)MOV_IMM(R2, 0); /* it does not */
	verify_call_of_global(insns, ARRAY_SIZE(insns), 6, &p);
	ck_assert(p.facts[4].flags & FACT_DEAD_STORE);
	verify_forget(&p);
}
END_TEST

/* --- types --- */

static struct btf *btf;

static u32 function(int arg, u32 nargs, int result)
{
	int proto = btf__add_func_proto(btf, result);

	while (nargs--)
		btf__add_func_param(btf, "a", arg);
	return (u32)btf__add_func(btf, "func", BTF_FUNC_GLOBAL, proto);
}

static bool make_types(void)
{
	int t_int, lock;
	struct uerr *err;
	const void *raw;
	u32 size;

	for (u32 i = 0; i < NMAPS; i++)
		maps[i] = (struct vm_map){ .map = &umaps[i] };
	btf = btf__new_empty();
	t_int = btf__add_int(btf, "int", 4, BTF_INT_SIGNED);
	types[T_SIX] = function(t_int, 6, t_int);
	types[T_UNSIZED] = function(btf__add_ptr(btf, 0), 1, t_int);
	types[T_NO_ARGS] = function(0, 0, t_int);
	types[T_MEM] = function(btf__add_ptr(btf, t_int), 1, t_int);
	lock = btf__add_struct(btf, "bpf_spin_lock", 4);
	btf__add_field(btf, "val", t_int, 0, 0);
	maps[LOCKED].value_type = (u32)btf__add_struct(btf, "value", 16);
	btf__add_field(btf, "lock", lock, 0, 0);
	btf__add_field(btf, "n", t_int, 64, 0);
	raw = btf__raw_data(btf, &size);
	err = btf_index_create(raw, size, &world.btf);
	if (err) {
		fprintf(stderr, "%s\n", err->message);
		return false;
	}
	maps[LOCKED].btf = world.btf;
	maps[FORMAT].frozen = "n %d\0\0\0";
	maps[UNENDED].frozen = "aaaaaaaa";
	return true;
}

int main(void)
{
	Suite *s = suite_create("verify_call");
	TCase *tc = tcase_create("verify_call");
	int failed;

	if (!make_types())
		return 1;
	tcase_add_loop_test(tc, table, 0, ARRAY_SIZE(rules));
	tcase_add_test(tc, a_store_that_a_global_function_reads);
	tcase_add_test(tc, a_store_after_a_global_function_kept_the_address);
	suite_add_tcase(s, tc);
	failed = suite_run(s);
	btf_index_destroy(world.btf);
	btf__free(btf);
	return failed;
}
