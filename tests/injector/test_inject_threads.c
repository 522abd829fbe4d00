/* SPDX-License-Identifier: MIT */
/* Threads in the way: hammering the site, standing in it, sleeping in a system
 * call in it, under a handler on top of it, being born, being dead. */
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "injector/tracee.h"
#include "probe.h"
#include "tests/support/suite.h"

static struct patch reversed(const struct patch *p)
{
	struct patch back = { .addr = p->addr, .len = p->len, .restore = true };

	memcpy(back.old_bytes, p->new_bytes, p->len);
	memcpy(back.new_bytes, p->old_bytes, p->len);
	return back;
}

static void patch_and_back(struct injection *in, const struct probe *p, struct inject_stats *worst, u32 *moved)
{
	struct patch back = reversed(&p->patch);
	struct inject_stats s = {};

	ok(inject_patch(in, &p->patch));
	ok(inject_commit(in, &s));
	*moved += s.moved;
	if (s.stopped_ns > worst->stopped_ns)
		*worst = s;
	ok(inject_patch(in, &back));
	ok(inject_commit(in, &s));
	*moved += s.moved;
}

static void hammer_rounds(int nthreads, int rounds)
{
	struct victim v = victim_start("hammer", nthreads);
	struct text before = text_read(v.pid, v.shared->site), after;
	struct injection *in = probe_begin(v.pid, NULL);
	struct inject_stats worst = {}, s;
	u64 from, hits, addrs[2];
	struct patch back;
	struct probe p;
	u32 moved = 0;

	ok(probe_place(in, &v, &p));
	back = reversed(&p.patch);
	ok(inject_commit(in, &s)); /* the first time it is in the list already */
	ok(inject_patch(in, &back));
	ok(inject_commit(in, &s));
	for (int i = 0; i < rounds; i++)
		patch_and_back(in, &p, &worst, &moved);
	/* Every call that begins from here on is counted. The threads' own
	 * counts are read while they stand still, between two calls or in one. */
	kill(v.pid, SIGSTOP);
	victim_await(victim_state(v.pid) == 'T');
	ok(inject_patch(in, &p.patch));
	ok(inject_commit(in, &s));
	victim_await(victim_state(v.pid) == 'T');
	from = victim_calls(&v);
	hits = *p.counter;
	kill(v.pid, SIGCONT);
	victim_await(victim_calls(&v) > from + 1000);
	VICTIM_WRITE(v.shared->stop, 1);
	victim_await(VICTIM_READ(v.shared->state) == 1);
	ck_assert_uint_ge(*p.counter - hits + nthreads, victim_calls(&v) - from);
	ck_assert_uint_le(*p.counter - hits, victim_calls(&v) - from);
	ok(inject_patch(in, &back));
	ok(inject_unmap(in, p.code.addr, p.code.size, true, NULL, NULL));
	ok(inject_unmap(in, p.data.addr, p.data.size, false, NULL, NULL));
	ok(inject_commit(in, &s));
	ck_assert_uint_eq(s.retired, 0);
	inject_end(in);
	addrs[0] = p.code.addr;
	addrs[1] = p.data.addr;
	ck_assert_int_eq(victim_count_ours(v.pid, addrs, 2), 0);
	after = text_read(v.pid, v.shared->site);
	ck_assert(text_equal(&before, &after));
	ck_assert_uint_eq(VICTIM_READ(v.shared->wrong), 0);
	ck_assert(victim_alive(&v));
	printf("# %d threads, %d rounds: longest stop %.3f ms, %u moved\n", nthreads, rounds, worst.stopped_ns / 1e6,
	       moved);
	probe_unmap_here(&p);
	text_free(&before);
	text_free(&after);
	victim_kill(&v);
}

START_TEST(hammer_few)
{
	hammer_rounds(4, 300);
}
END_TEST

START_TEST(hammer_many)
{
	hammer_rounds(100, 350);
}
END_TEST

/* The window of vic_park: mov, pause, cmpq, je: 11 bytes, with a copy that has
 * its own loop. */
