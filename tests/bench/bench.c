/* SPDX-License-Identifier: MIT */
/*
 * The benchmark: every row of rows.h in three environments, in one run, with
 * the uninstrumented call, a hand-written jump pad and other tracers (where they
 * are installed) beside them.
 *
 *	uprobed-bench [--runs N] [--quick] [--out DIR]
 *
 * A run of a row makes as many calls as fit into a slice of time; the figure is
 * the time of the whole run divided by the calls, measured by the victim itself.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "jit/jit_bench.h"
#include "rows.h"

#define VICTIM_TIMEOUT_MS 60000

const struct bench_row bench_rows[] = {
#define X(name, entry, exit, ops, kernel, bpftime) { #name, entry, exit, ops, kernel, bpftime, OBJECT_BENCH, 0 },
	BENCH_ROWS(X)
	BENCH_TAKEN_ROWS(X)
#undef X
#define X(name, entry, ops, warm) { #name, entry, "", ops, 0, 0, OBJECT_MORE, warm },
	BENCH_MORE_ROWS(X)
#undef X
};
const size_t bench_nrows = sizeof(bench_rows) / sizeof(bench_rows[0]);
const char *const bench_env_names[N_ENVS] = { "kernel", "userspace", "embedded" };
const char *const bench_objects[N_OBJECTS] = { "bench.bpf.o", "more.bpf.o" };

uint64_t bench_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

double bench_avg(const struct bench_result *r)
{
	double sum = 0;

	for (unsigned i = 0; i < r->runs; i++)
		sum += r->ns[i];
	return r->runs ? sum / r->runs : 0;
}

struct uerr *bench_read_file(const char *path, void **ret, size_t *size)
{
	cleanup_fclose FILE *f = fopen(path, "rbe");
	cleanup_free char *bytes = NULL;
	long n;

	if (!f || fseek(f, 0, SEEK_END) || (n = ftell(f)) < 0 || fseek(f, 0, SEEK_SET))
		return uerr_errno(errno, "%s", path);
	bytes = malloc((size_t)n + 1);
	if (!bytes)
		return uerr_nomem();
	if (fread(bytes, 1, (size_t)n, f) != (size_t)n)
		return uerr_errno(EIO, "%s", path);
	*size = (size_t)n;
	*ret = steal_ptr(bytes);
	return NULL;
}

struct uerr *victim_line(struct victim *v, char *line, size_t size)
{
	struct pollfd p = { .fd = v->out, .events = POLLIN };
	size_t n = 0;

	while (n + 1 < size) {
		if (poll(&p, 1, VICTIM_TIMEOUT_MS) <= 0)
			return uerr_new(UERR_FAILED, "the victim (pid %d) does not answer", v->pid);
		if (read(v->out, line + n, 1) != 1)
			return uerr_new(UERR_FAILED, "the victim (pid %d) is gone", v->pid);
		if (line[n] == '\n')
			break;
		n++;
	}
	line[n] = 0;
	return NULL;
}

struct uerr *victim_spawn(const char *path, const char *arg, struct victim *ret)
{
	int in[2], out[2];
	pid_t pid;

	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		return uerr_errno(errno, "pipe");
	pid = fork();
	if (pid < 0)
		return uerr_errno(errno, "fork");
	if (pid == 0) { /* ends with its stdin */
		dup2(in[0], 0);
		dup2(out[1], 1);
		execl(path, path, arg, (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	*ret = (struct victim){ .pid = pid, .in = in[1], .out = out[0], .path = path };
	return NULL;
}

struct uerr *victim_start(const char *path, unsigned threads, struct victim *ret)
{
	char count[16], line[64];
	struct uerr *err;

	snprintf(count, sizeof(count), "%u", threads);
	err = victim_spawn(path, count, ret);
	return err ? err : victim_line(ret, line, sizeof(line));
}

void victim_stop(struct victim *v)
{
	if (v->pid <= 0)
		return;
	close(v->in);
	close(v->out);
	kill(v->pid, SIGKILL);
	waitpid(v->pid, NULL, 0);
	v->pid = 0;
}

struct uerr *victim_run(struct victim *v, const char *row, uint64_t calls, unsigned threads, uint64_t *ret)
{
	struct uerr *err;
	char line[128];

	if (dprintf(v->in, "%s %" PRIu64 " %u\n", row, calls, threads) < 0)
		return uerr_errno(errno, "the victim's stdin");
	err = victim_line(v, line, sizeof(line));
	if (err)
		return err;
	*ret = strtoull(line, NULL, 10);
	return NULL;
}

struct uerr *run_victim(const struct runner *r, uint64_t calls, uint64_t *ns)
{
	return victim_run(r->victim, r->name, calls, r->threads, ns);
}

static struct uerr *run_embedded(const struct runner *r, uint64_t calls, uint64_t *ns)
{
	return env_embedded_run(r->row, calls, ns);
}

void bench_set_reason(struct bench_result *ret, struct uerr *err)
{
	snprintf(ret->reason, sizeof(ret->reason), "%s", err->message);
	uerr_free(err);
	ret->runs = 0;
}

/* How many calls fit into SLICE_NS; warms up on the way. */
static struct uerr *calibrate(const struct runner *r, uint64_t slice_ns, uint64_t *ret, uint64_t *total)
{
	uint64_t calls = 16, ns = 0;
	struct uerr *err;

	for (;;) {
		err = r->run(r, calls, &ns);
		if (err)
			return err;
		*total += calls;
		if (ns >= slice_ns / 4)
			break;
		calls *= ns < slice_ns / 64 ? 8 : 2;
	}
	*ret = (uint64_t)((double)calls * slice_ns / ns) + 1;
	return NULL;
}

void bench_measure(const struct runner *r, uint64_t slice_ns, struct bench_result *ret, uint64_t *total)
{
	uint64_t ns = 0, warm = ret->calls / 16 + 1, calls = 0;
	struct uerr *err = NULL;

	if (ret->reason[0])
		return;
	if (r->row && r->row->warm > warm)
		warm = r->row->warm;
	if (ret->calls || (r->row && r->row->warm)) { /* the probe is new */
		err = r->run(r, warm, &ns);
		calls += warm;
	}
	if (!err && !ret->calls)
		err = calibrate(r, slice_ns, &ret->calls, &calls);
	if (!err)
		err = r->run(r, ret->calls, &ns);
	if (err)
		return bench_set_reason(ret, err);
	ret->ns[ret->runs++] = (double)ns / ret->calls;
	if (total)
		*total += calls + ret->calls;
}

static void measure_attached(const struct bench_env_ops *env, const struct bench_row *row, struct victim *v,
			     uint64_t slice_ns, struct bench_result *ret, struct bench_ring *ring)
{
	bool writes = !strcmp(row->name, RING_ROW);
	uint64_t calls = 0;
	struct runner r = { .run = run_victim, .victim = v, .name = row->name, .row = row };
	struct uerr *err;

	if (ret->reason[0])
		return;
	err = env->attach(row, v);
	if (err)
		return bench_set_reason(ret, err);
	err = writes ? env->read_ring() : NULL;
	if (err)
		bench_set_reason(ret, err);
	else
		bench_measure(&r, slice_ns, ret, &calls);
	if (writes) {
		ring->read += ring_stop();
		ring->written += calls * row->ops;
	}
	env->detach();
}

static void progress(const char *name, const char *env, const struct bench_result *r)
{
	char label[128];

	snprintf(label, sizeof(label), "%s, %s", name, env);
	if (r->reason[0])
		fprintf(stderr, "  %-46s not measured: %s\n", label, r->reason);
	else
		fprintf(stderr, "  %-46s %12.2f ns\n", label, bench_avg(r));
}

static void mark_unavailable(struct bench_report *rep, int env, struct uerr *why)
{
	for (size_t i = 0; i < bench_nrows; i++)
		snprintf(rep->results[i][env].reason, sizeof(rep->results[0][0].reason), "%s", why->message);
	if (env == ENV_EMBEDDED)
		snprintf(rep->embed.reason, sizeof(rep->embed.reason), "%s", why->message);
	if (env == ENV_USERSPACE)
		snprintf(rep->scaling.counted[0].reason, sizeof(rep->scaling.counted[0].reason), "%s", why->message);
	if (env == ENV_USERSPACE)
		snprintf(rep->attach.reason, sizeof(rep->attach.reason), "%s", why->message);
	uerr_free(why);
}

/* Every row in every environment once. Rounds of one run each, not all runs of
 * a row at once: when the machine's speed drifts, it drifts for all alike. */
static void one_round(struct bench_report *rep, struct victim *v, uint64_t slice_ns)
{
	const struct bench_row embed = { .name = "embed" };
	struct runner r = { .run = run_victim, .victim = v, .name = "plain" };

	bench_measure(&r, slice_ns, &rep->plain, NULL);
	r.name = "bare";
	bench_measure(&r, slice_ns, &rep->bare, NULL);
	r.name = "pad";
	bench_measure(&r, slice_ns, &rep->pad, NULL);
	rivals_round(rep->rivals, slice_ns);
	scaling_round(&rep->scaling, v, slice_ns);
	for (size_t i = 0; i < bench_nrows; i++) {
		const struct bench_row *row = &bench_rows[i];
		struct bench_result *res = rep->results[i];

		measure_attached(&env_kernel, row, v, slice_ns, &res[ENV_KERNEL], &rep->rings[ENV_KERNEL]);
		measure_attached(&env_userspace, row, v, slice_ns, &res[ENV_USERSPACE], &rep->rings[ENV_USERSPACE]);
		r = (struct runner){ .run = run_embedded, .row = row };
		bench_measure(&r, slice_ns, &res[ENV_EMBEDDED], NULL);
	}
	r = (struct runner){ .run = run_embedded, .row = &embed };
	bench_measure(&r, slice_ns, &rep->embed, NULL);
}

static void print_progress(const struct bench_report *rep)
{
	progress("the call", "without a probe", &rep->plain);
	progress("the call", "a jump away and back", &rep->bare);
	progress("the call", "through a hand-written jump pad", &rep->pad);
	for (size_t i = 0; i < bench_nrivals; i++)
		progress("the call", bench_rivals[i].name, &rep->rivals[i].one);
	for (int i = 0; i < 2; i++)
		progress("counted", i ? "by two threads" : "by one thread", &rep->scaling.counted[i]);
	for (size_t i = 0; i < bench_nrows; i++)
		for (int e = 0; e < N_ENVS; e++)
			progress(bench_rows[i].name, bench_env_names[e], &rep->results[i][e]);
	progress("embed", "embedded", &rep->embed);
}

static struct uerr *run_all(struct bench_report *rep, const char *dir, uint64_t slice_ns)
{
	char victim_path[PATH_MAX], uprobed[PATH_MAX];
	struct victim v = { 0 };
	struct uerr *err;

	snprintf(victim_path, sizeof(victim_path), "%s/bench-victim", dir);
	snprintf(uprobed, sizeof(uprobed), "%s/../../daemon/uprobed", dir);

	env_kernel_init(dir);
	err = env_userspace_start(uprobed, dir);
	if (err)
		mark_unavailable(rep, ENV_USERSPACE, err);
	err = env_embedded_open(dir);
	if (err)
		mark_unavailable(rep, ENV_EMBEDDED, err);
	rivals_start(rep->rivals, dir);
	err = victim_start(victim_path, 0, &v);
	for (unsigned i = 0; !err && i < rep->runs; i++) {
		fprintf(stderr, "round %u of %u%s", i + 1, rep->runs, isatty(2) ? "\r" : "\n");
		one_round(rep, &v, slice_ns);
	}
	if (!err) {
		print_progress(rep);
		if (!rep->attach.reason[0])
			env_userspace_measure_attach(victim_path, rep->runs, &rep->attach);
	}
	victim_stop(&v);
	rivals_stop(rep->rivals);
	env_embedded_close();
	env_userspace_stop();
	return err;
}

/* The micro-programs: many short rounds, as their figures are minima. */
static struct uerr *run_jit(struct jit_bench *ret, const char *dir, uint64_t slice_ns)
{
	char object[PATH_MAX];
	struct uerr *err;

	fprintf(stderr, "micro-programs of the JIT\n");
	snprintf(object, sizeof(object), "%s/jit/programs.bpf.o", dir);
	err = jit_bench_run(object, NULL, slice_ns < 10000000 ? 2 : 64, slice_ns < 10000000 ? 20000 : 100000, ret);
	return uerr_prefix(err, "the micro-programs");
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "runs", required_argument, NULL, 'r' },
		{ "quick", no_argument, NULL, 'q' },
		{ "out", required_argument, NULL, 'o' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	struct bench_report rep = { .runs = 7 };
	uint64_t start = bench_now_ns(), slice_ns = 80000000;
	char self[PATH_MAX] = { 0 };
	struct jit_bench jit = { 0 };
	const char *out = NULL;
	struct uerr *err;
	char *dir;
	int c;

	while ((c = getopt_long(argc, argv, "r:o:qh", options, NULL)) != -1) {
		switch (c) {
		case 'r':
			rep.runs = (unsigned)atoi(optarg);
			break;
		case 'q':
			slice_ns = 5000000;
			break;
		case 'o':
			out = optarg;
			break;
		default:
			fprintf(c == 'h' ? stdout : stderr,
				"usage: uprobed-bench [--runs N] [--quick] [--out DIR]\n");
			return c == 'h' ? 0 : 2;
		}
	}
	if (rep.runs < 1 || rep.runs > BENCH_MAX_RUNS) {
		fprintf(stderr, "uprobed-bench: --runs takes 1 to %d\n", BENCH_MAX_RUNS);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 1;
	dir = dirname(self);
	rep.results = calloc(bench_nrows, sizeof(*rep.results));
	rep.rivals = calloc(bench_nrivals, sizeof(*rep.rivals));
	if (!rep.results || !rep.rivals)
		return 1;
	err = run_all(&rep, dir, slice_ns);
	if (!err)
		err = run_jit(&jit, dir, slice_ns);
	rep.jit = &jit;
	rep.seconds = (double)(bench_now_ns() - start) / 1e9;
	if (!err)
		err = report_write(&rep, out ? out : ".");
	free(rep.results);
	free(rep.rivals);
	jit_bench_deinit(&jit);
	if (err) {
		fprintf(stderr, "uprobed-bench: %s\n", err->message);
		uerr_free(err);
		return 1;
	}
	return 0;
}
