/* SPDX-License-Identifier: MIT */
/* What the dead have left in maps, where several processes share the records of their
 * threads and have a map each at an address of its own. */
#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/recover.h"
#include "daemon/target.h"
#include "tests/support/suite.h"

#define REC 5u
#define ELSEWHERE 0x10000000ul

static struct state state;
static struct daemon daemon_ = { .state = &state };
static struct object object = { .nmaps = 1 };
static struct map map = { .id = 3 };
static struct loaded loaded = { .obj = &object, .maps = &map };
static struct target *parent, *child;
static u32 *lock;

static void no_error(struct uerr *err)
{
	ck_assert_msg(!err, "%s", err ? err->message : "");
}

static pid_t start(void)
{
	pid_t pid = fork();

	while (!pid)
		pause();
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

static struct target *add_target(u64 addr)
{
	struct target *t;

	no_error(target_create(4, start(), &t));
	t->installed = true;
	ck_assert(vec_push(&t->mappings, (struct mapping){ .map = map.id, .addr = addr, .size = map.umap.size }));
	ck_assert(vec_push(&state.targets, t));
	return t;
}

/* A parent and a child with its records, in which thread TID holds a lock. */
static void setup(void)
{
	struct umap_ctx cx;

	no_error(umap_create_locked("locked", UMAP_ARRAY, 4, 16, 1, 0, 1, map.id, 1, &map.umap, &map.fd));
	ck_assert(vec_push(&state.objects, &loaded));
	parent = add_target(ELSEWHERE);
	child = add_target(map.umap.base);
	threads_unref(child->threads);
	child->threads = threads_ref(parent->threads);
	lock = (u32 *)(map.umap.base + map.umap.data_off);
	cx = (struct umap_ctx){ .rec = threads_rec(child->threads, REC), .owner = OWNER_ID(child->threads->no, REC) };
	ck_assert(umap_spin_lock(lock, &cx));
}

static void teardown(void)
{
	while (state.targets.n) {
		kill(state.targets.data[0]->pid, SIGKILL);
		state_remove_target(&state, state.targets.data[0]);
	}
	vec_free(&state.targets);
	vec_free(&state.objects);
	umap_destroy(&map.umap, map.fd);
}

START_TEST(a_thread_of_the_child)
{
	pid_t tid;

	setup();
	tid = start();
	threads_rec(child->threads, REC)->tid = (u32)tid;
	recover_dead_threads(&daemon_, parent);
	ck_assert_uint_ne(*lock, 0);
	end(tid);
	recover_dead_threads(&daemon_, parent); /* one that shares them is asked for all */
	ck_assert_uint_eq(*lock, 0);
	ck_assert_uint_eq(threads_rec(parent->threads, REC)->tid, 0);
	teardown();
}
END_TEST

START_TEST(the_child)
{
	setup();
	threads_rec(child->threads, REC)->tid = (u32)child->pid;
	threads_rec(child->threads, REC + 1)->tid = (u32)parent->pid;
	end(child->pid);
	recover_ended(&daemon_, child);
	ck_assert_uint_eq(*lock, 0);
	ck_assert_uint_eq(threads_rec(parent->threads, REC + 1)->tid, parent->pid);
	teardown();
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("recover");

	tcase_add_test(tc, a_thread_of_the_child);
	tcase_add_test(tc, the_child);
	return run_case("recover", tc);
}