static void place_park(struct injection *in, const struct victim *v, struct probe *ret)
{
	static const u8 window[] = { 0x48, 0x89, 0xf8, 0xf3, 0x90, 0x48, 0x83, 0x38, 0x00, 0x74, 0xf8 };
	addr_t site = v->shared->site;
	struct inject_range r = { .kind = RANGE_CODE, .size = PAGE, .near = site, .near_end = site + 64 };
	u8 *code;
	s32 rel;

	*ret = (struct probe){};
	ok(inject_place(in, &r, 1));
	ret->code = r;
	code = r.local;
	memcpy(code, window, sizeof(window));
	code[11] = 0xe9;
	rel = (s32)(site + 11 - (r.addr + 16));
	memcpy(code + 12, &rel, sizeof(rel));
	ret->patch = (struct patch){ .addr = site, .len = sizeof(window), .nmoves = 4 };
	memcpy(ret->patch.old_bytes, window, sizeof(window));
	memset(ret->patch.new_bytes, 0xcc, sizeof(window));
	ret->patch.new_bytes[0] = 0xe9;
	rel = (s32)(r.addr - (site + 5));
	memcpy(ret->patch.new_bytes + 1, &rel, sizeof(rel));
	for (int i = 0; i < 4; i++) {
		static const u8 off[] = { 0, 3, 5, 9 };

		ret->patch.moves[i] = (struct patch_move){ site + off[i], r.addr + off[i] };
	}
}

START_TEST(parked_thread_is_moved)
{
	struct victim v = victim_start("park", 1);
	struct injection *in = probe_begin(v.pid, NULL);
	struct inject_stats s = {};
	struct patch back;
	struct probe p;

	place_park(in, &v, &p);
	ok(inject_patch(in, &p.patch));
	ok(inject_commit(in, &s));
	ck_assert_uint_eq(s.moved, 1);
	/* It spins in our copy now: the range cannot be unmapped. */
	back = reversed(&p.patch);
	ok(inject_patch(in, &back));
	ok(inject_unmap(in, p.code.addr, p.code.size, true, NULL, NULL));
	ok(inject_commit(in, &s));
	ck_assert_uint_eq(s.retired, 1);
	ck_assert_int_eq(victim_count_ours(v.pid, &p.code.addr, 1), 1);
	VICTIM_WRITE(v.shared->go, 1);
	victim_await(VICTIM_READ(v.shared->state) == 1);
	ck_assert_uint_eq(VICTIM_READ(v.shared->wrong), 0);
	/* And now it can. */
	ok(inject_unmap(in, p.code.addr, p.code.size, true, NULL, NULL));
	ok(inject_commit(in, &s));
	ck_assert_uint_eq(s.retired, 0);
	ck_assert_int_eq(victim_count_ours(v.pid, &p.code.addr, 1), 0);
	inject_end(in);
	probe_unmap_here(&p);
	victim_kill(&v);
}
END_TEST

START_TEST(parked_without_a_copy_is_refused)
{
	struct victim v = victim_start("park", 1);
	struct text before = text_read(v.pid, v.shared->site), after;
	struct injection *in = probe_begin(v.pid, NULL);
	struct inject_stats s = {};
	struct probe p;

	place_park(in, &v, &p);
	p.patch.nmoves = 0;
	ok(inject_patch(in, &p.patch));
	refused(inject_commit(in, &s), UERR_CANNOT_PROBE, "a thread is in the middle of");
	inject_end(in);
	ck_assert_int_eq(victim_count_ours(v.pid, &p.code.addr, 1), 0);
	after = text_read(v.pid, v.shared->site);
	ck_assert(text_equal(&before, &after));
	VICTIM_WRITE(v.shared->go, 1);
	victim_await(VICTIM_READ(v.shared->state) == 1);
	ck_assert_uint_eq(VICTIM_READ(v.shared->wrong), 0);
	text_free(&before);
	text_free(&after);
	probe_unmap_here(&p);
	victim_kill(&v);
}
END_TEST

