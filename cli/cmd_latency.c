// SPDX-License-Identifier: MIT
/* bpfctl latency: how long functions take, as histograms. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "cli/hist.h"
#include "cli/oneshot.h"
#include "cli/output.h"
#include "cli/tools.h"

static const char *const sized_maps[] = { "sums", "extremes", NULL };

static const struct tool latency_tool = {
	.name = "latency",
	.object = tool_latency,
	.object_end = tool_latency_end,
	.maps = sized_maps,
	.places = 16,
	.programs = { { "latency_entry", "uprobe" }, { "latency_exit", "uretprobe" } },
};

struct timing {
	struct oneshot os;
	struct latency_extremes *extremes; /* by place */
	struct hist **now, **before;       /* by place; NULL: never called */
	u64 period_start, missed_before;
	u64 events[LATENCY_NEVENTS];
	u64 unpaired;                      /* before the detach */
	u64 ours;                          /* ns of each call; 0: not known */
};

static void take_extremes(u32 index, const u64 *value, void *arg)
{
	struct timing *t = arg;

	if (index < t->os.places.n)
		t->extremes[index] = (struct latency_extremes){ .max = value[0], .not_min = value[1] };
}

static void take_event(u32 index, const u64 *value, void *arg)
{
	struct timing *t = arg;

	if (index < LATENCY_NEVENTS)
		t->events[index] = *value;
}

static struct uerr *read_place(struct timing *t, u32 i)
{
	cleanup_free struct latency_sums *sums = malloc(sizeof(*sums));
	struct uerr *err;
	struct hist *h;

	if (!t->now[i])
		t->now[i] = calloc(1, sizeof(**t->now));
	h = t->now[i];
	if (!h || !sums)
		return uerr_nomem();
	err = oneshot_map_read_one(&t->os, "sums", i, sizeof(*sums), (u64 *)sums);
	if (err)
		return err;
	for (unsigned b = 0; b < HIST_BUCKETS; b++)
		h->bucket[b] = sums->bucket[b];
	h->sum = sums->total;
	h->max = t->extremes[i].max;
	h->min = ~t->extremes[i].not_min;
	hist_finish(h);
	return NULL;
}

static struct uerr *read_hists(struct timing *t)
{
	struct uerr *err;

	err = oneshot_map_read(&t->os, "extremes", sizeof(struct latency_extremes), take_extremes, t);
	if (!err)
		err = oneshot_map_read(&t->os, "events", 8, take_event, t);
	for (size_t i = 0; !err && i < t->os.places.n; i++)
		if (t->os.places.data[i].used && t->extremes[i].not_min)
			err = read_place(t, i);
	return err;
}

/* Calls that the tool had no room for are missed like any other. */
static u64 missed(const struct timing *t)
{
	return t->os.missed + t->events[LATENCY_NO_ROOM];
}

/* What happened since BEFORE (or NULL). Extremes of a period are its buckets'. */
static void hist_since(const struct hist *now, const struct hist *before, struct hist *ret)
{
	*ret = *now;
	if (!before || !before->count)
		return;
	for (unsigned b = 0; b < HIST_BUCKETS; b++)
		ret->bucket[b] -= before->bucket[b];
	ret->sum -= before->sum;
	hist_finish(ret);
}

static void add_buckets(cJSON *obj, const struct hist *h)
{
	cJSON *list = cJSON_AddArrayToObject(obj, "buckets");

	for (unsigned b = 0; b < HIST_BUCKETS; b++) {
		cJSON *bucket;

		if (!h->bucket[b])
			continue;
		bucket = cJSON_CreateObject();
		json_add_u64(bucket, "ge", hist_lower(b));
		json_add_u64(bucket, "lt", hist_upper(b));
		json_add_u64(bucket, "count", h->bucket[b]);
		cJSON_AddItemToArray(list, bucket);
	}
}

static cJSON *hist_json(const struct hist *h)
{
	cJSON *obj = cJSON_CreateObject();

	cJSON_AddStringToObject(obj, "unit", "ns");
	json_add_u64(obj, "count", h->count);
	json_add_u64(obj, "sum", h->sum);
	json_add_u64(obj, "min", h->min);
	json_add_u64(obj, "max", h->max);
	json_add_u64(obj, "p50", hist_percentile(h, 500));
	json_add_u64(obj, "p90", hist_percentile(h, 900));
	json_add_u64(obj, "p99", hist_percentile(h, 990));
	json_add_u64(obj, "p99_9", hist_percentile(h, 999));
	add_buckets(obj, h);
	return obj;
}

