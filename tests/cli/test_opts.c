/* SPDX-License-Identifier: MIT */
/* The command line: options anywhere, durations with units, SPEC and TARGET. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/opts.h"
#include "cli/target.h"
#include "tests/support/suite.h"

static struct opts o;

/* Parses ARGS (up to NULL); the error's message is in `message`. */
static char *message;

static enum uerr_code parse(const char **args)
{
	static const char *argv[32];
	struct uerr *err;
	int n = 0;
	enum uerr_code code = 0;

	/* o.cmd points into the vector, which must outlive the call as main()'s does */
	while (args[n] && n < (int)ARRAY_SIZE(argv) - 1) {
		argv[n] = args[n];
		n++;
	}
	argv[n] = NULL;
	opts_deinit(&o);
	o = (struct opts){};
	free(message);
	message = NULL;
	err = opts_parse(n, (char **)argv, &o);
	if (err) {
		code = err->code;
		message = strdup(err->nnear ? err->near[0] : err->message);
	}
	uerr_free(err);
	return code;
}

#define PARSE(...) parse((const char *[]){ "bpfctl", __VA_ARGS__, NULL })

START_TEST(options_stand_anywhere)
{
	ck_assert_int_eq(PARSE("-j", "count", "-p", "7", ":f", "--pid=8", "-p9", "--for", "1.5s", "-qv", ":g"), 0);
	ck_assert_uint_eq(o.args.n, 3);
	ck_assert_str_eq(o.args.data[0], "count");
	ck_assert_str_eq(o.args.data[2], ":g");
	ck_assert_uint_eq(o.pids.n, 3);
	ck_assert_int_eq(o.pids.data[2], 9);
	ck_assert_uint_eq(o.for_ns, 1500000000);
	ck_assert(opt_given(&o, OPT_JSON) && opt_given(&o, OPT_QUIET) && opt_given(&o, OPT_VERBOSE));
	ck_assert_ptr_null(o.cmd);
}
END_TEST

START_TEST(command_is_left_alone)
{
	ck_assert_int_eq(PARSE("count", ":f", "--", "ls", "-l", "--json"), 0);
	ck_assert_str_eq(o.cmd[0], "ls");
	ck_assert_str_eq(o.cmd[2], "--json");
	ck_assert(!opt_given(&o, OPT_JSON));
	ck_assert_int_eq(PARSE("count", ":f", "--"), UERR_USAGE);
}
END_TEST

START_TEST(negative_numbers_are_values)
{
	ck_assert_int_eq(PARSE("map", "update", "m", "-1", "5"), 0);
	ck_assert_str_eq(o.args.data[3], "-1");
}
END_TEST