/* The victim's mapping of libc's text: where it begins, and KiB of it that are its own copy; -1: none. */
static long libc_text(pid_t pid, addr_t *lo)
{
	char path[40], line[400];
	bool here = false;
	long kib = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	f = fopen(path, "r");
	ck_assert_ptr_nonnull(f);
	while (kib < 0 && fgets(line, sizeof(line), f)) {
		unsigned long from;
		char perms[5];

		if (sscanf(line, "%lx-%*x %4s", &from, perms) == 2 && strstr(line, "libc.so")) {
			here = perms[2] == 'x';
			*lo = from;
		}
		if (here)
			sscanf(line, "Private_Dirty: %ld", &kib);
	}
	fclose(f);
	return kib;
}

/* So many pages that they are made private ahead of the stop, in which it turns out that nothing can be changed. */
START_TEST(pages_of_a_change_that_fails_go_back)
{
	struct victim v = victim_start("park", 1);
	struct injection *in = probe_begin(v.pid, NULL);
	struct inject_stats s = {};
	struct probe p;
	char path[40];
	addr_t lo = 0;
	FILE *mem;

	ck_assert_int_eq(libc_text(v.pid, &lo), 0);
	snprintf(path, sizeof(path), "/proc/%d/mem", v.pid);
	mem = fopen(path, "r");
	ck_assert_ptr_nonnull(mem);
	place_park(in, &v, &p);
	p.patch.nmoves = 0;
	ok(inject_patch(in, &p.patch));
	for (int i = 0; i < 40; i++) {
		struct patch other = { .addr = lo + (i + 1) * PAGE + 64, .len = 5 };

		ck_assert_int_eq(fseek(mem, (long)other.addr, SEEK_SET), 0);
		ck_assert_uint_eq(fread(other.old_bytes, other.len, 1, mem), 1);
		memset(other.new_bytes, 0xcc, other.len);
		ok(inject_patch(in, &other));
	}
	fclose(mem);
	refused(inject_commit(in, &s), UERR_CANNOT_PROBE, "a thread is in the middle of");
	ck_assert_int_eq(libc_text(v.pid, &lo), 0);
	inject_end(in);
	VICTIM_WRITE(v.shared->go, 1);
	victim_await(VICTIM_READ(v.shared->state) == 1);
	ck_assert_uint_eq(VICTIM_READ(v.shared->wrong), 0);
	probe_unmap_here(&p);
	victim_kill(&v);
}
END_TEST

/* A list of one goroutine that was preempted, as Go's runtime has it, in a page of ours: nothing is changed as long as
 * it goes on inside of the window. */
START_TEST(preempted_goroutine_is_waited_for)
{
	struct victim v = victim_start("compute", 1);
	struct injection *in = probe_begin(v.pid, NULL);
	struct inject_range r = { .kind = RANGE_CODE, .size = PAGE };
	struct inject_stats s = {};
	struct goroutines go;
	struct probe p;
	u64 *page;

	ok(probe_place(in, &v, &p));
	ck_assert_int_gt(p.patch.nmoves, 1);
	ok(inject_place(in, &r, 1));
	page = r.local;
	go = (struct goroutines){ r.addr, 0x1000, 0x1100, 0x2000, 0x2050 };
	page[0] = r.addr + 64;         /* runtime.allgs: where the list is … */
	page[1] = page[2] = 1;         /* … and how long */
	page[8] = r.addr + 128;
	page[16] = r.addr + 1024;      /* g: its stack … */
	page[17] = r.addr + PAGE;
	page[16 + 7] = r.addr + 2048;  /* … and where it has left for the scheduler */
	page[16 + 8] = 0x2030;
	page[256 + 3] = 0x1040;        /* into asyncPreempt */
	page[256 + 52] = p.patch.moves[p.patch.nmoves - 1].from;
	inject_goroutines(in, &go);
	refused(inject_commit(in, &s), UERR_CANNOT_PROBE, "a goroutine that was preempted waits in the middle");
	ck_assert_uint_eq(*p.counter, 0);
	/* The first instruction is a place like any other, and so is everything to one that waits elsewhere. */
	for (int i = 0; i < 2; i++) {
		page[256 + 52] = i ? p.patch.moves[p.patch.nmoves - 1].from : p.patch.addr;
		page[16 + 8] = i ? 0x3000 : 0x2030;
		ok(inject_patch(in, &p.patch));
		ok(inject_commit(in, &s));
		victim_await(*p.counter > 0);
		p.patch = reversed(&p.patch);
		ok(inject_patch(in, &p.patch));
		ok(inject_commit(in, &s));
		p.patch = reversed(&p.patch);
		p.patch.restore = false;
	}
	inject_end(in);
	ck_assert(victim_alive(&v));
	probe_unmap_here(&p);
	victim_kill(&v);
}
END_TEST

