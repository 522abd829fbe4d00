/* SPDX-License-Identifier: MIT */
/*
 * libbpfvm: eBPF in your own process. Open an object file or hand over
 * instructions, let the verifier judge them, run them compiled or interpreted,
 * read and write their maps. docs/libbpfvm.md is the manual.
 *
 *	vm = bpfvm_open_file("count.bpf.o", &error);
 *	bpfvm_set_ctx(vm, sizeof(struct packet), fields, nfields);
 *	bpfvm_add_helper(vm, &helper, &error);
 *	bpfvm_load(vm, 0, &error);
 *	prog = bpfvm_prog_find(vm, "on_packet");
 *	bpfvm_run(prog, &packet, sizeof(packet), &result);
 *
 * Threads: bpfvm_run(), bpfvm_call(), bpfvm_interpret() and all that reads or
 * changes a loaded map's contents may be called by any thread at any time.
 * Everything else of one VM is for one thread at a time, and bpfvm_close() for
 * when nobody uses it any more. Different VMs have nothing to do with each
 * other, unless they share maps.
 *
 * The library prints nothing, never exits, installs no signal handler. Where a
 * function has an ERROR argument, it may be NULL; otherwise it is set on failure
 * (only then) to an object that the caller frees. Where a function returns int,
 * it is 0 or a negative errno.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct bpfvm;       /* programs and maps that belong together */
struct bpfvm_prog;  /* one of its programs */
struct bpfvm_map;   /* one of its maps */
struct bpfvm_error;
struct bpfvm_call;  /* the run that called a helper */

/* --- errors --- */

enum bpfvm_error_code {
	BPFVM_FAILED = 1,   /* anything that has no code of its own */
	BPFVM_USAGE = 2,    /* the request itself is wrong */
	BPFVM_REJECTED = 6, /* the program is not safe, or needs what is not there */
};

int bpfvm_error_code(const struct bpfvm_error *error); /* enum bpfvm_error_code, or another number: failed */
/* One sentence without a newline. */
const char *bpfvm_error_message(const struct bpfvm_error *error);
/* What the verifier (or the loader) had to say, several lines, or "". */
const char *bpfvm_error_log(const struct bpfvm_error *error);
void bpfvm_error_free(struct bpfvm_error *error); /* NULL is fine */

/* --- opening: nothing runs yet, everything can still be set --- */

/* The object of SIZE bytes, which are not needed afterwards. NAME is for
 * messages. Programs may be in sections of any name. NULL on failure. */
struct bpfvm *bpfvm_open(const void *object, size_t size, const char *name, struct bpfvm_error **error);
struct bpfvm *bpfvm_open_file(const char *path, struct bpfvm_error **error);
/* A VM without anything in it. */
struct bpfvm *bpfvm_new(const char *name, struct bpfvm_error **error);
void bpfvm_close(struct bpfvm *vm); /* NULL is fine */

/* A map as bpf(BPF_MAP_CREATE) wants it: TYPE and FLAGS are those of
 * linux/bpf.h. Programs refer to it by its number: maps are counted from 0 in
 * the order of bpfvm_map_next(). */
struct bpfvm_map *bpfvm_add_map(struct bpfvm *vm, const char *name, uint32_t type, uint32_t key_size,
				uint32_t value_size, uint32_t max_entries, uint32_t flags,
				struct bpfvm_error **error);

/* A program of N instructions (struct bpf_insn), subprograms behind it; copied.
 * Maps are referred to by ld_imm64 with src_reg 5 and the map's number (6: the
 * value of an array's entry 0). */
struct bpfvm_prog *bpfvm_add_prog(struct bpfvm *vm, const char *name, const void *insns, size_t n,
				  struct bpfvm_error **error);

/* What a program's ctx is. Without this it is struct pt_regs, to be read. Every
 * access must lie within fields that allow it, and be aligned to its size; so
 * must fields that are next to each other when one access spans them. */
enum { BPFVM_READ = 1, BPFVM_WRITE = 2 };
struct bpfvm_ctx_field {
	uint32_t off, size;
	uint32_t access; /* BPFVM_READ | BPFVM_WRITE */
};
/* For one program; and for all that are there. -EINVAL: a field lies outside,
 * or SIZE is above 65536. */
int bpfvm_prog_set_ctx(struct bpfvm_prog *p, uint32_t size, const struct bpfvm_ctx_field *fields, size_t nfields);
int bpfvm_set_ctx(struct bpfvm *vm, uint32_t size, const struct bpfvm_ctx_field *fields, size_t nfields);

/*
 * Helpers of your own. A program calls one by its number:
 *	static long (*lookup_user)(__u32 id, char *name, __u32 size) = (void *)0x1000;
 * The verifier checks each call by the prototype; what it lets through is as the
 * kind of each argument says. The function runs on the thread of the run, and
 * must return.
 */
