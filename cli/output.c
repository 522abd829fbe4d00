// SPDX-License-Identifier: MIT
/* Numbers, durations, tables, bars, errors; see output.h. */
#include "cli/output.h"

#include <inttypes.h>
#include <langinfo.h>
#include <locale.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/protocol.h"

#define BAR_COLUMNS 40
#define LOG_EXCERPT_LINES 8

struct output_style output_style;

void output_init(void)
{
	setlocale(LC_CTYPE, "");
	output_style.utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
}

static bool colour_wanted(FILE *out)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	return isatty(fileno(out)) && !(no && *no) && !(term && !strcmp(term, "dumb"));
}

static const char *micro(void)
{
	return output_style.utf8 ? "µs" : "us";
}

char *number_format(u64 v, number_buf buf)
{
	char digits[24];
	int n = snprintf(digits, sizeof(digits), "%" PRIu64, v);
	char *p = buf;

	for (int i = 0; i < n; i++) {
		if (i && (n - i) % 3 == 0)
			*p++ = ',';
		*p++ = digits[i];
	}
	*p = '\0';
	return buf;
}

/* "3.4", "412", "10": one decimal below 100, none if it is zero. */
static void scaled_format(double v, const char *unit, number_buf buf)
{
	char text[NUMBER_MAX / 2];
	size_t n = snprintf(text, sizeof(text), v < 99.95 ? "%.1f" : "%.0f", v);

	if (n > 2 && !strcmp(text + n - 2, ".0"))
		text[n - 2] = '\0';
	snprintf(buf, NUMBER_MAX, "%s %s", text, unit);
}

char *duration_format(u64 ns, number_buf buf)
{
	if (ns < 1000)
		snprintf(buf, NUMBER_MAX, "%" PRIu64 " ns", ns);
	else if (ns < 999500)
		scaled_format(ns / 1e3, micro(), buf);
	else if (ns < 999500000)
		scaled_format(ns / 1e6, "ms", buf);
	else if (ns < 120000000000)
		scaled_format(ns / 1e9, "s", buf);
	else if (ns < 7200000000000)
		snprintf(buf, NUMBER_MAX, "%" PRIu64 " min %" PRIu64 " s", ns / 60000000000,
			 ns / 1000000000 % 60);
	else
		snprintf(buf, NUMBER_MAX, "%" PRIu64 " h %" PRIu64 " min", ns / 3600000000000,
			 ns / 60000000000 % 60);
	return buf;
}

char *stop_format(u64 ns, number_buf buf)
{
	snprintf(buf, NUMBER_MAX, ns < 100000 ? "%.2f ms" : "%.1f ms", ns / 1e6);
	return buf;
}

char *power_format(unsigned power, number_buf buf)
{
	const char *units[] = { "ns", micro(), "ms", "s" };
	unsigned unit = power / 10 < 3 ? power / 10 : 3;

	snprintf(buf, NUMBER_MAX, "%" PRIu64 " %s", (u64)1 << (power - unit * 10), units[unit]);
	return buf;
}

char *bytes_format(u64 n, number_buf buf)
{
	const char *units[] = { "KiB", "MiB", "GiB" };
	double v = n / 1024.0;
	unsigned unit = 0;

	if (n < 1024) {
		snprintf(buf, NUMBER_MAX, "%" PRIu64 " bytes", n);
		return buf;
	}
	while (v >= 1024 && unit < 2) {
		v /= 1024;
		unit++;
	}
	scaled_format(v, units[unit], buf);
	return buf;
}

char *time_format(const struct timespec *wall, number_buf buf)
{
	struct tm tm;
	size_t n;

	gmtime_r(&wall->tv_sec, &tm);
	n = strftime(buf, NUMBER_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf + n, NUMBER_MAX - n, ".%06ldZ", wall->tv_nsec / 1000);
	return buf;
}