START_TEST(bad_options)
{
	static const struct {
		const char *arg, *value, *message;
	} rows[] = {
		{ "--fro", NULL, "--for" },
		{ "--jsno", NULL, "--json" },
		{ "--by", "pid", "the option --by is not there yet" },
		{ "--cgroup", "x", "the option --cgroup is not there yet" },
		{ "-Z", NULL, "no option -Z; see 'bpfctl help'" },
		{ "--for", NULL, "--for needs a value: --for TIME" },
		{ "--json=1", NULL, "--json takes no value" },
		{ "-p", "redis", "'redis' is no process id; for a name use -n redis" },
		{ "-p", "-5", "'-5' is no process id; for a name use -n -5" },
		{ "--top", "x", "--top needs a number, not 'x'" },
		{ "-d", "10",
		  "--for: the duration '10' needs a unit: ns, us, ms, s, m or h (10s for seconds)" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		ck_assert_int_eq(PARSE("count", rows[i].arg, rows[i].value), UERR_USAGE);
		ck_assert_str_eq(message, rows[i].message);
	}
}
END_TEST

START_TEST(durations)
{
	static const struct {
		const char *text;
		u64 ns; /* 0: refused */
	} rows[] = {
		{ "10s", 10000000000 }, { "500ms", 500000000 }, { "1.5ms", 1500000 }, { "2m", 120000000000 },
		{ "1h", 3600000000000 }, { "7us", 7000 }, { "7µs", 7000 }, { "3ns", 3 },
		{ "10", 0 }, { "s", 0 }, { "", 0 }, { "-1s", 0 }, { "0s", 0 }, { "10 s", 0 }, { "10sec", 0 },
		{ "1e30h", 0 }, { "nans", 0 }, { "infs", 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		u64 ns = 0;
		struct uerr *err = duration_parse(rows[i].text, &ns);

		ck_assert_msg(!err == !!rows[i].ns, "%s", rows[i].text);
		ck_assert_uint_eq(ns, rows[i].ns);
		uerr_free(err);
	}
}
END_TEST

START_TEST(commands_take_their_options_only)
{
	struct uerr *err;

	ck_assert_int_eq(PARSE("status", "--top", "3"), 0);
	err = opts_check(&o, 0, "status");
	ck_assert_str_eq(err->message, "'status' takes no --top; see 'bpfctl help status'");
	uerr_free(err);
	err = opts_check(&o, OPT_TOP, "count");
	ck_assert_ptr_null(err);
}
END_TEST

START_TEST(spec_parts)
{
	static const struct {
		const char *spec, *symbol;
		bool glob;
	} rows[] = {
		{ ":main", "main", false },
		{ "main", "main", false },
		{ "libc:malloc", "malloc", false },
		{ "uretprobe:libc:mal*", "mal*", true },
		{ "/usr/lib/a*b.so:f", "f", false },
		{ "std::vector<int>::push_back", "std::vector<int>::push_back", false },
		{ "app:ns::fn", "ns::fn", false },
		{ ":[gs]etCommand", "[gs]etCommand", true },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		ck_assert_str_eq(spec_symbol(rows[i].spec), rows[i].symbol);
		ck_assert_int_eq(spec_is_glob(rows[i].spec), rows[i].glob);
	}
}
END_TEST

static char *target_text(const char *const *list, size_t n, bool *usage)
{
	cJSON *target = NULL;
	struct uerr *err = target_json(&o, list, n, 0, true, &target);
	char *text = target ? cJSON_PrintUnformatted(target) : NULL;

	*usage = err && err->code == UERR_USAGE;
	cJSON_Delete(target);
	uerr_free(err);
	return text;
}

START_TEST(targets)
{
	const char *spec = ":f", *with_path = "uprobe:/usr/../usr/bin/env:main";
	bool usage;
	char *text;

	ck_assert_int_eq(PARSE("count", "-p", "7", "-n", "redis", "--no-follow"), 0);
	text = target_text(&spec, 1, &usage);
	ck_assert_str_eq(text, "{\"pids\":[7],\"names\":[\"redis\"],\"follow\":false}");
	free(text);
	ck_assert_int_eq(PARSE("count"), 0);
	ck_assert_ptr_null(target_text(&spec, 1, &usage));
	ck_assert(usage);
	text = target_text(&with_path, 1, &usage);
	ck_assert_str_eq(text, "{\"paths\":[\"/usr/bin/env\"],\"follow\":true}");
	free(text);
}
END_TEST

START_TEST(relative_paths_become_absolute)
{
	const char *list[] = { "uretprobe:./env:main", "libc:malloc", "usdt:./env:p:n", "usdt:libc:p:n" };
	cJSON *specs = NULL;
	struct uerr *err;

	ck_assert_int_eq(chdir("/usr/bin"), 0);
	err = specs_json(list, 4, &specs);
	ck_assert_ptr_null(err);
	ck_assert_str_eq(cJSON_GetArrayItem(specs, 0)->valuestring, "uretprobe:/usr/bin/env:main");
	ck_assert_str_eq(cJSON_GetArrayItem(specs, 1)->valuestring, "libc:malloc");
	ck_assert_str_eq(cJSON_GetArrayItem(specs, 2)->valuestring, "usdt:/usr/bin/env:p:n");
	ck_assert_str_eq(cJSON_GetArrayItem(specs, 3)->valuestring, "usdt:libc:p:n");
	cJSON_Delete(specs);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("opts");
	TCase *tc = tcase_create("opts");

	tcase_add_test(tc, options_stand_anywhere);
	tcase_add_test(tc, command_is_left_alone);
	tcase_add_test(tc, negative_numbers_are_values);
	tcase_add_test(tc, bad_options);
	tcase_add_test(tc, durations);
	tcase_add_test(tc, commands_take_their_options_only);
	tcase_add_test(tc, spec_parts);
	tcase_add_test(tc, targets);
	tcase_add_test(tc, relative_paths_become_absolute);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
