// SPDX-License-Identifier: MIT
/* Requests of a web server by method and first part of the path: a string taken
 * apart byte by byte in bounded loops. */
#include "tool.h"

#define REQUEST_MAX 128
#define PART_MAX 24

struct key {
	char method[8];
	char part[PART_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct key);
	__type(value, __u64);
} requests SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, char[REQUEST_MAX]);
} scratch SEC(".maps");

SEC("uprobe")
int BPF_KPROBE(request, const char *line)
{
	struct key key = {};
	__u64 one = 1, *count;
	__u32 zero = 0, i, j;
	char *buf = bpf_map_lookup_elem(&scratch, &zero);
	long len;

	if (!buf)
		return 0;
	len = bpf_probe_read_user_str(buf, REQUEST_MAX, line);
	if (len <= 0)
		return 0;
	for (i = 0; i < sizeof(key.method) - 1; i++) {
		if (buf[i] == ' ' || !buf[i])
			break;
		key.method[i] = buf[i];
	}
	if (buf[i & 7] != ' ')
		return 0;
	i++;
	for (j = 0; j < PART_MAX - 1; j++) {
		char c = buf[(i + j) & (REQUEST_MAX - 1)];

		if (!c || c == ' ' || c == '?' || (j && c == '/'))
			break;
		key.part[j] = c;
	}
	count = bpf_map_lookup_elem(&requests, &key);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&requests, &key, &one, BPF_NOEXIST);
	return 0;
}
