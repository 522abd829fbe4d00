// SPDX-License-Identifier: MIT
/*
 * Options by table; see opts.h. Only one loop, since getopt(3) can neither
 * suggest what was meant nor tell what is planned from what is unknown.
 */
#include "cli/opts.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct opt {
	enum opt_id id;
	char letter; /* or 0 */
	const char *name;
	const char *arg; /* word for help; NULL: takes none */
	const char *help;
} table[] = {
	{ OPT_PID, 'p', "pid", "PID", "this process and its children (may be repeated)" },
	{ OPT_NAME, 'n', "name", "NAME", "processes with this name (may be repeated)" },
	{ OPT_PATH, 'x', "path", "FILE", "processes that run or map this file (may be repeated)" },
	{ OPT_NO_FOLLOW, 0, "no-follow", NULL, "without the children" },
	{ OPT_FORCE, 0, "force", NULL, "even if these are more than 64 processes" },
	{ OPT_NOT, 0, "not", "GLOB", "leave out functions with such names (may be repeated)" },
	{ OPT_TRAP, 0, "trap", NULL, "breakpoints where no jump fits (SIGTRAP becomes ours)" },
	{ OPT_FOR, 'd', "for", "TIME", "end after this time (10s, 500ms, 2m)" },
	{ OPT_INTERVAL, 'i', "interval", "TIME", "print what happened in each such time" },
	{ OPT_TOP, 0, "top", "N", "only the N busiest functions (0: all; 20 on a terminal)" },
	{ OPT_FOLDED, 0, "folded", NULL, "a line for each stack, for flame graphs: main;run;compare 12" },
	{ OPT_DRY_RUN, 0, "dry-run", NULL, "say what would be done, touch nothing" },
	{ OPT_ALL, 0, "all", NULL, "all of them" },
	{ OPT_MORE, 0, "more", NULL, "ask for a stream of replies, print each" },
	{ OPT_ALLOW_OVERRIDE, 0, "allow-override", NULL, "programs may skip functions (bpf_override_return)" },
	{ OPT_OUT, 'o', "output", "FILE", "results go to FILE" },
	{ OPT_JSON, 'j', "json", NULL, "results as JSON" },
	{ OPT_QUIET, 'q', "quiet", NULL, "no progress messages" },
	{ OPT_VERBOSE, 'v', "verbose", NULL, "more detail; the verifier's full log" },
	{ OPT_SOCKET, 0, "socket", "PATH", "where the daemon listens (also $UPROBED_SOCKET)" },
	{ OPT_HELP, 'h', "help", NULL, "help" },
	{ OPT_VERSION, 0, "version", NULL, "the version" },
};

/* What the design has and this version has not. */
static const char *const planned_options[] = {
	"by", "filter", "stack", "unit", "cgroup", "container", "max-events", "min", "args", "ret", "show", "strlen",
	"graph", "junit", "tap", "flame", "perfetto", "diff", "retval", "error", "when", "probability",
	"count", "latency", "load",
};

static const char *const planned_verbs[] = {
	"trace", "top", "leaks", "inject", "run", "expect", "report", "exec", "tail",
};

static bool word_in(const char *word, const char *const *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(words[i], word))
			return true;
	return false;
}

bool verb_is_planned(const char *word)
{
	return word_in(word, planned_verbs, ARRAY_SIZE(planned_verbs));
}

/* Edits (insert, delete, replace, swap of neighbours) from A to B. */
static size_t edit_distance(const char *a, const char *b)
{
	size_t na = strlen(a), nb = strlen(b), rows[3][65];

	if (na > 64 || nb > 64)
		return SIZE_MAX;
	for (size_t j = 0; j <= nb; j++)
		rows[0][j] = j;
	for (size_t i = 1; i <= na; i++) {
		size_t *row = rows[i % 3], *up = rows[(i - 1) % 3], *up2 = rows[(i + 1) % 3];

		row[0] = i;
		for (size_t j = 1; j <= nb; j++) {
			size_t best = up[j - 1] + (a[i - 1] != b[j - 1]);

			if (up[j] + 1 < best)
				best = up[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && up2[j - 2] + 1 < best)
				best = up2[j - 2] + 1;
			row[j] = best;
		}
	}
	return rows[na % 3][nb];
}

