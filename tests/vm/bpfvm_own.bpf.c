// SPDX-License-Identifier: MIT
/* Programs for a ctx and helpers of an embedder's own (test_bpfvm.c has them). */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct packet {
	__u32 len;
	__u32 mark; /* may be written */
	__u64 hidden;
	__u8 bytes[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} hits SEC(".maps");

static long (*const checksum)(const void *mem, __u32 size) = (void *)0x1000;
static long (*const fill)(void *mem, __u32 size, __u64 byte) = (void *)0x1001;
static __u64 *(*const slot_of)(void *map, const __u32 *key) = (void *)0x1002;
static void (*const say)(const char *text) = (void *)0x1003;

const char hello[] = "hello";

SEC("packet/mark")
int mark(struct packet *p)
{
	p->mark = p->len * 2;
	return p->bytes[3];
}

SEC("packet/helpers")
int helpers(struct packet *p)
{
	__u8 buf[8];

	fill(buf, sizeof(buf), p->len);
	return checksum(buf, sizeof(buf));
}

SEC("packet/slot")
int slot(struct packet *p)
{
	__u32 key = p->len;
	__u64 *v = slot_of(&hits, &key);

	if (!v)
		return -1;
	return ++*v;
}

SEC("packet/say")
int says(struct packet *p)
{
	say(hello);
	return 0;
}

/* Each of these is wrong in one thing. */

SEC("wrong/hidden")
int reads_hidden(struct packet *p)
{
	return p->hidden;
}

SEC("wrong/write")
int writes_len(struct packet *p)
{
	p->len = 1;
	return 0;
}

SEC("wrong/beyond")
int reads_beyond(__u64 *p)
{
	return p[4];
}

SEC("wrong/size")
int too_large(struct packet *p)
{
	__u8 buf[8] = { 0 };

	return checksum(buf, 600);
}

SEC("wrong/number")
int no_memory(struct packet *p)
{
	__u32 len = p->len;

	return checksum((void *)(unsigned long)len, 4);
}

SEC("wrong/null")
int no_null_check(struct packet *p)
{
	__u32 key = p->len;

	return *slot_of(&hits, &key);
}

SEC("wrong/unknown")
int unknown_helper(struct packet *p)
{
	static long (*const nobody)(void) = (void *)0x1fff;

	return nobody();
}

char LICENSE[] SEC("license") = "MIT";
