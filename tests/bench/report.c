/* SPDX-License-Identifier: MIT */
/*
 * What the benchmark found, as Markdown for people (the sections of the report
 * that the project was founded on, and more) and as JSON for machines. A row
 * that was not measured carries its reason; no figure is made up.
 */
#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "bench.h"
#include "goals.h"
#include "jit/jit_bench.h"

static double result_min(const struct bench_result *r)
{
	double m = r->runs ? r->ns[0] : 0;

	for (unsigned i = 1; i < r->runs; i++)
		m = fmin(m, r->ns[i]);
	return m;
}

static double result_max(const struct bench_result *r)
{
	double m = 0;

	for (unsigned i = 0; i < r->runs; i++)
		m = fmax(m, r->ns[i]);
	return m;
}

static double result_stddev(const struct bench_result *r)
{
	double avg = bench_avg(r), sum = 0;

	if (r->runs < 2)
		return 0;
	for (unsigned i = 0; i < r->runs; i++)
		sum += (r->ns[i] - avg) * (r->ns[i] - avg);
	return sqrt(sum / (r->runs - 1));
}

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(const double *v, unsigned n)
{
	double sorted[BENCH_MAX_RUNS];

	if (!n)
		return 0;
	memcpy(sorted, v, n * sizeof(*v));
	qsort(sorted, n, sizeof(*sorted), compare_double);
	return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

double bench_median(const struct bench_result *r)
{
	return median(r->ns, r->runs);
}

static double largest(const double *v, unsigned n)
{
	double m = 0;

	for (unsigned i = 0; i < n; i++)
		m = fmax(m, v[i]);
	return m;
}

/* Cost of one operation in row ROW of environment ENV; false when unknown. */
static bool per_op(const struct bench_report *rep, size_t row, int env, double *ret)
{
	const struct bench_result *r = &rep->results[row][env], *base = &rep->results[0][env];

	if (!bench_rows[row].ops || !r->runs || !base->runs)
		return false;
	*ret = (bench_avg(r) - bench_avg(base)) / bench_rows[row].ops;
	return true;
}

struct machine {
	struct utsname uts;
	char cpu[128];
	int cpus;
	double memory_gb;
	char time[64];
};

static void machine_read(struct machine *m)
{
	cleanup_fclose FILE *f = fopen("/proc/cpuinfo", "re");
	time_t now = time(NULL);
	struct sysinfo si;
	char line[256];
	struct tm tm;

	memset(m, 0, sizeof(*m));
	uname(&m->uts);
	m->cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
	if (!sysinfo(&si))
		m->memory_gb = (double)si.totalram * si.mem_unit / (1 << 30);
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "model name : %127[^\n]", m->cpu) == 1)
			break;
	strftime(m->time, sizeof(m->time), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
}

static void md_env_table(FILE *f, const struct bench_report *rep, int env)
{
	fprintf(f, "| Operation | Min (ns) | Max (ns) | Avg (ns) | Std Dev |\n"
		   "|-----------|----------|----------|----------|---------|\n");
	for (size_t i = 0; i < bench_nrows; i++) {
		const struct bench_result *r = &rep->results[i][env];

		if (r->reason[0])
			fprintf(f, "| %s | | | not measured: %s | |\n", bench_rows[i].name, r->reason);
		else
			fprintf(f, "| %s | %.2f | %.2f | %.2f | %.2f |\n", bench_rows[i].name, result_min(r),
				result_max(r), bench_avg(r), result_stddev(r));
	}
}

static void md_result_row(FILE *f, const char *name, const struct bench_result *r)
{
	if (r->reason[0])
		fprintf(f, "| %s | | | not measured: %s | |\n", name, r->reason);
	else
		fprintf(f, "| %s | %.2f | %.2f | %.2f | %.2f |\n", name, result_min(r), result_max(r), bench_avg(r),
			result_stddev(r));
}

