/* SPDX-License-Identifier: MIT */
/*
 * Helpers beside the kernel's: each program of helpers.bpf.c is run by the kernel
 * (as a raw tracepoint's, which BPF_PROG_TEST_RUN runs when asked), by libbpfvm
 * compiled and by libbpfvm interpreted, on the same arguments, and must leave the
 * same. Where bpf(2) is not permitted the programs run all the same, and what is
 * known of a result by itself is checked.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <check.h>
#include <errno.h>
#include <linux/bpf.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/suite.h"
#include "tests/vm/helpers_io.h"
#include "vm/bpfvm.h"

#define NCPUS_MAX 512

static struct bpfvm *vm;
static struct bpf_object *kernel; /* NULL: not permitted */
static int ncpus;

static int quiet(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	return level == LIBBPF_WARN && getenv("VERBOSE") ? vfprintf(stderr, fmt, ap) : 0;
}

static void open_all(void)
{
	const char *path = getenv("HELPERS_OBJECT");
	struct bpfvm_error *error = NULL;

	ck_assert_ptr_nonnull(path);
	vm = bpfvm_open_file(path, &error);
	ck_assert_msg(vm != NULL, "%s", error ? bpfvm_error_message(error) : "");
	ck_assert_msg(!bpfvm_load(vm, 0, &error), "%s\n%s", error ? bpfvm_error_message(error) : "",
		      error ? bpfvm_error_log(error) : "");
	libbpf_set_print(quiet);
	ncpus = libbpf_num_possible_cpus();
	kernel = bpf_object__open_file(path, NULL);
	ck_assert_ptr_nonnull(kernel);
	if (bpf_object__load(kernel)) {
		ck_assert_msg(errno == EPERM, "the kernel refuses: %s", strerror(errno));
		bpf_object__close(kernel);
		kernel = NULL;
	}
}

static void close_all(void)
{
	bpfvm_close(vm);
	bpf_object__close(kernel);
}

static int kernel_map(const char *name)
{
	return bpf_object__find_map_fd_by_name(kernel, name);
}

static void run_in_kernel(const char *name, struct io *io)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts);
	const struct bpf_program *p = bpf_object__find_program_by_name(kernel, name);
	__u32 zero = 0;

	ck_assert_int_eq(bpf_map_update_elem(kernel_map("io"), &zero, io, 0), 0);
	ck_assert_int_eq(bpf_prog_test_run_opts(bpf_program__fd(p), &opts), 0);
	ck_assert_int_eq(bpf_map_lookup_elem(kernel_map("io"), &zero, io), 0);
}

static void run_here(const char *name, struct io *io, bool interpret)
{
	struct bpfvm_map *m = bpfvm_map_find(vm, "io");
	const struct bpfvm_prog *p = bpfvm_prog_find(vm, name);
	uint64_t ctx[32] = { 0 };
	__u32 zero = 0;

	ck_assert_int_eq(bpfvm_map_update(m, &zero, io, 0), 0);
	ck_assert_int_eq(interpret ? bpfvm_interpret(p, ctx, sizeof(ctx), 0, NULL) : bpfvm_run(p, ctx, sizeof(ctx), NULL), 0);
	ck_assert_int_eq(bpfvm_map_lookup(m, &zero, io), 0);
}

static void same(const char *name, const struct io *in, const struct io *want, const struct io *got, const char *who)
{
	ck_assert_msg(want->ret == got->ret && want->number == got->number && !memcmp(want->out, got->out, sizeof(got->out)),
		      "%s(text \"%.64s\", len %u, format %u, args %llx %llx %llx %llx) %s: %lld, %lld, \"%.256s\"; expected %lld, %lld, \"%.256s\"",
		      name, in->text, in->len, in->format, in->args[0], in->args[1], in->args[2], in->args[3], who,
		      (long long)got->ret, (long long)got->number, got->out, (long long)want->ret, (long long)want->number,
		      want->out);
}

/* What NAME makes of IO, everywhere. */
static struct io compare(const char *name, const struct io *io)
{
	struct io jit = *io, interp = *io, want = *io;

	run_here(name, &jit, false);
	run_here(name, &interp, true);
	same(name, io, &jit, &interp, "interpreted");
	if (kernel) {
		run_in_kernel(name, &want);
		same(name, io, &want, &jit, "compiled");
	}
	return jit;
}

