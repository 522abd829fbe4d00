// SPDX-License-Identifier: MIT
/* Lines that a shell reads: a string from a returned pointer, into a ring of
 * slots. */
#include "tool.h"

#define MAX_LINE 80
#define LINES 64

struct str_t {
	__u32 pid;
	char str[MAX_LINE];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LINES);
	__type(key, __u32);
	__type(value, struct str_t);
} lines SEC(".maps");

__u32 next;

SEC("uretprobe")
int BPF_KRETPROBE(printret, const void *ret)
{
	struct str_t data;
	char comm[TASK_COMM_LEN];
	__u32 slot;

	if (!ret)
		return 0;
	bpf_get_current_comm(&comm, sizeof(comm));
	if (comm[0] != 'b' || comm[1] != 'a' || comm[2] != 's' || comm[3] != 'h' || comm[4] != 0)
		return 0;
	data.pid = bpf_get_current_pid_tgid() >> 32;
	bpf_probe_read_user_str(&data.str, sizeof(data.str), ret);
	slot = __sync_fetch_and_add(&next, 1) % LINES;
	bpf_map_update_elem(&lines, &slot, &data, 0);
	return 0;
}