static void md_cell(FILE *f, bool have, double v)
{
	if (have)
		fprintf(f, " %.2f |", v);
	else
		fprintf(f, " – |");
}

static void md_core(FILE *f, const struct bench_report *rep)
{
	fprintf(f, "### Core uprobe performance\n\n"
		   "| Operation | Kernel uprobe | uprobed | Speed-up | Added by the kernel | Added by uprobed |\n"
		   "|-----------|---------------|---------|----------|---------------------|------------------|\n");
	for (size_t i = 0; i < bench_nrows; i++) {
		const struct bench_result *k = &rep->results[i][ENV_KERNEL], *u = &rep->results[i][ENV_USERSPACE];
		double plain = bench_avg(&rep->plain);

		if (bench_rows[i].ops)
			continue;
		fprintf(f, "| %s |", bench_rows[i].name);
		md_cell(f, k->runs, bench_avg(k));
		md_cell(f, u->runs, bench_avg(u));
		if (k->runs && u->runs)
			fprintf(f, " %.0fx |", bench_avg(k) / bench_avg(u));
		else
			fprintf(f, " – |");
		md_cell(f, k->runs, bench_avg(k) - plain);
		md_cell(f, u->runs, bench_avg(u) - plain);
		fprintf(f, "\n");
	}
	fprintf(f, "\nThe call without a probe takes %.2f ns (std dev %.2f), with a jump away and back %.2f ns (%.2f), "
		   "through a hand-written jump pad (nine registers saved, an empty function called) %.2f ns (%.2f).\n\n",
		bench_avg(&rep->plain), result_stddev(&rep->plain), bench_avg(&rep->bare), result_stddev(&rep->bare),
		bench_avg(&rep->pad), result_stddev(&rep->pad));
}

static void md_goals(FILE *f, const struct bench_report *rep)
{
	fprintf(f, "### Goals\n\nOf medians.\n\n| What | Goal | Measured | Holds |\n|------|------|----------|-------|\n");
	for (size_t i = 0; i < bench_ngoals; i++) {
		const struct goal *g = &bench_goals[i];
		double v;

		fprintf(f, "| %s | at %s %g%s |", g->what, g->least ? "least" : "most", g->most, g->unit);
		if (g->figure(rep, &v))
			fprintf(f, " %.2f%s | %s |\n", v, g->unit, goal_holds(g, v) ? "yes" : "**no**");
		else
			fprintf(f, " not measured | – |\n");
	}
	fprintf(f, "\n");
}

static void md_scaling(FILE *f, const struct bench_scaling *s)
{
	fprintf(f, "## Threads on one site\n\n");
	if (s->counted[0].reason[0]) {
		fprintf(f, "Not measured: %s\n\n", s->counted[0].reason);
		return;
	}
	fprintf(f, "CPU time of a thread, ns a call, median; the program counts in a per-CPU array.\n\n"
		   "| | One thread | %d threads | Ratio |\n|-|-|-|-|\n", BENCH_THREADS);
	fprintf(f, "| the call without a probe | %.2f | %.2f | %.2f |\n", bench_median(&s->plain[0]),
		bench_median(&s->plain[1]), bench_median(&s->plain[1]) / bench_median(&s->plain[0]));
	fprintf(f, "| counted | %.2f | %.2f | %.2f |\n", bench_median(&s->counted[0]), bench_median(&s->counted[1]),
		bench_median(&s->counted[1]) / bench_median(&s->counted[0]));
	fprintf(f, "| an update of a hash map that they share | %.2f | %.2f | %.2f |\n\n", bench_median(&s->shared[0]) / 1000,
		bench_median(&s->shared[1]) / 1000, bench_median(&s->shared[1]) / bench_median(&s->shared[0]));
	fprintf(f, "Of %llu calls %llu were counted.\n\n", (unsigned long long)s->calls, (unsigned long long)s->seen);
}