static struct io text_io(const char *text, size_t len, __u64 arg)
{
	struct io io = { .len = (__u32)len, .args = { arg } };

	memcpy(io.text, text, len < sizeof(io.text) ? len : sizeof(io.text));
	return io;
}

static void both_numbers(const char *text, size_t len, __u64 flags)
{
	struct io io = text_io(text, len, flags);

	compare("do_strtol", &io);
	compare("do_strtoul", &io);
}

static unsigned rnd(unsigned n)
{
	static unsigned long long state = 88172645463325252ull;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (unsigned)(state >> 20) % n;
}

START_TEST(numbers)
{
	static const char *const rows[] = { "0", "1", "-1", "+1", "  42", "\t-42x", "0x1f", "0X1F", "0x", "0xg", "-0x10", "017", "08",
		"9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
		"18446744073709551615", "18446744073709551616", "99999999999999999999999", "0xffffffffffffffff",
		"0x10000000000000000", "1777777777777777777777", "2000000000000000000000", "", "-", " ", "--1", "- 1", "abc",
		"ABCDEF", "\xa0 5", "12 34", "00000000000000000000000000000000000000000000000000000000000005",
		"                                                              3" };
	static const __u64 flags[] = { 0, 8, 10, 16, 1, 2, 32, 1ull << 32, ~0ull };
	struct io io;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (size_t k = 0; k < sizeof(flags) / sizeof(flags[0]); k++)
			both_numbers(rows[i], strlen(rows[i]), flags[k]);
	io = text_io("-77 and", 7, 10);
	io = compare("do_strtol", &io);
	ck_assert_int_eq(io.ret, 3);
	ck_assert_int_eq((long long)io.number, -77);
}
END_TEST

START_TEST(random_numbers)
{
	static const char chars[] = "00112345678889abcdefxX-+ \t\n\r.g_\x7f\x80";
	char text[64];

	for (int i = 0; i < 3000; i++) {
		size_t len = rnd(rnd(4) ? 8 : 64);

		for (size_t k = 0; k < len; k++)
			text[k] = chars[rnd(sizeof(chars))];
		both_numbers(text, len, (const __u64[]){ 0, 8, 10, 16 }[rnd(4)]);
	}
}
END_TEST

START_TEST(strings)
{
	static const char *const rows[] = { "", "a", "b", "ab", "A", "seven77", "seven78", "seven7", "eighteight", "eighteighT",
		"eighteighty", "sixteen characters and some more", "sixteen characters and some mor",
		"sixteen characters And some more", "sixteen characters and some more and more",
		"\xff\x80 above 127", "\xff\x81", "\x7f" };

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (__u64 with = 0; with < 6; with++)
			for (size_t len = 1; len <= 64; len++) {
				struct io io = text_io(rows[i], strlen(rows[i]), with);

				io.len = (__u32)len;
				io = compare("do_strncmp", &io);
				if (!strcmp(rows[i], "sixteen characters and some mor") && with == 4)
					ck_assert_int_eq(io.ret, len < 32 ? 0 : -1);
			}
}
END_TEST

START_TEST(formats)
{
	static const __u64 rows[][IO_ARGS] = {
		{ 0, 0, 0, 0 },
		{ 1, 2, 3, 4 },
		{ 'a', 'b', 'c', 'd' },
		{ ~0ull, ~0ull, ~0ull, ~0ull },
		{ 1ull << 63, 1ull << 31, 1ull << 32, 0xdeadbeefcafe },
		{ (__u64)-5, (__u64)-42, 42, (__u64)INT64_MIN },
	};
	static const __u32 room[] = { 256, 20, 8, 1, 0 };

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (__u32 format = 0; format < NFORMATS; format++)
			for (size_t k = 0; k < sizeof(room) / sizeof(room[0]); k++) {
				struct io io = { .format = format, .len = room[k] };

				memcpy(io.args, rows[i], sizeof(io.args));
				memset(io.out, '~', sizeof(io.out));
				io = compare("do_snprintf", &io);
				if (i == 1 && format == 1 && !k)
					ck_assert_str_eq(io.out, "1 2 3 4");
			}
}
END_TEST

START_TEST(formats_of_memory)
{
	for (__u32 len = 0; len < 64; len++)
		for (__u32 format = 0; format < 2; format++) {
			struct io io = { .format = format, .args = { 0x0100007f, 0x1122334455667788 } };

			memset(io.text, 'x', len);
			io = compare("do_snprintf_memory", &io);
			if (len == 3 && format == 0)
				ck_assert_msg(!strncmp(io.out, "xxx 127.0.0.1 127.000.000.001 ", 30), "%s", io.out);
		}
}
END_TEST