#define BPFVM_HELPER_FIRST 0x1000u
#define BPFVM_HELPER_LAST 0x1fffu

enum bpfvm_arg {
	BPFVM_ARG_NONE,        /* there is no such argument */
	BPFVM_ARG_ANY,         /* any value that was set */
	BPFVM_ARG_CTX,         /* the program's ctx, unmoved */
	BPFVM_ARG_MAP,         /* a map: bpfvm_call_map() tells which */
	BPFVM_ARG_MAP_KEY,     /* memory with a key of the map in an argument before, read */
	BPFVM_ARG_MAP_VALUE,   /* … with a value, read */
	BPFVM_ARG_MEM,         /* memory to read, its size in the next argument */
	BPFVM_ARG_MEM_OR_NULL, /* the same; NULL when the size is 0 */
	BPFVM_ARG_MEM_UNINIT,  /* memory to write, its size in the next argument */
	BPFVM_ARG_SIZE,        /* the size, not 0 */
	BPFVM_ARG_SIZE0,       /* the size, may be 0 */
	BPFVM_ARG_CONST_STR,   /* a NUL-terminated string in .rodata */
	BPFVM_ARG_LONG,        /* 8 aligned bytes to write */
};

enum bpfvm_ret {
	BPFVM_RET_NUMBER,
	BPFVM_RET_NOTHING,
	BPFVM_RET_MAP_VALUE_OR_NULL, /* of the map in the first argument: bpfvm_map_element() */
};

typedef uint64_t (*bpfvm_helper_fn)(uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5,
				    struct bpfvm_call *call);

struct bpfvm_helper {
	uint32_t id; /* BPFVM_HELPER_FIRST … _LAST */
	const char *name;
	bpfvm_helper_fn fn;
	enum bpfvm_ret ret;
	enum bpfvm_arg args[5];
};

/* Copied; for all programs of the VM. */
int bpfvm_add_helper(struct bpfvm *vm, const struct bpfvm_helper *helper, struct bpfvm_error **error);

/* For helpers: the VM whose program runs, the map that a BPFVM_ARG_MAP argument
 * is, and a pointer of yours. */
struct bpfvm *bpfvm_call_vm(const struct bpfvm_call *call);
struct bpfvm_map *bpfvm_call_map(const struct bpfvm_call *call, uint64_t arg);
void bpfvm_set_data(struct bpfvm *vm, void *data);
void *bpfvm_data(const struct bpfvm *vm);

/* Which programs are loaded (all, at first). */
int bpfvm_prog_set_autoload(struct bpfvm_prog *p, int autoload);
int bpfvm_map_set_max_entries(struct bpfvm_map *m, uint32_t n);
/* M becomes the same map as OTHER, of a loaded VM, which may be closed before M's.
 * -EINVAL when type or sizes differ, -EBUSY when per-CPU maps of two VMs meet. */
int bpfvm_map_share(struct bpfvm_map *m, struct bpfvm_map *other);
/* .data, .bss, .rodata: the contents that it will begin with, to be changed
 * before loading. NULL for other maps. */
void *bpfvm_map_initial(struct bpfvm_map *m, size_t *size);

/* How much the verifier writes: 0 nothing, 1 (as it is) the path to a refusal, 2
 * everything. */
void bpfvm_set_log_level(struct bpfvm *vm, unsigned level);

enum bpfvm_load_flags {
	BPFVM_NO_JIT = 1,     /* compile nothing: every run is interpreted */
	BPFVM_UNVERIFIED = 2, /* the programs are yours and trusted: check their shape alone. They can then do
	                       * to your process whatever a wrong pointer or an endless loop does. */
};

/* Makes the maps, judges the programs, compiles them. On failure nothing of that
 * is left, and it may be tried again with other settings. */
int bpfvm_load(struct bpfvm *vm, unsigned flags, struct bpfvm_error **error);

/* --- programs --- */

struct bpfvm_prog *bpfvm_prog_find(struct bpfvm *vm, const char *name); /* NULL: none */
struct bpfvm_prog *bpfvm_prog_next(struct bpfvm *vm, const struct bpfvm_prog *p); /* P NULL: the first */
const char *bpfvm_prog_name(const struct bpfvm_prog *p);
const char *bpfvm_prog_section(const struct bpfvm_prog *p);

/* What the verifier wrote about a program, at log level 2 also when it is
 * accepted; "" when there is nothing. Valid until the next load or close. */
const char *bpfvm_prog_log(const struct bpfvm_prog *p);