static void md_rivals(FILE *f, const struct bench_report *rep)
{
	double plain = bench_median(&rep->plain);
	double ours = bench_median(&rep->results[0][ENV_USERSPACE]) - plain;
	const struct bench_scaling *s = &rep->scaling;

	fprintf(f, "## Beside other tracers in the process\n\n"
		   "What a hit adds to the call, ns, median; %d threads: CPU time of one.\n\n"
		   "| | A hit | One thread | %d threads | Times uprobed's |\n|-|-|-|-|-|\n", BENCH_THREADS, BENCH_THREADS);
	if (rep->results[0][ENV_USERSPACE].runs)
		fprintf(f, "| uprobed | an empty program | %.2f | | 1 |\n", ours);
	if (s->counted[0].runs)
		fprintf(f, "| uprobed | a per-CPU count | %.2f | %.2f | |\n",
			bench_median(&s->counted[0]) - bench_median(&s->plain[0]),
			bench_median(&s->counted[1]) - bench_median(&s->plain[1]));
	for (size_t i = 0; i < bench_nrivals; i++) {
		const struct bench_rival *r = &rep->rivals[i];
		double base = bench_median(&r->plain);

		fprintf(f, "| %s | %s |", bench_rivals[i].name, bench_rivals[i].what);
		if (r->one.reason[0])
			fprintf(f, " not measured: %s | | |\n", r->one.reason);
		else
			fprintf(f, " %.2f | %.2f | %.1f |\n", bench_median(&r->one) - base, bench_median(&r->more) - base,
				ours > 0 ? (bench_median(&r->one) - base) / ours : 0);
	}
	fprintf(f, "\n");
}

static void md_per_op(FILE *f, const struct bench_report *rep)
{
	fprintf(f, "## Per operation\n\n"
		   "(call − the same environment's `__bench_uprobe` call) / operations, in ns. Kernel/uprobed above 1: uprobed "
		   "is cheaper.\n\n"
		   "| Operation | Kernel | uprobed | embedded | Kernel/uprobed |\n"
		   "|-----------|--------|---------|----------|----------------|\n");
	for (size_t i = 0; i < bench_nrows; i++) {
		double v[N_ENVS];
		bool have[N_ENVS];

		if (!bench_rows[i].ops)
			continue;
		fprintf(f, "| %s |", bench_rows[i].name);
		for (int e = 0; e < N_ENVS; e++) {
			have[e] = per_op(rep, i, e, &v[e]);
			md_cell(f, have[e], v[e]);
		}
		if (have[ENV_KERNEL] && have[ENV_USERSPACE] && v[ENV_USERSPACE] > 0)
			fprintf(f, " %.1f |\n", v[ENV_KERNEL] / v[ENV_USERSPACE]);
		else
			fprintf(f, " – |\n");
	}
	fprintf(f, "\n");
}

static void md_attach(FILE *f, const struct bench_attach *a)
{
	fprintf(f, "## Attaching\n\n");
	if (a->reason[0]) {
		fprintf(f, "Not measured: %s\n\n", a->reason);
		return;
	}
	fprintf(f,
		"| | Median | Max |\n|-|-|-|\n"
		"| all threads of a process with 1 thread stand still | %.0f µs | %.0f µs |\n"
		"| … with 100 threads | %.0f µs | %.0f µs |\n\n"
		"Resident memory of the daemon with one target: %.1f MiB. Mapped into a target with ten probes, beside "
		"its maps: %.0f KiB.\n\n",
		median(a->stop_us_1, a->runs), largest(a->stop_us_1, a->runs), median(a->stop_us_100, a->runs),
		largest(a->stop_us_100, a->runs), (double)a->daemon_rss_bytes / (1 << 20),
		(double)a->mapped_bytes / 1024);
}

