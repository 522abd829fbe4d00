// SPDX-License-Identifier: MIT
/* What programs say to each other through TLS, before it is enciphered and after it was deciphered. */
#define __TARGET_ARCH_x86
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define TEXT_MAX 127

enum direction { WRITTEN, READ };

struct message {
	__u32 pid;
	enum direction direction;
	__u32 length; /* of the whole; text has at most TEXT_MAX of it */
	char comm[16];
	char text[TEXT_MAX + 1];
};

const struct message *unused_message __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} messages SEC(".maps");

struct call {
	const char *buf;
	__u64 done; /* of the _ex kind: where the length will stand */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64); /* thread and direction */
	__type(value, struct call);
} calls SEC(".maps");

static __u64 call_key(enum direction d)
{
	return (__u64)(__u32)bpf_get_current_pid_tgid() << 1 | d;
}

static int begin(enum direction d, const char *buf, __u64 done)
{
	struct call c = { buf, done };
	__u64 key = call_key(d);

	bpf_map_update_elem(&calls, &key, &c, BPF_ANY);
	return 0;
}

static int end(enum direction d, int result)
{
	__u64 key = call_key(d), length = result;
	struct call *c = bpf_map_lookup_elem(&calls, &key);
	struct message *m;

	if (!c)
		return 0;
	if (result > 0 && c->done && bpf_probe_read_user(&length, sizeof(length), (const void *)c->done))
		result = 0;
	m = result > 0 ? bpf_ringbuf_reserve(&messages, sizeof(*m), 0) : NULL;
	if (m) {
		m->pid = bpf_get_current_pid_tgid() >> 32;
		m->direction = d;
		m->length = length;
		bpf_get_current_comm(m->comm, sizeof(m->comm));
		__builtin_memset(m->text, 0, sizeof(m->text));
		if (length > TEXT_MAX)
			length = TEXT_MAX;
		bpf_probe_read_user(m->text, length, c->buf);
		bpf_ringbuf_submit(m, 0);
	}
	bpf_map_delete_elem(&calls, &key);
	return 0;
}

SEC("uprobe/libssl.so.3:SSL_write")
int BPF_KPROBE(on_write, void *ssl, const char *buf)
{
	return begin(WRITTEN, buf, 0);
}

SEC("uretprobe/libssl.so.3:SSL_write")
int BPF_KRETPROBE(on_written, int result)
{
	return end(WRITTEN, result);
}

SEC("uprobe/libssl.so.3:SSL_read")
int BPF_KPROBE(on_read, void *ssl, const char *buf)
{
	return begin(READ, buf, 0);
}

SEC("uretprobe/libssl.so.3:SSL_read")
int BPF_KRETPROBE(on_was_read, int result)
{
	return end(READ, result);
}

SEC("uprobe/libssl.so.3:SSL_read_ex")
int BPF_KPROBE(on_read_ex, void *ssl, const char *buf, __u64 num, __u64 done)
{
	return begin(READ, buf, done);
}

SEC("uretprobe/libssl.so.3:SSL_read_ex")
int BPF_KRETPROBE(on_was_read_ex, int result)
{
	return end(READ, result);
}

char LICENSE[] SEC("license") = "MIT";