const char *nearest_word(const char *word, const char *const *names, size_t n)
{
	size_t best = strlen(word) / 3 + 2;
	const char *ret = NULL;

	for (size_t i = 0; i < n; i++) {
		size_t d = edit_distance(word, names[i]);

		if (d < best) {
			best = d;
			ret = names[i];
		}
	}
	return ret;
}

struct uerr *duration_parse(const char *text, u64 *ret)
{
	static const struct {
		const char *unit;
		double ns;
	} units[] = {
		{ "ns", 1 }, { "us", 1e3 },  { "µs", 1e3 },  { "μs", 1e3 },
		{ "ms", 1e6 }, { "s", 1e9 }, { "m", 60e9 }, { "h", 3600e9 },
	};
	char *end;
	double v;

	if (!isdigit((unsigned char)*text) && *text != '.')
		return uerr_new(UERR_USAGE, "'%s' is no duration: write a number and a unit, like 10s or 500ms", text);
	v = strtod(text, &end);
	if (!*end)
		return uerr_new(UERR_USAGE, "the duration '%s' needs a unit: ns, us, ms, s, m or h (%ss for seconds)", text,
				text);
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		if (strcmp(end, units[i].unit))
			continue;
		v *= units[i].ns;
		if (!(v >= 1) || v > 9e18)
			return uerr_new(UERR_USAGE, "the duration '%s' is out of range", text);
		*ret = v;
		return NULL;
	}
	return uerr_new(UERR_USAGE, "'%s' is no unit of time: use ns, us, ms, s, m or h", end);
}

static struct uerr *pid_parse(const char *text, pid_t *ret)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(text, &end, 10);
	if (errno || end == text || *end || v <= 0 || v > 1 << 30)
		return uerr_new(UERR_USAGE, "'%s' is no process id; for a name use -n %s", text, text);
	*ret = v;
	return NULL;
}

static struct uerr *opt_set(struct opts *o, const struct opt *opt, const char *value)
{
	char *end;
	pid_t pid = 0;
	bool ok = true;
	struct uerr *err;

	o->given |= opt->id;
	switch (opt->id) {
	case OPT_PID:
		err = pid_parse(value, &pid);
		if (err)
			return err;
		ok = vec_push(&o->pids, pid);
		break;
	case OPT_NAME:
		ok = vec_push(&o->names, value);
		break;
	case OPT_PATH:
		ok = vec_push(&o->paths, value);
		break;
	case OPT_NOT:
		ok = vec_push(&o->nots, value);
		break;
	case OPT_FOR:
		return uerr_prefix(duration_parse(value, &o->for_ns), "--for");
	case OPT_INTERVAL:
		return uerr_prefix(duration_parse(value, &o->interval_ns), "--interval");
	case OPT_TOP:
		errno = 0;
		o->top = strtoul(value, &end, 10);
		if (errno || end == value || *end || *value == '-')
			return uerr_new(UERR_USAGE, "--top needs a number, not '%s'", value);
		break;
	case OPT_OUT:
		o->out = value;
		break;
	case OPT_SOCKET:
		o->socket = value;
		break;
	default: /* a flag: the bit is all */
		break;
	}
	return ok ? NULL : uerr_nomem();
}

static struct uerr *unknown_option(const char *name)
{
	const char *names[ARRAY_SIZE(table)], *near;
	struct uerr *err;

	if (word_in(name, planned_options, ARRAY_SIZE(planned_options)))
		return uerr_new(UERR_USAGE, "the option --%s is not there yet", name);
	err = uerr_new(UERR_USAGE, "no option --%s", name);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		names[i] = table[i].name;
	near = nearest_word(name, names, ARRAY_SIZE(table));
	if (near) {
		char with_dashes[32];

		snprintf(with_dashes, sizeof(with_dashes), "--%s", near);
		uerr_add_near(err, with_dashes);
	}
	return err;
}