static void md_published(FILE *f, const struct bench_report *rep)
{
	fprintf(f, "## Published figures beside ours\n\n"
		   "The columns marked * are from another machine: \"BPFtime Uprobe Benchmark Results\" of 2025-04-28 "
		   "(Intel Core Ultra 7 258V, Linux 6.11), ns a call. There `embed` failed (∞).\n\n"
		   "| Operation | Kernel * | bpftime * | Kernel here | uprobed here |\n"
		   "|-----------|----------|-----------|-------------|--------------|\n");
	for (size_t i = 0; i < bench_nrows; i++) {
		const struct bench_result *k = &rep->results[i][ENV_KERNEL], *u = &rep->results[i][ENV_USERSPACE];

		if (!bench_rows[i].published_kernel)
			continue;
		fprintf(f, "| %s | %.2f | %.2f |", bench_rows[i].name, bench_rows[i].published_kernel,
			bench_rows[i].published_bpftime);
		md_cell(f, k->runs, bench_avg(k));
		md_cell(f, u->runs, bench_avg(u));
		fprintf(f, "\n");
	}
	fprintf(f, "| embed | | failed | |");
	md_cell(f, rep->embed.runs, bench_avg(&rep->embed));
	fprintf(f, "\n\n");
}

static void md_write(FILE *f, const struct bench_report *rep, const struct machine *m)
{
	fprintf(f, "# uprobed benchmark results\n\n*Generated on %s*\n\n", m->time);
	fprintf(f, "## Environment\n\n- **OS:** %s %s\n- **CPU:** %s (%d CPUs)\n- **Memory:** %.2f GB\n- **Compiler:** %s\n\n",
		m->uts.sysname, m->uts.release, m->cpu, m->cpus, m->memory_gb, __VERSION__);
	fprintf(f, "## Summary\n\n"
		   "Three environments, in one run, on one victim:\n"
		   "- **kernel**: the kernel's own uprobes, through libbpf\n"
		   "- **userspace**: a uprobed, attached to the running victim\n"
		   "- **embedded**: the program called in-process through libbpfvm\n\n"
		   "*Times are nanoseconds a call of the probed function, that call included; lower is better. A map or "
		   "memory row makes 1000 operations a call, insert and delete 2000.*\n\n");
	md_core(f, rep);
	md_goals(f, rep);
	fprintf(f, "### Kernel eBPF performance\n\n");
	md_env_table(f, rep, ENV_KERNEL);
	fprintf(f, "\n### Userspace eBPF performance\n\n");
	md_env_table(f, rep, ENV_USERSPACE);
	fprintf(f, "\n### Embedded VM performance\n\n");
	md_env_table(f, rep, ENV_EMBEDDED);
	md_result_row(f, "embed", &rep->embed);
	fprintf(f, "\n");
	md_per_op(f, rep);
	md_scaling(f, &rep->scaling);
	md_rivals(f, rep);
	md_attach(f, &rep->attach);
	fprintf(f, "## The JIT: micro-programs\n\n"
		   "The same instructions (tests/bench/jit) interpreted, compiled by our JIT and by the kernel's.\n\n");
	jit_bench_markdown(rep->jit, f);
	md_published(f, rep);
	fprintf(f, "## Benchmark metadata\n\n- **Number of runs:** %u\n- **Timestamp:** %s\n- **Total duration:** %.2f seconds\n",
		rep->runs, m->time, rep->seconds);
}

static void json_number(cJSON *o, const char *name, double v)
{
	char text[64];

	snprintf(text, sizeof(text), "%.3f", v);
	cJSON_AddRawToObject(o, name, text);
}

static void json_row(cJSON *rows, const char *name, const char *env, const struct bench_result *r, bool have_op,
		     double op)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "name", name);
	cJSON_AddStringToObject(o, "env", env);
	if (r->reason[0]) {
		cJSON_AddStringToObject(o, "reason", r->reason);
	} else {
		json_number(o, "ns_avg", bench_avg(r));
		json_number(o, "ns_min", result_min(r));
		json_number(o, "ns_max", result_max(r));
		json_number(o, "ns_stddev", result_stddev(r));
		if (have_op)
			json_number(o, "per_op_ns", op);
		cJSON_AddNumberToObject(o, "runs", r->runs);
	}
	cJSON_AddItemToArray(rows, o);
}