static struct uerr *print_json(struct timing *t, u64 end)
{
	cleanup_free struct hist *h = malloc(sizeof(*h));
	cleanup_json cJSON *doc = oneshot_document(&t->os, "io.uprobed.latency/1", t->period_start, end,
						   missed(t) - t->missed_before);
	cJSON *list = cJSON_AddArrayToObject(doc, "latencies");

	if (!h)
		return uerr_nomem();
	for (size_t i = 0; i < t->os.places.n; i++) {
		const struct place *p = &t->os.places.data[i];
		cJSON *obj;

		if (!t->now[i])
			continue;
		hist_since(t->now[i], t->before[i], h);
		if (!h->count)
			continue;
		obj = cJSON_CreateObject();
		cJSON_AddNumberToObject(obj, "pid", p->pid);
		cJSON_AddStringToObject(obj, "comm", p->comm);
		cJSON_AddStringToObject(obj, "module", p->module);
		cJSON_AddStringToObject(obj, "symbol", p->symbol);
		cJSON_AddStringToObject(obj, "probe", p->spec);
		cJSON_AddItemToObject(obj, "histogram", hist_json(h));
		cJSON_AddItemToArray(list, obj);
	}
	json_print(t->os.cli->out, doc);
	return NULL;
}

/* Rows of powers of two from the first to the last that has calls:
 * "  256 ns .. 512 ns      1,204  ▏" */
static void print_rows(FILE *out, const struct hist *h)
{
	unsigned first = HIST_POWERS, last = 0;
	u64 most = 0;
	int wlo = 0, whi = 0, wcount = 9;
	number_buf lo, hi, count;

	for (unsigned p = 0; p < HIST_POWERS; p++) {
		u64 n = hist_power(h, p);

		if (!n)
			continue;
		first = first == HIST_POWERS ? p : first;
		last = p;
		most = n > most ? n : most;
	}
	for (unsigned p = first; p <= last; p++) {
		int a = text_width(power_format(p, lo)), b = text_width(power_format(p + 1, hi));
		int c = strlen(number_format(hist_power(h, p), count));

		wlo = a > wlo ? a : wlo;
		whi = b > whi ? b : whi;
		wcount = c > wcount ? c : wcount;
	}
	for (unsigned p = first; p <= last; p++) {
		u64 n = hist_power(h, p);

		power_format(p, lo);
		power_format(p + 1, hi);
		if (!p)
			strcpy(lo, "0 ns");
		if (p + 1 == HIST_POWERS)
			strcpy(hi, "");
		fprintf(out, "  %*s%s .. %s%*s  %*s", wlo - text_width(lo), "", lo, hi, whi - text_width(hi), "",
			wcount, number_format(n, count));
		if (n || !output_style.utf8)
			fputs(output_style.utf8 ? "  " : " ", out);
		bar_print(out, n, most);
		fputc('\n', out);
	}
}

static void print_hist(struct timing *t, const struct place *p, const struct hist *h, u64 ns)
{
	static const struct {
		const char *name;
		unsigned per_mille;
	} percentiles[] = { { "p50", 500 }, { "p90", 900 }, { "p99", 990 }, { "p99.9", 999 } };
	FILE *out = t->os.cli->out;
	number_buf calls, rate, time;

	out_printf(out, "%s   %s   %s/s\n", p->spec, count_format(h->count, "call", "calls", calls),
		   number_format(ns ? (u64)(h->count * 1e9 / ns + 0.5) : 0, rate));
	print_rows(out, h);
	for (size_t i = 0; i < ARRAY_SIZE(percentiles); i++)
		out_printf(out, "%s %s   ", percentiles[i].name,
			   duration_format(hist_percentile(h, percentiles[i].per_mille), time));
	out_printf(out, "max %s   (within 6 %%", duration_format(h->max, time));
	if (t->ours)
		out_printf(out, "; %s of each call is ours", duration_format(t->ours, time));
	out_printf(out, ")\n");
}

/* A function in all processes. */
struct block {
	const struct place *place;
	struct hist hist;
};

static int by_spec(const void *a, const void *b)
{
	return strcmp((*(struct block *const *)a)->place->spec, (*(struct block *const *)b)->place->spec);
}

static int by_count(const void *a, const void *b)
{
	const struct block *x = *(struct block *const *)a, *y = *(struct block *const *)b;

	return x->hist.count != y->hist.count ? (x->hist.count < y->hist.count ? 1 : -1) : by_spec(a, b);
}