/* A handler runs whose frame has a rip inside the window. */
START_TEST(handler_over_the_window_is_refused)
{
	struct victim v = victim_start("park_handler", 1);
	struct injection *in;
	struct inject_stats s = {};
	struct probe p;

	/* Interrupt it inside the loop: it is nowhere else for long. */
	usleep(2000);
	kill(v.pid, SIGUSR1);
	victim_await(VICTIM_READ(v.shared->state) == 1);
	in = probe_begin(v.pid, NULL);
	place_park(in, &v, &p);
	ok(inject_patch(in, &p.patch));
	refused(inject_commit(in, &s), UERR_CANNOT_PROBE, "a signal handler will return into");
	VICTIM_WRITE(v.shared->go, 1);
	victim_await(VICTIM_READ(v.shared->signals) == 1);
	/* The frame is dead, but may still be read below the stack pointer's
	 * red zone; above it there is nothing. */
	ok(inject_patch(in, &p.patch));
	ok(inject_commit(in, &s));
	ck_assert_uint_eq(s.moved, 1);
	ck_assert(victim_alive(&v));
	inject_end(in);
	probe_unmap_here(&p);
	victim_kill(&v);
}
END_TEST

/* A handler runs on top of code in our range while that is to be unmapped. */
START_TEST(handler_over_our_code_keeps_it)
{
	struct victim v = victim_start("park_handler", 1);
	struct injection *in = probe_begin(v.pid, NULL);
	struct inject_stats s = {};
	struct patch back;
	struct probe p;

	place_park(in, &v, &p);
	ok(inject_patch(in, &p.patch));
	ok(inject_commit(in, &s));
	ck_assert_uint_eq(s.moved, 1);
	kill(v.pid, SIGUSR1);
	victim_await(VICTIM_READ(v.shared->state) == 1);
	back = reversed(&p.patch);
	ok(inject_patch(in, &back));
	ok(inject_unmap(in, p.code.addr, p.code.size, true, NULL, NULL));
	ok(inject_commit(in, &s));
	ck_assert_uint_eq(s.retired, 1);
	VICTIM_WRITE(v.shared->go, 1);
	victim_await(VICTIM_READ(v.shared->signals) == 1);
	ck_assert(victim_alive(&v));
	inject_end(in);
	probe_unmap_here(&p);
	victim_kill(&v);
}
END_TEST

/* A word near the end of the first stack: of the program's name, which nobody reads. */
static addr_t word_on_stack(pid_t pid)
{
	char path[32], line[256];
	addr_t lo, hi = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "[stack]"))
			ck_assert_int_eq(sscanf(line, "%lx-%lx", &lo, &hi), 2);
	fclose(f);
	ck_assert_uint_ne(hi, 0);
	return hi - 4 * sizeof(u64);
}

static bool nobody_entered(void *arg)
{
	return false;
}

/* What a sleeping thread has on its stack: where a call in there would return to, and
 * what only looks like that. */