static void json_jit(cJSON *root, const struct jit_bench *b)
{
	cJSON *rows = cJSON_AddArrayToObject(root, "jit"), *o;

	for (size_t i = 0; i < b->nrows; i++) {
		const struct jit_bench_row *r = &b->rows[i];

		o = cJSON_CreateObject();
		cJSON_AddStringToObject(o, "name", r->name);
		json_number(o, "interp_ns", r->ns[ENGINE_INTERP]);
		json_number(o, "jit_ns", r->ns[ENGINE_JIT]);
		if (!*b->reason)
			json_number(o, "kernel_ns", r->ns[ENGINE_KERNEL]);
		json_number(o, "compile_ns", r->compile_ns);
		cJSON_AddNumberToObject(o, "insns", r->insns);
		cJSON_AddItemToArray(rows, o);
	}
	o = cJSON_AddObjectToObject(root, "jit_summary");
	if (*b->reason) {
		cJSON_AddStringToObject(o, "reason", b->reason);
	} else {
		json_number(o, "jit_to_kernel", b->ratio);
		json_number(o, "jit_to_kernel_max", b->worst);
	}
	json_number(o, "interp_to_jit", b->interp);
	cJSON_AddNumberToObject(o, "rounds", b->rounds);
}

static void json_scaling(cJSON *root, const struct bench_scaling *s)
{
	cJSON *o = cJSON_AddObjectToObject(root, "scaling");

	if (s->counted[0].reason[0]) {
		cJSON_AddStringToObject(o, "reason", s->counted[0].reason);
		return;
	}
	cJSON_AddNumberToObject(o, "threads", BENCH_THREADS);
	json_number(o, "plain_ns_1_thread", bench_median(&s->plain[0]));
	json_number(o, "plain_ns_threads", bench_median(&s->plain[1]));
	json_number(o, "counted_ns_1_thread", bench_median(&s->counted[0]));
	json_number(o, "counted_ns_threads", bench_median(&s->counted[1]));
	cJSON_AddNumberToObject(o, "calls", (double)s->calls);
	cJSON_AddNumberToObject(o, "counted", (double)s->seen);
}

static void json_rivals(cJSON *root, const struct bench_rival *rivals)
{
	cJSON *list = cJSON_AddArrayToObject(root, "rivals");

	for (size_t i = 0; i < bench_nrivals; i++) {
		const struct bench_rival *r = &rivals[i];
		cJSON *o = cJSON_CreateObject();

		cJSON_AddStringToObject(o, "name", bench_rivals[i].name);
		if (r->one.reason[0]) {
			cJSON_AddStringToObject(o, "reason", r->one.reason);
		} else {
			json_number(o, "added_ns", bench_median(&r->one) - bench_median(&r->plain));
			json_number(o, "added_ns_threads", bench_median(&r->more) - bench_median(&r->plain));
		}
		cJSON_AddItemToArray(list, o);
	}
}

static void json_goals(cJSON *root, const struct bench_report *rep)
{
	cJSON *list = cJSON_AddArrayToObject(root, "goals");

	for (size_t i = 0; i < bench_ngoals; i++) {
		const struct goal *g = &bench_goals[i];
		cJSON *o = cJSON_CreateObject();
		double v;

		cJSON_AddStringToObject(o, "what", g->what);
		cJSON_AddNumberToObject(o, g->least ? "at_least" : "at_most", g->most);
		if (g->figure(rep, &v)) {
			json_number(o, "measured", v);
			cJSON_AddBoolToObject(o, "holds", goal_holds(g, v));
		}
		cJSON_AddItemToArray(list, o);
	}
}