static void block_add(struct block *to, const struct block *from)
{
	for (unsigned b = 0; b < HIST_BUCKETS; b++)
		to->hist.bucket[b] += from->hist.bucket[b];
	to->hist.sum += from->hist.sum;
	to->hist.min = from->hist.min < to->hist.min ? from->hist.min : to->hist.min;
	to->hist.max = from->hist.max > to->hist.max ? from->hist.max : to->hist.max;
	hist_finish(&to->hist);
}

/* Functions with calls in this period, busiest first; those of several
 * processes in one. BLOCKS has room for all places. */
static struct uerr *make_blocks(const struct timing *t, struct block **blocks, size_t *ret)
{
	size_t n = 0, out = 0;

	for (size_t i = 0; i < t->os.places.n; i++) {
		if (!t->now[i])
			continue;
		blocks[n] = calloc(1, sizeof(**blocks));
		*ret = n;
		if (!blocks[n])
			return uerr_nomem();
		blocks[n]->place = &t->os.places.data[i];
		hist_since(t->now[i], t->before[i], &blocks[n]->hist);
		if (blocks[n]->hist.count)
			n++;
		else
			free(blocks[n]);
	}
	qsort(blocks, n, sizeof(*blocks), by_spec);
	for (size_t i = 0; i < n; i++) {
		if (out && !strcmp(blocks[out - 1]->place->spec, blocks[i]->place->spec)) {
			block_add(blocks[out - 1], blocks[i]);
			free(blocks[i]);
		} else {
			blocks[out++] = blocks[i];
		}
	}
	qsort(blocks, out, sizeof(*blocks), by_count);
	*ret = out;
	return NULL;
}

static size_t distinct_functions(const struct timing *t)
{
	size_t n = 0;

	/* of one process all are; of several those that the first one has */
	vec_foreach(p, &t->os.places)
		n += p->used && (t->os.single || p->pid == t->os.places.data[0].pid);
	return n;
}

static struct uerr *print_blocks(struct timing *t, u64 end, bool last)
{
	cleanup_free struct block **blocks = calloc(t->os.places.n, sizeof(*blocks));
	size_t n = 0, shown, all = distinct_functions(t);
	FILE *out = t->os.cli->out;
	struct uerr *err;
	number_buf num;

	if (!blocks)
		return uerr_nomem();
	err = make_blocks(t, blocks, &n);
	shown = oneshot_top(&t->os, n);
	oneshot_print_time(&t->os);
	for (size_t i = 0; !err && i < shown; i++) {
		fputc('\n', out);
		print_hist(t, blocks[i]->place, &blocks[i]->hist, end - t->period_start);
	}
	for (size_t i = 0; i < n; i++)
		free(blocks[i]);
	if (err)
		return err;
	if (!n && last && t->period_start == t->os.start_ns)
		oneshot_print_silence(&t->os);
	else if (!n)
		out_printf(out, "no calls\n");
	if (shown < n)
		out_printf(out, "… %s more (--top 0). ", number_format(n - shown, num));
	if (n && n < all)
		out_printf(out, "%s never called. ", number_format(all - n, num));
	out_printf(out, "missed %s\n", number_format(missed(t) - t->missed_before, num));
	return NULL;
}

static struct uerr *print_period(struct timing *t, u64 end, bool last)
{
	struct uerr *err = opt_given(t->os.cli->o, OPT_JSON) ? print_json(t, end) : print_blocks(t, end, last);

	fflush(t->os.cli->out);
	for (size_t i = 0; !err && i < t->os.places.n; i++) {
		if (!t->now[i])
			continue;
		if (!t->before[i])
			t->before[i] = malloc(sizeof(**t->before));
		if (!t->before[i])
			return uerr_nomem();
		*t->before[i] = *t->now[i];
	}
	t->period_start = end;
	t->missed_before = missed(t);
	return err;
}

static struct uerr *interval(struct oneshot *os, void *arg)
{
	struct timing *t = arg;
	u64 end = now_ns();
	struct uerr *err = oneshot_read_missed(os);

	if (!err)
		err = read_hists(t);
	return err ? err : print_period(t, end, false);
}

/* A return without its entry: the call had begun before the attach. */
static void print_unpaired(const struct timing *t)
{
	u64 n = t->unpaired, no_room = t->events[LATENCY_NO_ROOM];
	number_buf buf;

	if (n > no_room && !opt_given(t->os.cli->o, OPT_QUIET))
		progress(false, "%s had begun before the probes were in: not timed.",
			 count_format(n - no_room, "call", "calls", buf));
}