START_TEST(stale_words_do_not_keep_counted_code)
{
	static const struct {
		u8 before[5];
		u32 retired;
	} rows[] = {
		{ { 0xe8, 0x10, 0, 0, 0 }, 1 },
		{ { 0x90, 0x90, 0x90, 0xff, 0xd0 }, 1 },
		{ { 0x90, 0x90, 0x90, 0x90, 0x90 }, 0 },
		{ { 0x48, 0xe8, 0xff, 0xd0, 0x90 }, 0 },
	};
	struct victim v = victim_start("sleep", 1);
	struct injection *in = probe_begin(v.pid, NULL);
	struct inject_range r = { .kind = RANGE_CODE, .size = PAGE };
	struct inject_stats s;
	addr_t at, way_back;
	char path[32];
	u64 old;
	int mem;

	ok(inject_place(in, &r, 1));
	memcpy((u8 *)r.local + 0x100, rows[_i].before, sizeof(rows[_i].before));
	ok(inject_commit(in, &s));
	way_back = r.addr + 0x105;
	snprintf(path, sizeof(path), "/proc/%d/mem", v.pid);
	mem = open(path, O_RDWR);
	at = word_on_stack(v.pid);
	ck_assert_int_eq(pread(mem, &old, sizeof(old), (off_t)at), sizeof(old));
	ck_assert_int_eq(pwrite(mem, &way_back, sizeof(way_back), (off_t)at), sizeof(way_back));
	ok(inject_unmap_counted(in, r.addr, r.size, r.addr + 0x80, r.addr + 0x200, nobody_entered, NULL));
	ok(inject_commit(in, &s));
	ck_assert_uint_eq(s.retired, rows[_i].retired);
	ck_assert_int_eq(pwrite(mem, &old, sizeof(old), (off_t)at), sizeof(old));
	if (s.retired) {
		ok(inject_unmap_counted(in, r.addr, r.size, r.addr + 0x80, r.addr + 0x200, nobody_entered, NULL));
		ok(inject_commit(in, &s));
		ck_assert_uint_eq(s.retired, 0);
	}
	inject_end(in);
	close(mem);
	munmap(r.local, r.size);
	victim_kill(&v);
}
END_TEST

static bool entered_flag(void *arg)
{
	return *(bool *)arg;
}

START_TEST(callers_own_test_is_heard)
{
	struct victim v = victim_start("hammer", 1);
	struct inject_stats s;
	struct probe p = probe_install(&v, NULL, &s);
	struct injection *in = probe_begin(v.pid, NULL);
	struct patch back = reversed(&p.patch);
	bool inside = true;

	ok(inject_patch(in, &back));
	ok(inject_unmap(in, p.code.addr, p.code.size, true, entered_flag, &inside));
	ok(inject_unmap(in, p.data.addr, p.data.size, false, NULL, NULL));
	ok(inject_commit(in, &s));
	ck_assert_uint_eq(s.retired, 2); /* data stays with the code */
	inside = false;
	ok(inject_unmap(in, p.code.addr, p.code.size, true, entered_flag, &inside));
	ok(inject_unmap(in, p.data.addr, p.data.size, false, NULL, NULL));
	ok(inject_commit(in, &s));
	ck_assert_uint_eq(s.retired, 0);
	inject_end(in);
	probe_unmap_here(&p);
	victim_kill(&v);
}
END_TEST

/* A thread sleeps in a system call whose instruction is the last of the window:
 * when it is restarted, the kernel goes back into the window. */
START_TEST(restarted_call_is_moved)
{
	static const u8 window[] = { 0x48, 0x89, 0xff, 0x31, 0xf6, 0x89, 0xd0, 0x0f, 0x05 };
	struct victim v = victim_start("restart", 1);
	addr_t site = v.shared->site;
	struct inject_range r = { .kind = RANGE_CODE, .size = PAGE, .near = site, .near_end = site + 64 };
	struct patch p = { .addr = site, .len = sizeof(window), .nmoves = 5 };
	struct injection *in = probe_begin(v.pid, NULL);
	struct inject_stats s;
	s32 rel;
	u8 *code;

	victim_await(victim_state(v.pid) == 'S');
	ok(inject_place(in, &r, 1));
	code = r.local;
	memcpy(code, window, sizeof(window));
	code[9] = 0xe9;
	rel = (s32)(site + 9 - (r.addr + 14));
	memcpy(code + 10, &rel, sizeof(rel));
	memcpy(p.old_bytes, window, sizeof(window));
	memset(p.new_bytes, 0xcc, sizeof(window));
	p.new_bytes[0] = 0xe9;
	rel = (s32)(r.addr - (site + 5));
	memcpy(p.new_bytes + 1, &rel, sizeof(rel));
	for (int i = 0; i < 5; i++) {
		static const u8 off[] = { 0, 3, 5, 7, 9 }; /* behind the call: where it is found */

		p.moves[i] = (struct patch_move){ site + off[i], r.addr + off[i] };
	}
	ok(inject_patch(in, &p));
	ok(inject_commit(in, &s));
	ck_assert_uint_eq(s.moved, 1);
	inject_end(in);
	victim_await(victim_state(v.pid) == 'S' || !victim_alive(&v));
	ck_assert(victim_alive(&v));
	ck_assert_uint_eq(VICTIM_READ(v.shared->wrong), 0);
	munmap(r.local, r.size);
	victim_kill(&v);
}
END_TEST