START_TEST(own_namespace)
{
	struct stat st;
	struct io io;

	ck_assert_int_eq(stat("/proc/self/ns/pid", &st), 0);
	for (int i = 0; i < 4; i++) {
		io = (struct io){ .args = { st.st_dev + (i & 1), st.st_ino + (i >> 1) } };
		io = compare("do_ns_pid", &io);
		ck_assert_int_eq(io.ret, i ? -EINVAL : 0);
		ck_assert_uint_eq(io.number, i ? 0 : (__u64)getpid() << 32 | (__u64)gettid());
	}
	io = (struct io){ .args = { st.st_dev | 1ull << 40, st.st_ino } };
	compare("do_ns_pid", &io);
}
END_TEST

static __u64 now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (__u64)t.tv_sec * 1000000000u + (__u64)t.tv_nsec;
}

/* Within a few ticks of the kernel's, and between what the clocks say before and after. */
START_TEST(clocks)
{
	for (int way = 0; way < 2; way++) {
		struct io before = { 0 }, io = { 0 }, after = { 0 };
		__u64 tai = now(CLOCK_TAI), boot = now(CLOCK_BOOTTIME);

		if (kernel)
			run_in_kernel("do_clocks", &before);
		run_here("do_clocks", &io, way);
		if (kernel) {
			run_in_kernel("do_clocks", &after);
			ck_assert_int_ge(io.ret, before.ret - 3);
			ck_assert_int_le(io.ret, after.ret + 3);
		}
		ck_assert(io.number >= tai && io.number <= now(CLOCK_TAI));
		ck_assert(io.args[0] >= boot && io.args[0] <= now(CLOCK_BOOTTIME));
	}
}
END_TEST

static void fill_percpu(const char *name, __u32 key)
{
	__u64 values[NCPUS_MAX];

	ck_assert_int_le(ncpus, NCPUS_MAX);
	for (int i = 0; i < ncpus; i++)
		values[i] = 1000u * (key + 1) + (__u64)i;
	if (kernel)
		ck_assert_int_eq(bpf_map_update_elem(kernel_map(name), &key, values, 0), 0);
	ck_assert_int_eq(bpfvm_map_update(bpfvm_map_find(vm, name), &key, values, 0), 0);
}

START_TEST(other_cpus)
{
	for (__u32 key = 0; key < 2; key++) {
		fill_percpu("per_cpu", key);
		fill_percpu("per_cpu_hash", key);
	}
	for (__u32 hash = 0; hash < 2; hash++)
		for (__u32 key = 0; key < 4; key++)
			for (int cpu = 0; cpu < ncpus + 2; cpu++) {
				struct io io = { .len = hash, .args = { key, (__u64)cpu } };

				io = compare("do_percpu", &io);
				ck_assert_int_eq(io.ret, key < 2 && cpu < ncpus ? 1000 * ((int)key + 1) + cpu : -1);
			}
	for (int i = 0; i < 3; i++) {
		struct io io = { .args = { 0, (const __u64[]){ ~0ull, 1ull << 32, 64 + (__u64)ncpus }[i] } };

		compare("do_percpu", &io);
	}
}
END_TEST

static void fill_memory(void)
{
	__u32 zero = 0;
	char bytes[128];

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)(i * 7 + 1);
	if (kernel)
		ck_assert_int_eq(bpf_map_update_elem(kernel_map("memory"), &zero, bytes, 0), 0);
	ck_assert_int_eq(bpfvm_map_update(bpfvm_map_find(vm, "memory"), &zero, bytes, 0), 0);
}

static const __u64 sizes[] = { 0, 1, 8, 12, 31, 32, 64, 127, 128 };
static const __u64 offsets[] = { 0, 1, 8, 63, 64, 127, 128, 129, 1ull << 31, ~0u, 1ull << 32, 1ull << 32 | 8, ~0ull };
static const __u32 lens[] = { 0, 1, 7, 8, 9, 63, 64 };

#define EACH(i, of) (size_t i = 0; i < sizeof(of) / sizeof(*(of)); i++)