char *count_format(u64 n, const char *singular, const char *plural, number_buf buf)
{
	number_buf num;

	snprintf(buf, NUMBER_MAX, "%s %s", number_format(n, num), n == 1 ? singular : plural);
	return buf;
}

void bar_print(FILE *out, u64 value, u64 max)
{
	static const char *const eighths[] = { "", "▏", "▎", "▍", "▌", "▋", "▊", "▉" };
	unsigned __int128 scaled;
	unsigned n;

	if (!max)
		return;
	if (!output_style.utf8) {
		scaled = (unsigned __int128)value * BAR_COLUMNS;
		n = (scaled + max / 2) / max;
		if (!n && value)
			n = 1;
		fputc('|', out);
		for (unsigned i = 0; i < BAR_COLUMNS; i++)
			fputc(i < n ? '@' : ' ', out);
		fputc('|', out);
		return;
	}
	scaled = (unsigned __int128)value * BAR_COLUMNS * 8;
	n = scaled / max;
	if (!n && value)
		n = 1;
	for (unsigned i = 0; i < n / 8; i++)
		fputs("█", out);
	fputs(eighths[n % 8], out);
}

char *text_clean(char *text)
{
	for (unsigned char *p = (unsigned char *)text; *p; p++)
		if ((*p < ' ' && *p != '\n' && *p != '\t') || *p == 0x7f)
			*p = '?';
	return text;
}

/* The few characters beyond ASCII that our own words use. */
static char *text_for_locale(char *text)
{
	static const struct {
		const char *utf8, *ascii;
	} map[] = { { "µ", "u" }, { "…", "..." }, { "←", "<-" }, { "–", "-" }, { "×", "x" } };
	char *p = text;

	text_clean(text);
	if (output_style.utf8)
		return text;
	for (char *s = text; *s;) {
		bool found = false;

		for (size_t i = 0; i < ARRAY_SIZE(map) && !found; i++) {
			size_t n = strlen(map[i].utf8), k = strlen(map[i].ascii);

			if (strncmp(s, map[i].utf8, n))
				continue;
			memmove(p, map[i].ascii, k); /* never longer than what it replaces */
			p += k;
			s += n;
			found = true;
		}
		if (!found)
			*p++ = *s++;
	}
	*p = '\0';
	return text;
}

static void out_vprintf(FILE *out, const char *fmt, va_list ap)
{
	cleanup_free char *text = NULL;

	if (vasprintf(&text, fmt, ap) < 0) {
		text = NULL;
		return;
	}
	fputs(text_for_locale(text), out);
}

void out_printf(FILE *out, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	out_vprintf(out, fmt, ap);
	va_end(ap);
}

