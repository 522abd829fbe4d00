/* SPDX-License-Identifier: MIT */
/*
 * Whether our verifier agrees with the kernel's. Every program of the tables
 * has its verdict recorded; the kernel is asked whether the record is right, and
 * our verifier is held to the record. Where bpf(2) is not permitted the kernel's
 * half is skipped, and says so. Then random programs, the object files given,
 * and, when asked for, programs that take long.
 *
 *	verdict [-v] [-k] [-t THEME] [-n NAME] [-w|-W FILE] [-r N] [-s SEED] [-b] [OBJECT…]
 *
 *	-v  both logs of each disagreement       -k  what the kernel says of each program
 *	-t  one theme only (none: no table)      -n  one program only, with both logs
 *	-w  compares the words of our refusals with those recorded in FILE (-W: records them)
 *	-r  this many random programs            -s  beginning with this seed
 *	-b  the timing comparison only
 *
 * Prints TAP. What fails: the kernel does not agree with the record; we
 * accept what is recorded as unsafe; we refuse what the kernel accepts, and the
 * table gives no reason (or gives one, and we accept); a refusal that does not say
 * where and why, or not in the words recorded.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/vm/verdict/verdict.h"

#define DEFAULT_RANDOM 2000
#define DEFAULT_SEED 1
#define MIN_SHARE 95.0

static bool verbose, show_kernel, have_kernel;
static const char *only_theme, *only_name;
static u32 ntests, nfailed;
static char why_not[256]; /* there is no kernel to ask */

/* Over all tables */
static struct {
	u32 programs, accept, reject, policy;
	u32 we_accept, strict, unsound, lax;
} sum;

static void tap(bool ok, const char *what, const char *detail)
{
	nfailed += !ok;
	printf("%s %u - %s%s%s\n", ok ? "ok" : "not ok", ++ntests, what, *detail ? ": " : "", detail);
	fflush(stdout);
}

static void tap_skip(const char *what, const char *why)
{
	printf("ok %u - %s # SKIP %s\n", ++ntests, what, why);
}

void print_log(const char *who, const char *log)
{
	printf("#     --- %s ---\n", who);
	for (const char *line = log ? log : "", *end; *line; line = *end ? end + 1 : end) {
		end = strchrnul(line, '\n');
		printf("#     %.*s\n", (int)(end - line), line);
	}
}

void judgement_deinit(struct judgement *j)
{
	free(j->log);
	*j = (struct judgement){ .reason = "" };
}

static const char *side(const struct program *p)
{
	return p->bad ? " (bad)" : "";
}

static int first_line(const char *s)
{
	return (int)(strchrnul(s, '\n') - s);
}

static void print_disagreement(const struct program *p, const char *what)
{
	struct judgement k = { .reason = "(not asked)" }, o;

	if (have_kernel)
		kernel_judge(p, verbose ? 2 : 1, &k);
	ours_judge(p, verbose ? 2 : 1, &o);
	printf("#   %s/%s%s: %s\n#     kernel: %s %s (%s)\n#     ours:   %s %.*s\n", p->theme, p->name, side(p), what,
	       !have_kernel ? "-" : k.accepted ? "accepts" : "rejects", k.reason, strerror(k.error),
	       o.accepted ? "accepts" : "rejects", first_line(o.reason), o.reason);
	if (verbose) {
		print_log("kernel", k.log);
		print_log("ours", o.log);
	}
	judgement_deinit(&k);
	judgement_deinit(&o);
}

/* Is the record right? */
static bool check_record(const struct program *p)
{
	struct judgement k;
	bool ok;

	kernel_judge(p, 1, &k);
	ok = k.accepted ? p->verdict == VERDICT_ACCEPT :
			  p->verdict != VERDICT_ACCEPT && k.log && strstr(k.log, p->words);
	if (show_kernel)
		printf("#   %s/%s%s: %s %s\n", p->theme, p->name, side(p), k.accepted ? "accepts" : "rejects",
		       k.reason);
	if (!ok)
		printf("#   %s/%s%s: recorded as %s \"%s\", but the kernel %s: %s\n", p->theme, p->name, side(p),
		       p->verdict == VERDICT_ACCEPT ? "accepted" : "rejected", p->words,
		       k.accepted ? "accepts" : "rejects", k.reason);
	judgement_deinit(&k);
	return ok;
}

