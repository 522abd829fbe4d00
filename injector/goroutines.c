/* SPDX-License-Identifier: MIT */
/*
 * Goroutines that wait in the middle of what is replaced. Go's scheduler stops a
 * goroutine at any instruction: its signal handler pushes where that is, leads to
 * runtime.asyncPreempt, and that saves the registers and calls the scheduler. Where the
 * goroutine goes on is then a word of its own stack that no thread's registers and
 * no signal frame lead to; so all of them are looked through, by the runtime's own list.
 *
 *	stack of a goroutine   … asyncPreempt2's frame
 *	                       an address in asyncPreempt   (what asyncPreempt2 returns to)
 *	                       registers, less than a KiB
 *	                       where it goes on             ◀─ not inside of a window
 *
 * What struct g and its gobuf begin with has been the same since Go 1.5; what does not
 * look like one is passed over.
 */
#include "inject_priv.h"

#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "injector/remote_mem.h"

#define FRAMES 1024u     /* bytes of stack that asyncPreempt and asyncPreempt2 need, at most */
#define BATCH 256u       /* goroutines read at once */
#define GOROUTINES_MAX 1000000u

struct slice {
	u64 data, len, cap;
};

/* runtime.g */
struct goroutine {
	u64 lo, hi; /* its stack */
	u64 other[5];
	u64 sp, pc; /* where it has left for the scheduler */
};
_Static_assert(sizeof(struct goroutine) == 72 && offsetof(struct goroutine, sp) == 56, "runtime.g");

void inject_goroutines(struct injection *in, const struct goroutines *g)
{
	in->go = *g;
}

static bool in_preempt(const struct injection *in, addr_t addr)
{
	return addr - in->go.preempt_lo < in->go.preempt_hi - in->go.preempt_lo;
}

bool goroutines_preempted_inside(struct injection *in, addr_t sp, addr_t ip)
{
	u64 words[FRAMES / sizeof(u64)];
	bool seen = in_preempt(in, ip);
	size_t n;

	if (!in->go.list)
		return false;
	n = remote_read_some(&in->t, sp, words, sizeof(words)) / sizeof(*words);
	for (size_t i = 0; i < n; i++) {
		if (seen && patch_is_inside(&in->set, words[i]))
			return true;
		seen = seen || in_preempt(in, words[i]);
	}
	return false;
}

/* Those of them that can be read: what the runtime has in its list stays mapped. */
static bool read_batch(struct injection *in, const u64 *addrs, size_t n, struct goroutine *ret)
{
	struct iovec local = { ret, n * sizeof(*ret) }, remote[BATCH];

	for (size_t i = 0; i < n; i++)
		remote[i] = (struct iovec){ (void *)addrs[i], sizeof(*ret) };
	if (process_vm_readv(in->t.pid, &local, 1, remote, n, 0) == (ssize_t)(n * sizeof(*ret)))
		return true;
	for (size_t i = 0; i < n; i++)
		if (remote_read(&in->t, addrs[i], &ret[i], sizeof(ret[i])))
			return false;
	return true;
}

static bool batch_is_clear(struct injection *in, const u64 *addrs, size_t n)
{
	struct goroutine g[BATCH];

	if (!read_batch(in, addrs, n, g))
		return false;
	for (size_t i = 0; i < n; i++)
		if (g[i].sp > g[i].lo && g[i].sp < g[i].hi && g[i].pc - in->go.park_lo < in->go.park_hi - in->go.park_lo &&
		    goroutines_preempted_inside(in, g[i].sp, g[i].pc))
			return false;
	return true;
}

bool goroutines_are_clear(struct injection *in, const char **why)
{
	cleanup_free u64 *addrs = NULL;
	struct slice list;

	if (!in->go.list || !in->set.interior.n)
		return true;
	*why = "its goroutines cannot be looked through";
	if (remote_read(&in->t, in->go.list, &list, sizeof(list)) || list.len > GOROUTINES_MAX)
		return false;
	addrs = calloc(list.len + 1, sizeof(*addrs));
	if (!addrs || (list.len && remote_read(&in->t, list.data, addrs, list.len * sizeof(*addrs))))
		return false;
	*why = "a goroutine that was preempted waits in the middle of the instructions to be replaced";
	for (u64 i = 0; i < list.len; i += BATCH)
		if (!batch_is_clear(in, addrs + i, list.len - i < BATCH ? list.len - i : BATCH))
			return false;
	return true;
}