static void hists_free(struct hist **list, size_t n)
{
	for (size_t i = 0; list && i < n; i++)
		free(list[i]);
	free(list);
}

static struct uerr *timing_init(struct timing *t)
{
	size_t n = t->os.places.n;

	t->extremes = calloc(n, sizeof(*t->extremes));
	t->now = calloc(n, sizeof(*t->now));
	t->before = calloc(n, sizeof(*t->before));
	if (!t->extremes || !t->now || !t->before)
		return uerr_nomem();
	t->period_start = t->os.start_ns;
	return NULL;
}

static void timing_deinit(struct timing *t)
{
	size_t n = t->os.places.n;

	hists_free(t->now, n);
	hists_free(t->before, n);
	free(t->extremes);
	oneshot_deinit(&t->os);
}

/* Entries are detached before exits: from then on every return is unpaired. */
static struct uerr *read_unpaired(struct oneshot *os, void *arg)
{
	struct timing *t = arg;
	struct uerr *err = oneshot_map_read(os, "events", 8, take_event, t);

	t->unpaired = t->events[LATENCY_UNPAIRED];
	return err;
}

static const struct oneshot_hooks hooks = { .interval = interval, .before_detach = read_unpaired };

/* Waits, detaches, reads. */
static struct uerr *timing_run(struct timing *t)
{
	struct uerr *err = timing_init(t);

	if (!err)
		err = oneshot_run(&t->os, &hooks, t);
	return err ? err : read_hists(t);
}

#define CALIBRATION_CALLS 5000
#define CALIBRATION_LIMIT_NS 1000000000

/* What calibration times: nothing, so the time is ours. */
void bpfctl_empty_function(void);
__attribute__((noinline)) void bpfctl_empty_function(void)
{
	/* long enough to be probed, and kept by the compiler */
	__asm__ volatile(".nops 16" ::: "memory");
}

/* A child that calls the empty function once GO_FD has a byte. */
static pid_t fork_calibration(int *go_fd)
{
	int go[2];
	char byte;
	pid_t pid;

	if (pipe2(go, O_CLOEXEC))
		return -1;
	pid = fork();
	if (pid) {
		close(go[0]);
		*go_fd = go[1];
		return pid;
	}
	close(go[1]);
	if (read(go[0], &byte, 1) == 1)
		for (int i = 0; i < CALIBRATION_CALLS; i++)
			bpfctl_empty_function();
	_exit(0);
}

/* The time that an empty function seems to take, in ns, with the same programs
 * and the same daemon; 0 if that cannot be found out here. */
static u64 calibrate(const struct opts *ours)
{
	struct opts o = { .given = OPT_PID | OPT_QUIET, .socket = ours->socket, .for_ns = CALIBRATION_LIMIT_NS };
	struct cli cli = { .o = &o, .out = stderr };
	struct timing t = {};
	cleanup_close int go_fd = -1;
	cleanup_uerr struct uerr *err = NULL;
	pid_t pid = fork_calibration(&go_fd);
	u64 ns = 0;

	if (pid < 0)
		return 0;
	if (!vec_push(&o.args, "latency") || !vec_push(&o.args, ":bpfctl_empty_function") || !vec_push(&o.pids, pid))
		err = uerr_nomem();
	if (!err)
		err = oneshot_begin(&t.os, &cli, &latency_tool);
	if (!err && write(go_fd, "", 1) == 1)
		err = timing_run(&t);
	if (!err && t.now && t.now[0])
		ns = hist_percentile(t.now[0], 500);
	close(steal_fd(&go_fd));
	waitpid(pid, NULL, 0);
	timing_deinit(&t);
	opts_deinit(&o);
	return ns;
}

static struct uerr *latency_run(struct timing *t)
{
	struct uerr *err = timing_run(t);

	/* while CMD still runs, signals are for it */
	if (!err && !opt_given(t->os.cli->o, OPT_JSON) && !(t->os.child.pid && t->os.timed_out))
		t->ours = calibrate(t->os.cli->o);
	if (!err)
		err = print_period(t, t->os.end_ns, true);
	if (err)
		return err;
	print_unpaired(t);
	oneshot_end(&t->os);
	return NULL;
}

struct uerr *cmd_latency(struct cli *cli)
{
	struct timing t = {};
	struct uerr *err = oneshot_begin(&t.os, cli, &latency_tool);

	if (!err && t.os.attached)
		err = latency_run(&t);
	timing_deinit(&t);
	return err;
}