/* Do we keep to it? */
static bool check_ours(const struct program *p)
{
	struct judgement o;
	const char *wrong = NULL;

	ours_judge(p, 1, &o);
	sum.programs++;
	switch (p->verdict) {
	case VERDICT_ACCEPT:
		sum.accept++;
		sum.we_accept += o.accepted;
		sum.strict += !o.accepted;
		if (!o.accepted && !p->strict)
			wrong = "we refuse what the kernel accepts";
		else if (o.accepted && p->strict)
			wrong = "we accept, though the table says why we would not";
		break;
	case VERDICT_REJECT:
		sum.reject++;
		sum.unsound += o.accepted;
		if (o.accepted)
			wrong = "NOT SAFE, and we accept";
		break;
	case VERDICT_POLICY:
		sum.policy++;
		sum.lax += o.accepted;
		break;
	}
	if (!o.accepted && !words_add(p, o.log) && !wrong)
		wrong = "our refusal does not say where, why, and what to do";
	if (wrong || only_name)
		print_disagreement(p, wrong ? wrong : "as recorded");
	judgement_deinit(&o);
	return !wrong;
}

/* The place of X belongs to pairs, and holds one instruction. */
static bool check_row(const struct row *r)
{
	u32 places = 0;

	for (u32 i = 0; i < ROW_MAX; i++)
		places += r->insns[i].code == 0xf7;
	if (r->verdict ? places : places != 1) {
		printf("#   %s: X stands there %u times\n", r->name, places);
		return false;
	}
	return true;
}

static void run_theme(const struct theme *t)
{
	struct bpf_insn insns[ROW_MAX + 2];
	u32 n = 0, wrong = 0, disagree = 0;
	char what[100], detail[100];

	for (size_t i = 0; i < t->nrows; i++) {
		const struct row *r = &t->rows[i];

		if (only_name && strcmp(only_name, r->name))
			continue;
		wrong += !check_row(r);
		for (u32 bad = 0; bad < (r->verdict ? 1 : 2); bad++) {
			struct program p = { .theme = t->name, .insns = insns };

			program_expand(r, bad, &p);
			n++;
			if (have_kernel)
				wrong += !check_record(&p);
			disagree += !check_ours(&p);
		}
	}
	if (!n)
		return;
	snprintf(what, sizeof(what), "%s: the kernel agrees with the record", t->name);
	snprintf(detail, sizeof(detail), "%u of %u", n - wrong, n);
	if (have_kernel)
		tap(!wrong, what, detail);
	else
		tap_skip(what, why_not);
	snprintf(what, sizeof(what), "%s: we do", t->name);
	snprintf(detail, sizeof(detail), "%u of %u", n - disagree, n);
	tap(!disagree, what, detail);
}

static void report_tables(void)
{
	char detail[200];
	double share = sum.accept ? 100.0 * sum.we_accept / sum.accept : 100;

	printf("# tables: %u programs; accepted by the kernel %u, by us of these %u (%.1f %%), rejected %u, by us "
	       "accepted of these %u, refused by policy %u, by us accepted of these %u\n",
	       sum.programs, sum.accept, sum.we_accept, share, sum.reject, sum.unsound, sum.policy, sum.lax);
	snprintf(detail, sizeof(detail), "%.1f %% (%u of %u)", share, sum.we_accept, sum.accept);
	tap(share >= MIN_SHARE, "share of what the kernel accepts that we accept", detail);
}

static void check_words(const char *path, bool record)
{
	u32 differ = record ? !words_write(path) : words_compare(path);
	char detail[40];

	snprintf(detail, sizeof(detail), "%u differ", differ);
	tap(!differ, "words of our refusals", detail);
}

bool is_policy(const char *log)
{
	static const char *const words[] = { "cannot use helper", "GPL-restricted",
					     "might sleep in a non-sleepable prog", "dereference of modified ctx",
					     "verifier bug",
					     /* the helper looks at them again when it runs */
					     "Invalid format string", "call bpf_snprintf" };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strstr(log, words[i]))
			return true;
	return false;
}

void compare(const struct program *p, u32 level, struct tally *t)
{
	struct judgement k, o;

	kernel_judge(p, 1, &k);
	ours_judge(p, 0, &o);
	t->kernel_ns += k.ns;
	t->our_ns += o.ns;
	t->kernel_accepts += k.accepted;
	t->both_accept += k.accepted && o.accepted;
	t->kernel_rejects += !k.accepted;
	if (!k.accepted && o.accepted && !is_policy(k.reason)) {
		t->unsound++;
		print_disagreement(p, "NOT SAFE, and we accept");
	} else if (k.accepted && !o.accepted && level) {
		print_disagreement(p, "we refuse what the kernel accepts");
	}
	judgement_deinit(&k);
	judgement_deinit(&o);
}