struct bpfvm_prog_info {
	uint32_t insns;           /* of the program */
	uint32_t stack_depth;     /* bytes */
	uint32_t ctx_end;         /* it accesses ctx below this offset; 0: not at all */
	uint32_t insns_processed; /* by the verifier */
	uint64_t verify_ns;
	uint64_t jited_size;      /* bytes of machine code, 0 not compiled */
	const void *jited;        /* them, or NULL */
};
void bpfvm_prog_get_info(const struct bpfvm_prog *p, struct bpfvm_prog_info *ret);
/* The program as text, or (JITED) its machine code; the caller frees it. NULL:
 * out of memory, or not compiled. */
char *bpfvm_prog_listing(const struct bpfvm_prog *p, int jited);

/* Runs P with r1 = CTX, and puts r0 into *RET (NULL is fine). CTX_SIZE is how
 * much is there: -EINVAL when the program may access more, or is not loaded. */
int bpfvm_run(const struct bpfvm_prog *p, void *ctx, size_t ctx_size, uint64_t *ret);
/* The same by the interpreter; -ELOOP after MAX_INSNS instructions (0: any
 * number). */
int bpfvm_interpret(const struct bpfvm_prog *p, void *ctx, size_t ctx_size, uint64_t max_insns, uint64_t *ret);

/* What every struct bpfvm_prog begins with; for bpfvm_call() alone. */
struct bpfvm_entry {
	uint64_t (*call)(void *ctx, uint64_t ctx_size, const void *self);
};

/* The same as bpfvm_run() without its questions, for programs that were loaded
 * and a CTX as large as they were told: a call of the compiled code, inline. */
static inline uint64_t bpfvm_call(const struct bpfvm_prog *p, void *ctx, size_t ctx_size)
{
	return ((const struct bpfvm_entry *)p)->call(ctx, ctx_size, p);
}

/* --- maps: values as bpf(2) passes them, per-CPU ones for all CPUs, each
 * rounded up to 8 bytes. Contents are there from bpfvm_load() on (-EINVAL
 * before). Programs' .rodata cannot be written (-EPERM). --- */

struct bpfvm_map *bpfvm_map_find(struct bpfvm *vm, const char *name); /* ".bss" is a name, too */
struct bpfvm_map *bpfvm_map_next(struct bpfvm *vm, const struct bpfvm_map *m); /* M NULL: the first */
const char *bpfvm_map_name(const struct bpfvm_map *m);
uint32_t bpfvm_map_type(const struct bpfvm_map *m);
uint32_t bpfvm_map_key_size(const struct bpfvm_map *m);
uint32_t bpfvm_map_max_entries(const struct bpfvm_map *m);
uint32_t bpfvm_map_value_size(const struct bpfvm_map *m); /* as passed here; per-CPU: all CPUs */

int bpfvm_map_lookup(struct bpfvm_map *m, const void *key, void *value);
int bpfvm_map_update(struct bpfvm_map *m, const void *key, const void *value, uint64_t flags);
int bpfvm_map_delete(struct bpfvm_map *m, const void *key);
int bpfvm_map_lookup_and_delete(struct bpfvm_map *m, const void *key, void *value);
/* The host changes the map no more; programs do. */
int bpfvm_map_freeze(struct bpfvm_map *m);
/* Many elements: KEYS and VALUES have room for *COUNT, which becomes how many there
 * were. Lookups begin at FROM, what the call before put into NEXT (as large as a key,
 * at least 4 bytes); NULL: at the beginning. -ENOENT with the last of them, -ENOSPC
 * when *COUNT is too small for a step. As BPF_MAP_LOOKUP_BATCH and its siblings. */
int bpfvm_map_lookup_batch(struct bpfvm_map *m, const void *from, void *next, void *keys, void *values, uint32_t *count);
int bpfvm_map_lookup_and_delete_batch(struct bpfvm_map *m, const void *from, void *next, void *keys, void *values,
				      uint32_t *count);
int bpfvm_map_update_batch(struct bpfvm_map *m, const void *keys, const void *values, uint32_t *count, uint64_t flags);
int bpfvm_map_delete_batch(struct bpfvm_map *m, const void *keys, uint32_t *count);
/* KEY NULL: the first. -ENOENT after the last. */
int bpfvm_map_next_key(struct bpfvm_map *m, const void *key, void *next_key);
/* Adds a record to a USER_RINGBUF, for the program that drains it. One thread at a
 * time. -ENOSPC when it is full, -E2BIG when it can never fit. */
int bpfvm_map_post(struct bpfvm_map *m, const void *record, size_t size);
/* The value itself, as a program's lookup gives it; NULL when there is none, and
 * for per-CPU maps. It stays a value of the map until the element is deleted. */
void *bpfvm_map_element(struct bpfvm_map *m, const void *key);
/* The values of an array map themselves (global data, too), which programs read
 * and write: value i begins at i times the value's size rounded up to 8. NULL for
 * other maps and for .rodata. */
void *bpfvm_map_memory(struct bpfvm_map *m, size_t *size);

#ifdef __cplusplus
}
#endif