static cJSON *json_report(const struct bench_report *rep, const struct machine *m)
{
	struct bench_result no_probe = { .reason = "embed is a call in-process: there is no function to probe" };
	cJSON *root = cJSON_CreateObject(), *o, *rows;

	json_number(root, "baseline_ns", bench_avg(&rep->plain));
	json_number(root, "bare_jump_ns", bench_avg(&rep->bare));
	json_number(root, "jump_pad_ns", bench_avg(&rep->pad));
	o = cJSON_AddObjectToObject(root, "machine");
	cJSON_AddStringToObject(o, "os", m->uts.release);
	cJSON_AddStringToObject(o, "cpu", m->cpu);
	cJSON_AddNumberToObject(o, "cpus", m->cpus);
	json_number(o, "memory_gb", m->memory_gb);
	cJSON_AddStringToObject(o, "compiler", __VERSION__);
	cJSON_AddStringToObject(root, "timestamp", m->time);
	rows = cJSON_AddArrayToObject(root, "rows");
	for (size_t i = 0; i < bench_nrows; i++) {
		for (int e = 0; e < N_ENVS; e++) {
			double op = 0;
			bool have = per_op(rep, i, e, &op);

			json_row(rows, bench_rows[i].name, bench_env_names[e], &rep->results[i][e], have, op);
		}
	}
	json_row(rows, "embed", bench_env_names[ENV_KERNEL], &no_probe, false, 0);
	json_row(rows, "embed", bench_env_names[ENV_USERSPACE], &no_probe, false, 0);
	json_row(rows, "embed", bench_env_names[ENV_EMBEDDED], &rep->embed, false, 0);
	o = cJSON_AddObjectToObject(root, "attach");
	if (rep->attach.reason[0]) {
		cJSON_AddStringToObject(o, "reason", rep->attach.reason);
	} else {
		json_number(o, "stopped_us_1_thread", median(rep->attach.stop_us_1, rep->attach.runs));
		json_number(o, "stopped_us_100_threads", median(rep->attach.stop_us_100, rep->attach.runs));
		cJSON_AddNumberToObject(o, "daemon_rss_bytes", (double)rep->attach.daemon_rss_bytes);
		cJSON_AddNumberToObject(o, "mapped_bytes_ten_probes", (double)rep->attach.mapped_bytes);
		cJSON_AddNumberToObject(o, "runs", rep->attach.runs);
	}
	json_scaling(root, &rep->scaling);
	json_rivals(root, rep->rivals);
	json_goals(root, rep);
	json_jit(root, rep->jit);
	json_number(root, "seconds", rep->seconds);
	return root;
}

static struct uerr *write_file(const char *dir, const char *name, const char *text)
{
	cleanup_free char *path = NULL;
	cleanup_fclose FILE *f = NULL;

	if (asprintf(&path, "%s/%s", dir, name) < 0)
		return uerr_nomem();
	f = fopen(path, "we");
	if (!f || fputs(text, f) == EOF || fflush(f))
		return uerr_errno(errno, "%s", path);
	fflush(stdout); /* both often go to one place */
	fprintf(stderr, "wrote %s\n", path);
	return NULL;
}

struct uerr *report_write(const struct bench_report *rep, const char *dir)
{
	cleanup_free char *markdown = NULL;
	cleanup_free char *json = NULL;
	struct machine m;
	struct uerr *err;
	size_t size;
	cJSON *root;
	FILE *f;

	machine_read(&m);
	f = open_memstream(&markdown, &size);
	if (!f)
		return uerr_nomem();
	md_write(f, rep, &m);
	fclose(f);
	root = json_report(rep, &m);
	json = cJSON_Print(root);
	cJSON_Delete(root);
	if (!json)
		return uerr_nomem();
	fputs(markdown, stdout);
	err = write_file(dir, "bench.md", markdown);
	if (!err)
		err = write_file(dir, "bench.json", json);
	return err;
}