static void run_random(enum random_kind kind, const char *name, u32 n, u64 seed)
{
	struct tally t = {};
	char what[100], detail[300];
	double share;

	if (!have_kernel) {
		tap_skip(name, why_not);
		return;
	}
	random_compare(kind, n, seed, verbose, &t);
	share = t.kernel_accepts ? 100.0 * t.both_accept / t.kernel_accepts : 0;
	snprintf(what, sizeof(what), "%s: what the kernel rejects, we reject", name);
	snprintf(detail, sizeof(detail), "%u from seed %llu, rejected by the kernel %u, by us accepted of these %u", n,
		 (unsigned long long)seed, t.kernel_rejects, t.unsound);
	tap(!t.unsound, what, detail);
	snprintf(what, sizeof(what), "%s: share of what the kernel accepts that we accept", name);
	snprintf(detail, sizeof(detail), "%.1f %% (%u of %u)", share, t.both_accept, t.kernel_accepts);
	tap(share >= MIN_SHARE, what, detail);
}

static u32 nobjects, nrefused, nobject_progs;
static u64 objects_ns, slowest_ns;

static void run_object(const char *path)
{
	struct tally t = {};
	char detail[200], why[500] = "";
	const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;

	nobjects++;
	switch (object_compare(path, have_kernel, verbose, &t, why, sizeof(why))) {
	case OBJECT_COMPARED:
		break;
	case OBJECT_REFUSED:
		nrefused++;
		tap_skip(name, why);
		return;
	case OBJECT_BROKEN:
		tap(false, name, why);
		return;
	}
	snprintf(detail, sizeof(detail), "%u programs by the kernel, %u of them by us; ours %.3f ms, kernel %.3f ms",
		 t.kernel_accepts, t.both_accept, (double)t.our_ns / 1e6, (double)t.kernel_ns / 1e6);
	nobject_progs += t.kernel_accepts + t.kernel_rejects;
	objects_ns += t.our_ns;
	if (t.our_ns > slowest_ns)
		slowest_ns = t.our_ns;
	tap(t.both_accept == t.kernel_accepts && !t.unsound, name, detail);
}

static void report_objects(void)
{
	char detail[200];

	snprintf(detail, sizeof(detail), "%u of %u, %u programs; ours %.3f ms, the slowest object %.3f ms",
		 nobjects - nrefused, nobjects, nobject_progs, (double)objects_ns / 1e6, (double)slowest_ns / 1e6);
	tap(nrefused * 2 <= nobjects, "objects that could be compared", detail);
}

int main(int argc, char **argv)
{
	s64 nrandom = -1;
	u64 seed = DEFAULT_SEED;
	const char *words = NULL;
	bool timing = false, record = false;

	for (int opt; (opt = getopt(argc, argv, "vkt:n:w:W:r:s:b")) >= 0;) {
		switch (opt) {
		case 'v': verbose = true; break;
		case 'k': show_kernel = true; break;
		case 't': only_theme = optarg; break;
		case 'n': only_name = optarg; verbose = true; break;
		case 'w': words = optarg; break;
		case 'W': words = optarg; record = true; break;
		case 'r': nrandom = (s64)strtoul(optarg, NULL, 0); break;
		case 's': seed = strtoull(optarg, NULL, 0); break;
		case 'b': timing = true; break;
		default: return 2;
		}
	}
	if (nrandom < 0)
		nrandom = only_theme || only_name ? 0 : DEFAULT_RANDOM;
	ours_init();
	words_init();
	have_kernel = kernel_init(why_not, sizeof(why_not));
	if (!have_kernel)
		printf("# THE KERNEL IS NOT ASKED: %s. Only our verdicts are compared with what it said once.\n",
		       why_not);
	if (timing) {
		tap(bench(have_kernel), "long programs", "");
	} else {
		for (size_t i = 0; i < nthemes; i++)
			if (!only_theme || !strcmp(only_theme, themes[i].name))
				run_theme(&themes[i]);
		if (!only_theme && !only_name)
			report_tables();
		if (words)
			check_words(words, record);
		if (nrandom) {
			run_random(RANDOM_GENERATED, "generated programs", (u32)nrandom / 2, seed);
			run_random(RANDOM_CHANGED, "programs of the tables, changed", (u32)nrandom / 2, seed);
		}
		for (int i = optind; i < argc; i++)
			run_object(argv[i]);
		if (nobjects)
			report_objects();
	}
	printf("1..%u\n", ntests);
	if (have_kernel)
		kernel_deinit();
	words_deinit();
	ours_deinit();
	return nfailed > 0;
}