START_TEST(dynptr_reads)
{
	fill_memory();
	for EACH(s, sizes)
		for EACH(o, offsets)
			for EACH(l, lens)
				for (__u64 flags = 0; flags < 4; flags++) {
					struct io io = { .args = { sizes[s], offsets[o], flags & 1, flags >> 1 }, .len = lens[l] };

					io = compare("do_dynptr_read", &io);
					if (sizes[s] == 64 && offsets[o] == 8 && lens[l] == 7 && !flags)
						ck_assert(!io.ret && io.number == 1 + 11 * 7 + 1 && io.out[6] == 14 * 7 + 1);
				}
}
END_TEST

START_TEST(dynptr_writes)
{
	fill_memory();
	for EACH(s, sizes)
		for EACH(o, offsets)
			for EACH(l, lens)
				for (__u64 flags = 0; flags < 4; flags++) {
					struct io io = { .args = { sizes[s], offsets[o], flags & 1, flags >> 1 }, .len = lens[l] };

					memset(io.text, (int)(s + o + l), sizeof(io.text));
					/* each of the three changes a memory that was the same before */
					fill_memory();
					run_here("do_dynptr_write", &io, false);
					if (kernel) {
						struct io want = { .args = { sizes[s], offsets[o], flags & 1, flags >> 1 },
								   .len = lens[l] };

						memset(want.text, (int)(s + o + l), sizeof(want.text));
						run_in_kernel("do_dynptr_write", &want);
						same("do_dynptr_write", &want, &want, &io, "compiled");
					}
					if (sizes[s] == 64 && offsets[o] == 8 && lens[l] == 7 && !flags)
						ck_assert(!io.ret && io.out[8] == io.text[0] && io.out[15] == 15 * 7 + 1);
				}
}
END_TEST

START_TEST(dynptr_records)
{
	static const __u64 records[] = { 0, 1, 8, 16, 64, 4088, 4089, 4096, 1 << 24, ~0u, 1ull << 32 | 16 };

	for EACH(s, records)
		for EACH(o, offsets)
			for (__u64 flags = 0; flags < 4; flags++) {
				struct io io = { .args = { records[s], offsets[o], flags & 1, flags >> 1 }, .len = 8, .text = "a record" }, want = io;

				/* a ring of its own each time: they fill up */
				close_all();
				open_all();
				run_here("do_dynptr_ring", &io, (int)(s & 1));
				if (!kernel)
					continue;
				run_in_kernel("do_dynptr_ring", &want);
				same("do_dynptr_ring", &want, &want, &io, "compiled or interpreted");
			}
}
END_TEST

static struct {
	char bytes[64];
	__u32 size, n;
} sample;

static void on_sample(void *ctx, int cpu, void *data, __u32 size)
{
	(void)ctx;
	ck_assert_int_eq(cpu, 0);
	memcpy(sample.bytes, data, size < sizeof(sample.bytes) ? size : sizeof(sample.bytes));
	sample.size = size;
	sample.n++;
}

/* What it answers, and in the kernel that this is what a reader gets. (Ours is read
 * by the tests of maps and of the daemon.) */