START_TEST(threads_being_born)
{
	struct victim v = victim_start("churn", 0);
	struct inject_stats s;

	for (int i = 0; i < 40; i++) {
		struct probe p = probe_install(&v, NULL, &s);

		ok(probe_remove(&v, &p, NULL, &s));
		probe_unmap_here(&p);
	}
	VICTIM_WRITE(v.shared->stop, 1);
	victim_await(VICTIM_READ(v.shared->state) == 1);
	ck_assert_uint_eq(VICTIM_READ(v.shared->wrong), 0);
	victim_kill(&v);
}
END_TEST

/* Who waits for one thread's stop holds a pointer to it, while others join. */
START_TEST(known_threads_do_not_move)
{
	struct victim v = victim_start("grow", 200);
	struct thread *first;
	struct tracee t;
	void *in_the_way;

	ok(tracee_open(&t, v.pid, 2000));
	first = t.threads.data;
	in_the_way = malloc(1); /* or a list that grows might do so in place */
	VICTIM_WRITE(v.shared->go, 1);
	victim_await(VICTIM_READ(v.shared->state) == 1);
	ok(tracee_seize_all(&t));
	ck_assert_uint_eq(t.threads.n, 200);
	ck_assert_ptr_eq(t.threads.data, first);
	free(in_the_way);
	tracee_close(&t);
	victim_kill(&v);
}
END_TEST

START_TEST(dead_leader)
{
	struct victim v = victim_start("leaderless", 0);
	struct inject_stats s;
	struct probe p = probe_install(&v, NULL, &s);

	ok(probe_remove(&v, &p, NULL, &s));
	ck_assert_uint_eq(s.retired, 0);
	probe_unmap_here(&p);
	victim_kill(&v);
}
END_TEST

static void report_stop(int nthreads)
{
	struct victim v = victim_start("sleep", nthreads);
	struct injection *in = probe_begin(v.pid, NULL);
	struct inject_stats first, worst = {};
	u32 moved = 0;
	struct probe p;
	struct patch back;

	ok(probe_place(in, &v, &p));
	ok(inject_commit(in, &first));
	back = reversed(&p.patch);
	ok(inject_patch(in, &back));
	ok(inject_commit(in, &worst));
	worst.stopped_ns = 0;
	for (int i = 0; i < 5; i++)
		patch_and_back(in, &p, &worst, &moved);
	printf("# %d sleeping threads stood still for %.3f ms (longest of 5: %.3f)\n", nthreads,
	       first.stopped_ns / 1e6, worst.stopped_ns / 1e6);
	inject_end(in);
	probe_unmap_here(&p);
	victim_kill(&v);
}

START_TEST(how_long_it_stands_still)
{
	static const int n[] = { 1, 100, 500 };

	report_stop(n[_i]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("inject_threads");
	TCase *tc = tcase_create("threads");

	if (not_root("inject_threads"))
		return EXIT_SUCCESS;
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, hammer_few);
	tcase_add_test(tc, hammer_many);
	tcase_add_test(tc, parked_thread_is_moved);
	tcase_add_test(tc, parked_without_a_copy_is_refused);
	tcase_add_test(tc, pages_of_a_change_that_fails_go_back);
	tcase_add_test(tc, preempted_goroutine_is_waited_for);
	tcase_add_test(tc, handler_over_the_window_is_refused);
	tcase_add_test(tc, handler_over_our_code_keeps_it);
	tcase_add_loop_test(tc, stale_words_do_not_keep_counted_code, 0, 4);
	tcase_add_test(tc, callers_own_test_is_heard);
	tcase_add_test(tc, restarted_call_is_moved);
	tcase_add_test(tc, threads_being_born);
	tcase_add_test(tc, known_threads_do_not_move);
	tcase_add_test(tc, dead_leader);
	tcase_add_loop_test(tc, how_long_it_stands_still, 0, 3);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