void progress(bool quiet, const char *fmt, ...)
{
	va_list ap;

	if (quiet)
		return;
	va_start(ap, fmt);
	out_vprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

void table_cell(struct table *t, const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	if (!text || !vec_push(&t->cells, text_for_locale(text))) {
		free(text);
		t->failed = true;
	}
}

void table_number(struct table *t, u64 v)
{
	number_buf buf;

	table_cell(t, "%s", number_format(v, buf));
}

int text_width(const char *text)
{
	int n = 0;

	for (; *text; text++)
		n += (*text & 0xc0) != 0x80;
	return n;
}

static void table_row(const struct table *t, size_t row, size_t ncols, const int *widths, FILE *out)
{
	int pending = 0; /* blanks due before the next text: none at the line's end */

	for (size_t col = 0; col < ncols; col++) {
		const char *text = t->cells.data[row * ncols + col];
		int pad = widths[col] - text_width(text);
		bool right = t->align[col] == 'r';

		if (*text)
			fprintf(out, "%*s%s", pending + (right ? pad : 0), "", text);
		pending = *text ? (right ? 0 : pad) : pending + widths[col];
		pending += 2;
	}
	fputc('\n', out);
}

void table_print(struct table *t, FILE *out)
{
	size_t ncols = strlen(t->align), nrows = t->cells.n / ncols;
	bool colour = colour_wanted(out);
	int widths[16] = {};

	if (t->failed)
		fprintf(stderr, "bpfctl: out of memory\n");
	for (size_t i = 0; i < nrows * ncols; i++) {
		int w = text_width(t->cells.data[i]);

		if (w > widths[i % ncols])
			widths[i % ncols] = w;
	}
	for (size_t row = 0; row < nrows && !t->failed; row++) {
		if (!row && colour)
			fputs("\033[1m", out);
		table_row(t, row, ncols, widths, out);
		if (!row && colour)
			fputs("\033[0m", out);
	}
	vec_foreach(cell, &t->cells)
		free(*cell);
	vec_free(&t->cells);
}

static void error_json(const struct uerr *err, int exit)
{
	cJSON *root = cJSON_CreateObject(), *obj = cJSON_AddObjectToObject(root, "error");
	cJSON *near;

	cJSON_AddStringToObject(obj, "code", uerr_code_name(err->code));
	cJSON_AddNumberToObject(obj, "exit", exit);
	cJSON_AddStringToObject(obj, "message", err->message);
	near = cJSON_AddArrayToObject(obj, "near");
	for (size_t i = 0; i < err->nnear; i++)
		cJSON_AddItemToArray(near, cJSON_CreateString(err->near[i]));
	if (err->log)
		cJSON_AddStringToObject(obj, "log", err->log);
	json_print(stdout, root);
	cJSON_Delete(root);
}

/* Where the last lines of LOG begin. */
static const char *log_end(const char *log)
{
	const char *p = log + strlen(log);
	int lines = 0;

	while (p > log && p[-1] == '\n')
		p--;
	for (; p > log; p--)
		if (p[-1] == '\n' && ++lines == LOG_EXCERPT_LINES)
			break;
	return p;
}

/* All of the log when VERBOSE. Else what it has for a person, which ends at an
 * empty line; else its end, where the reason is. */
static void error_log(const char *log, bool verbose)
{
	const char *gap = strstr(log, "\n\n"), *p = verbose || gap ? log : log_end(log);
	size_t n = !verbose && gap ? (size_t)(gap + 1 - log) : strlen(p);

	out_printf(stderr, "%.*s%s", (int)n, p, n && p[n - 1] == '\n' ? "" : "\n");
	if (n < strlen(log))
		out_printf(stderr, "full log: add -v\n");
}

void error_print(const struct uerr *err, int exit, const char *aftermath, bool json, bool verbose)
{
	size_t n = strlen(err->message);
	bool ended = !err->nnear && n && err->message[n - 1] == '.';

	out_printf(stderr, "bpfctl: %s", err->message);
	for (size_t i = 0; i < err->nnear; i++)
		out_printf(stderr, "%s%s", i ? ", " : "; near: ", err->near[i]);
	if (aftermath)
		fprintf(stderr, "%s %s", ended ? "" : ".", aftermath);
	fputc('\n', stderr);
	if (err->log && *err->log)
		error_log(err->log, verbose);
	if (json)
		error_json(err, exit);
}

void json_add_u64(cJSON *obj, const char *name, u64 v)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, v);
	cJSON_AddRawToObject(obj, name, text);
}

void json_print(FILE *out, const cJSON *obj)
{
	cleanup_free char *text = cJSON_PrintUnformatted(obj);

	if (text)
		fprintf(out, "%s\n", text);
	else
		fprintf(stderr, "bpfctl: out of memory\n");
}

u64 json_u64(const cJSON *obj, const char *name)
{
	u64 v = 0;

	protocol_get_u64(obj, name, &v);
	return v;
}

const char *json_str(const cJSON *obj, const char *name)
{
	const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(obj, name));

	return s ? s : "";
}

bool json_bool(const cJSON *obj, const char *name)
{
	return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(obj, name));
}

const cJSON *json_list(const cJSON *obj, const char *name)
{
	static cJSON empty = { .type = cJSON_Array };
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(obj, name);

	return cJSON_IsArray(list) ? list : &empty;
}
