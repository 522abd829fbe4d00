// SPDX-License-Identifier: MIT
/* Contention of mutexes: entry and return of lock, unlock, condition; states in
 * one map, results in another, strings formatted by hand. */
#include "tool.h"

enum state { ENTERED = 1, HELD, WAITING };

struct waiter {
	__u64 mutex;
	__u64 since;
	enum state state;
	__u32 depth;
};

struct mutex_stat {
	__u64 waits, wait_ns, max_ns, held_ns;
	__u32 last_owner;
	char owner[TASK_COMM_LEN];
	char address[20];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct waiter);
} waiters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct mutex_stat);
} mutexes SEC(".maps");

static void hex(char *to, __u64 value)
{
	to[0] = '0';
	to[1] = 'x';
	for (int i = 0; i < 16; i++) {
		__u32 digit = (value >> (60 - 4 * i)) & 15;

		to[2 + i] = digit < 10 ? '0' + digit : 'a' + digit - 10;
	}
}

static struct mutex_stat *stat_of(__u64 mutex)
{
	struct mutex_stat fresh = {}, *m = bpf_map_lookup_elem(&mutexes, &mutex);

	if (m)
		return m;
	hex(fresh.address, mutex);
	bpf_map_update_elem(&mutexes, &mutex, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&mutexes, &mutex);
}

SEC("uprobe")
int BPF_KPROBE(lock_enter, void *mutex)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct waiter w = { .mutex = (__u64)mutex, .since = bpf_ktime_get_ns(), .state = ENTERED };
	struct waiter *old = bpf_map_lookup_elem(&waiters, &id);

	if (old && old->state == HELD)
		w.depth = old->depth < 100 ? old->depth + 1 : 100;
	bpf_map_update_elem(&waiters, &id, &w, BPF_ANY);
	return 0;
}

SEC("uretprobe")
int BPF_KRETPROBE(lock_return, int ret)
{
	__u64 id = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns(), wait;
	struct waiter *w = bpf_map_lookup_elem(&waiters, &id);
	struct mutex_stat *m;

	if (!w || w->state != ENTERED)
		return 0;
	if (ret) {
		bpf_map_delete_elem(&waiters, &id);
		return 0;
	}
	wait = now - w->since;
	w->since = now;
	w->state = HELD;
	m = stat_of(w->mutex);
	if (!m)
		return 0;
	__sync_fetch_and_add(&m->waits, 1);
	__sync_fetch_and_add(&m->wait_ns, wait);
	if (wait > m->max_ns)
		m->max_ns = wait;
	m->last_owner = id;
	bpf_get_current_comm(m->owner, sizeof(m->owner));
	return 0;
}

SEC("uprobe")
int BPF_KPROBE(unlock, void *mutex)
{
	__u64 id = bpf_get_current_pid_tgid(), key = (__u64)mutex;
	struct waiter *w = bpf_map_lookup_elem(&waiters, &id);
	struct mutex_stat *m;

	if (!w || w->mutex != key)
		return 0;
	m = bpf_map_lookup_elem(&mutexes, &key);
	if (m)
		__sync_fetch_and_add(&m->held_ns, bpf_ktime_get_ns() - w->since);
	bpf_map_delete_elem(&waiters, &id);
	return 0;
}
