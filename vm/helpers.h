/* SPDX-License-Identifier: MIT */
/* What vm/helpers.def says, as constants and lookups. */
#pragma once
#include "base/types.h"

/* What an argument must be. Memory whose kind says so is sized by the ARG_SIZE
 * or ARG_SIZE0 argument that follows it. */
enum helper_arg {
	ARG_NONE,      /* not looked at; need not be set */
	ARG_ANY,       /* anything that is set */
	ARG_UNCHECKED, /* trace_printk's values: used if the format wants them, set or not */
	ARG_CTX,
	ARG_MAP,
	ARG_MAP_KEY,          /* the map's key_size bytes, read; likewise its value_size below */
	ARG_MAP_VALUE,
	ARG_MAP_VALUE_OR_NULL,
	ARG_MAP_VALUE_UNINIT, /* written */
	ARG_MEM,              /* read */
	ARG_MEM_OR_NULL,      /* read; NULL when the size is 0 */
	ARG_MEM_RW,           /* must be initialised, and is written */
	ARG_MEM_RW_OR_NULL,
	ARG_MEM_UNINIT,       /* written */
	ARG_SIZE,             /* number above 0: bytes of the memory in the argument before */
	ARG_SIZE0,            /* the same, may be 0 */
	ARG_ALLOC_SIZE,       /* constant: bytes of the memory that is returned; may be 0 */
	ARG_RINGBUF_MEM,      /* from ringbuf_reserve, at its start */
	ARG_FUNC,             /* a static subprogram, which the helper calls: rt_callback, with frame as the sixth */
	ARG_STACK_OR_NULL,    /* handed to the callback */
	ARG_CONST_STR,        /* NUL-terminated, in a frozen read-only map */
	ARG_SPIN_LOCK,        /* the bpf_spin_lock of a map value */
	ARG_TIMER,            /* the bpf_timer of a map value */
	ARG_KPTR,             /* a kptr field of a map value */
	ARG_LONG_PTR,         /* 8 aligned bytes, written */
	ARG_INT_PTR,          /* 4 aligned bytes, written */
	ARG_DYNPTR_UNINIT,    /* 16 bytes of stack that become a dynptr */
	ARG_DYNPTR_RINGBUF_UNINIT,
	ARG_DYNPTR,
	ARG_DYNPTR_RINGBUF,
	ARG_BTF,              /* an object of the kernel (task_struct) */
	ARG_BTF_OR_NULL,
	ARG_PERCPU_BTF,       /* a per-CPU variable of the kernel */
};

enum helper_ret {
	RET_SCALAR,
	RET_VOID,
	RET_MAP_VALUE_OR_NULL,
	RET_RINGBUF_MEM_OR_NULL,
	RET_DYNPTR_MEM_OR_NULL,
	RET_BTF_TASK,
	RET_BTF_REGS,
	RET_KPTR_OR_NULL,
	RET_PERCPU,
	RET_PERCPU_OR_NULL,
};

enum helper_flags {
	HELPER_PURE = 1,      /* writes no memory but what its pointer arguments name: programs that call only
	                       * such helpers leave the target's own memory alone */
	HELPER_ACQUIRE = 2,   /* what it returns (or the dynptr it makes) must be released */
	HELPER_RELEASE = 4,   /* releases its first such argument */
	HELPER_SLEEPABLE = 8, /* only in programs that may sleep */
	HELPER_GPL = 16,      /* in the kernel only for programs with a GPL-compatible licence */
};

struct helper_info {
	u8 ret;              /* enum helper_ret */
	u8 args[5];          /* enum helper_arg */
	u8 flags;            /* enum helper_flags */
	bool known;          /* the prototype is known */
	bool present;        /* implemented in the runtime; known then, too */
	const char *name;    /* "bpf_ktime_get_ns"; NULL: no such helper */
	const char *instead; /* for one that is not present: what to do meanwhile; or NULL */
};

#define HELPER_MAX_ID 255u
#define HELPER_NARGS 5u

/* Never NULL; there is an answer for any id. A helper of other program types has
 * a name only. */
const struct helper_info *vm_helper_info(u32 id);

/* How many registers, from r1 on, it looks at. */
static inline u32 helper_nargs(const struct helper_info *info)
{
	u32 n = HELPER_NARGS;

	while (n && info->args[n - 1] == ARG_NONE)
		n--;
	return n;
}
