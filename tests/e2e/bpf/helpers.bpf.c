// SPDX-License-Identifier: MIT
/* Helpers in a real process. */
#define __TARGET_ARCH_x86
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct found {
	char comm[16];
	__u32 uid, gid;
	__u32 pid, tid;       /* of the namespace in `ns` */
	__s64 ns_result;
	__s64 sent;
	__u64 entries, exits;
	__s64 compared, number;
	char text[64];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct found);
} found SEC(".maps");

struct ns {
	__u64 dev, ino;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ns);
} ns SEC(".maps");

int on_exit(struct pt_regs *ctx);

static struct found *at(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&found, &zero);
}

SEC("uprobe")
int BPF_KPROBE(on_who, unsigned long n)
{
	struct found *f = at();
	struct bpf_pidns_info info = {};
	__u64 ids = bpf_get_current_uid_gid();
	__u32 zero = 0;
	struct ns *of = bpf_map_lookup_elem(&ns, &zero);

	if (!f || !of)
		return 0;
	bpf_get_current_comm(f->comm, sizeof(f->comm));
	f->uid = ids;
	f->gid = ids >> 32;
	f->ns_result = bpf_get_ns_current_pid_tgid(of->dev, of->ino, &info, sizeof(info));
	f->pid = info.tgid;
	f->tid = info.pid;
	return 0;
}

SEC("uprobe")
int BPF_KPROBE(on_names, unsigned long n)
{
	struct found *f = at();

	if (!f)
		return 0;
	bpf_get_current_comm(f->comm, sizeof(f->comm));
	f->uid = bpf_get_current_uid_gid();
	f->entries++;
	return 0;
}

SEC("uprobe")
int BPF_KPROBE(on_text, unsigned long n)
{
	static const char fmt[] = "%d of %s: %lx";
	struct found *f = at();
	char word[16] = {};
	__u64 args[3];

	if (!f)
		return 0;
	bpf_get_current_comm(word, sizeof(word));
	f->compared = bpf_strncmp(word, sizeof(word), "e2e_helpers");
	args[0] = n;
	args[1] = (long)word;
	args[2] = n << 32;
	bpf_snprintf(f->text, sizeof(f->text), fmt, args, sizeof(args));
	bpf_strtol(f->text, sizeof(f->text), 10, (long *)&f->number);
	bpf_trace_vprintk(fmt, sizeof(fmt), args, sizeof(args));
	return 0;
}

/* 1: SIGUSR1 to the process, 2: SIGUSR2 to the thread, others: no such signal */
SEC("uprobe")
int BPF_KPROBE(on_signal, unsigned long n)
{
	struct found *f = at();

	if (!f)
		return 0;
	if (n == 1)
		f->sent = bpf_send_signal(10);
	else if (n == 2)
		f->sent = bpf_send_signal_thread(12);
	else
		f->sent = bpf_send_signal(n);
	return 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__array(values, int(void *));
} next SEC(".maps") = { .values = { [0] = (void *)&on_exit } };

/* … by a program that goes on in another one */
SEC("uprobe")
int BPF_KPROBE(on_signal_tail, unsigned long n)
{
	bpf_send_signal_thread(10);
	bpf_tail_call(ctx, &next, 0);
	return 0;
}

SEC("uprobe")
int BPF_KPROBE(on_entry)
{
	struct found *f = at();

	if (f)
		f->entries++;
	return 0;
}

SEC("uretprobe")
int BPF_KRETPROBE(on_exit)
{
	struct found *f = at();

	if (f)
		f->exits++;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