START_TEST(perf_events)
{
	static const __u64 flags[] = { 0xffffffff, 0, 1, 2, 3, 63, 1000000, 1ull << 32, 1ull << 32 | 0xffffffff, ~0ull };
	struct perf_buffer *reader = NULL;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(0, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		return;
	if (kernel)
		reader = perf_buffer__new(kernel_map("events"), 8, on_sample, NULL, NULL, NULL);
	for EACH(f, flags)
		for EACH(l, lens)
			for (int way = 0; way < 2; way++) {
				struct io io = { .args = { flags[f] }, .len = lens[l], .text = "sixteen bytes and some more" }, want = io;

				run_here("do_perf", &io, way);
				ck_assert(f > 1 || !io.ret);
				if (!reader)
					continue;
				sample.n = 0;
				run_in_kernel("do_perf", &want);
				same("do_perf", &want, &want, &io, "compiled or interpreted");
				perf_buffer__consume(reader);
				ck_assert_uint_eq(sample.n, !want.ret);
				if (!want.ret) /* padded there */
					ck_assert(sample.size >= lens[l] && !memcmp(sample.bytes, io.text, lens[l]));
			}
	perf_buffer__free(reader);
}
END_TEST

/* The same records for both. */
static void post(struct user_ring_buffer *to, const __u64 *record, __u32 size)
{
	void *at;

	ck_assert_int_eq(bpfvm_map_post(bpfvm_map_find(vm, "commands"), record, size), 0);
	if (!to)
		return;
	at = user_ring_buffer__reserve(to, size);
	ck_assert_ptr_nonnull(at);
	memcpy(at, record, size);
	user_ring_buffer__submit(to, at);
}

START_TEST(drained_records)
{
	struct user_ring_buffer *to = kernel ? user_ring_buffer__new(kernel_map("commands"), NULL) : NULL;

	for (int round = 0; round < 200; round++) {
		struct io io = { .args = { rnd(4) ? rnd(20) : 1000, rnd(3) ? rnd(4) : rnd(9) } }, want = io;
		unsigned n = rnd(12);

		for (unsigned i = 0; i < n; i++) {
			__u64 record[8] = { rnd(20), rnd(1000) };

			post(to, record, rnd(4) ? 8 + rnd(7) * 8 : rnd(64));
		}
		run_here("do_drain", &io, round % 2);
		if (!to)
			continue;
		run_in_kernel("do_drain", &want);
		same("do_drain", &want, &want, &io, "compiled or interpreted");
		ck_assert_uint_eq(want.args[2], io.args[2]);
		ck_assert_uint_eq(want.args[3], io.args[3]);
	}
	user_ring_buffer__free(to);
}
END_TEST

static volatile sig_atomic_t nsignals[65], number_seen[65];

/* What the program has got to when the signal comes. */
static void on_signal(int sig)
{
	const struct io *io = bpfvm_map_element(bpfvm_map_find(vm, "io"), &(__u32){ 0 });

	nsignals[sig]++;
	number_seen[sig] = (int)io->number;
}

START_TEST(signals)
{
	static const __u64 sigs[] = { SIGUSR1, SIGUSR2, 0, 64, 65, 200, 1ull << 32, (__u64)-1 };

	for (size_t i = 0; i < 4; i++)
		if (sigs[i])
			signal((int)sigs[i], on_signal);
	for (size_t i = 0; i < sizeof(sigs) / sizeof(sigs[0]); i++)
		for (__u64 thread = 0; thread < 2; thread++)
			for (int way = 0; way < 2; way++) {
				struct io io = { .args = { sigs[i], thread } }, k = io;
				int sig = sigs[i] <= 64 ? (int)sigs[i] : 0, before = nsignals[sig];

				run_here("do_signal", &io, way);
				ck_assert_int_eq(nsignals[sig], before + !!sig);
				ck_assert(!sig || number_seen[sig] == 1);
				if (!kernel)
					continue;
				run_in_kernel("do_signal", &k);
				ck_assert_int_eq(io.ret, k.ret);
				ck_assert_int_eq(nsignals[sig], before + 2 * !!sig);
			}
}
END_TEST

/* The first of two goes out when the second is wanted, the second at the end of the
 * program. */
START_TEST(signals_and_more)
{
	signal(SIGUSR1, on_signal);
	signal(SIGUSR2, on_signal);
	for (int way = 0; way < 2; way++) {
		struct io io = { .args = { SIGUSR1, SIGUSR2 } };
		int before[] = { nsignals[SIGUSR1], nsignals[SIGUSR2] };

		run_here("do_signal_busy", &io, way);
		ck_assert_int_eq(io.ret, 0);
		ck_assert_int_eq(io.number, 5);
		ck_assert_int_eq(nsignals[SIGUSR1], before[0] + 1);
		ck_assert_int_eq(nsignals[SIGUSR2], before[1] + 1);
		ck_assert_int_eq(number_seen[SIGUSR1], 0);
		ck_assert_int_eq(number_seen[SIGUSR2], 5);
	}
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("helpers");

	tcase_add_unchecked_fixture(tc, open_all, close_all);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, numbers);
	tcase_add_test(tc, random_numbers);
	tcase_add_test(tc, strings);
	tcase_add_test(tc, formats);
	tcase_add_test(tc, formats_of_memory);
	tcase_add_test(tc, own_namespace);
	tcase_add_test(tc, clocks);
	tcase_add_test(tc, other_cpus);
	tcase_add_test(tc, dynptr_reads);
	tcase_add_test(tc, dynptr_writes);
	tcase_add_test(tc, dynptr_records);
	tcase_add_test(tc, perf_events);
	tcase_add_test(tc, drained_records);
	tcase_add_test(tc, signals);
	tcase_add_test(tc, signals_and_more);
	return run_case("helpers_kernel", tc);
}