/* ARG is "--name" or "--name=value"; takes the next argument if it needs one. */
static struct uerr *parse_long(struct opts *o, const char *arg, char **argv, int argc, int *i)
{
	const char *name = arg + 2, *eq = strchr(name, '=');
	size_t n = eq ? (size_t)(eq - name) : strlen(name);
	char key[64];

	snprintf(key, sizeof(key), "%.*s", (int)(n < 63 ? n : 63), name);
	for (size_t k = 0; k < ARRAY_SIZE(table); k++) {
		const struct opt *opt = &table[k];

		if (strcmp(opt->name, key))
			continue;
		if (!opt->arg && eq)
			return uerr_new(UERR_USAGE, "--%s takes no value", key);
		if (!opt->arg || eq)
			return opt_set(o, opt, eq ? eq + 1 : NULL);
		if (*i + 1 >= argc)
			return uerr_new(UERR_USAGE, "--%s needs a value: --%s %s", key, key, opt->arg);
		return opt_set(o, opt, argv[++*i]);
	}
	return unknown_option(key);
}

/* ARG is "-p", "-p7", or flags in a row. */
static struct uerr *parse_short(struct opts *o, const char *arg, char **argv, int argc, int *i)
{
	for (const char *c = arg + 1; *c; c++) {
		const struct opt *opt = NULL;
		struct uerr *err;

		for (size_t k = 0; k < ARRAY_SIZE(table) && !opt; k++)
			if (table[k].letter == *c)
				opt = &table[k];
		if (!opt)
			return uerr_new(UERR_USAGE, "no option -%c; see 'bpfctl help'", isprint((unsigned char)*c) ? *c : '?');
		if (opt->arg) {
			if (c[1])
				return opt_set(o, opt, c + 1);
			if (*i + 1 >= argc)
				return uerr_new(UERR_USAGE, "-%c needs a value: -%c %s", *c, *c, opt->arg);
			return opt_set(o, opt, argv[++*i]);
		}
		err = opt_set(o, opt, NULL);
		if (err)
			return err;
	}
	return NULL;
}

struct uerr *opts_parse(int argc, char **argv, struct opts *ret)
{
	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i];
		struct uerr *err = NULL;

		if (!strcmp(arg, "--")) {
			if (i + 1 >= argc)
				return uerr_new(UERR_USAGE, "no command behind '--'");
			ret->cmd = argv + i + 1;
			ret->given |= OPT_CMD;
			return NULL;
		}
		/* -1 is a value (of a map), - a file name */
		if (arg[0] != '-' || !arg[1] || isdigit((unsigned char)arg[1])) {
			if (!vec_push(&ret->args, arg))
				return uerr_nomem();
			continue;
		}
		if (arg[1] == '-')
			err = parse_long(ret, arg, argv, argc, &i);
		else
			err = parse_short(ret, arg, argv, argc, &i);
		if (err)
			return err;
	}
	return NULL;
}

void opts_deinit(struct opts *o)
{
	vec_free(&o->args);
	vec_free(&o->pids);
	vec_free(&o->names);
	vec_free(&o->paths);
	vec_free(&o->nots);
}

struct uerr *opts_check(const struct opts *o, u32 allowed, const char *name)
{
	u32 wrong = o->given & ~(allowed | OPTS_EVERYWHERE);

	if (wrong & OPT_CMD)
		return uerr_new(UERR_USAGE, "'%s' starts no command: leave '--' out", name);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (wrong & table[i].id)
			return uerr_new(UERR_USAGE, "'%s' takes no --%s; see 'bpfctl help %s'", name, table[i].name, name);
	return NULL;
}

void opts_help(FILE *out, u32 mask)
{
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		const struct opt *opt = &table[i];
		char text[64], letter[8] = "    ";

		if (!(mask & opt->id))
			continue;
		if (opt->letter)
			snprintf(letter, sizeof(letter), "-%c, ", opt->letter);
		snprintf(text, sizeof(text), "%s--%s%s%s", letter, opt->name, opt->arg ? " " : "", opt->arg ? opt->arg : "");
		fprintf(out, "  %-22s  %s\n", text, opt->help);
	}
	if (mask & OPT_CMD)
		fprintf(out, "  %-22s  %s\n", "-- CMD ARG...", "start this command under the probes; exit with its status");
}
