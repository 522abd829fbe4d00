// SPDX-License-Identifier: MIT
/* Which requests a server takes: those that fit into the quota of their user. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct request {
	__u32 user, bytes;
	__u64 left; /* what the user has left; written here */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} used SEC(".maps");

/* The server's own helper (admit.c): how much a user may have. */
static __u64 (*const quota_of)(__u32 user) = (void *)0x1000;

SEC("request")
int admit(struct request *r)
{
	__u32 user = r->user;
	__u64 bytes = r->bytes, quota = quota_of(user);
	__u64 *sum = bpf_map_lookup_elem(&used, &user);
	__u64 before = sum ? *sum : 0;

	if (before + bytes > quota)
		return 0;
	before += bytes;
	r->left = quota - before;
	bpf_map_update_elem(&used, &user, &before, BPF_ANY);
	return 1;
}

char LICENSE[] SEC("license") = "MIT";
