/* SPDX-License-Identifier: MIT */
/*
 * The grammar of a SPEC (resolve.h, docs/bpfctl.1), and nothing else: no file
 * and no process is looked at here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "elfsym/resolve.h"

static const struct {
	const char *prefix;
	enum spec_kind kind;
} kinds[] = {
	{ "uprobe:", SPEC_UPROBE },
	{ "uretprobe:", SPEC_URETPROBE },
	{ "usdt:", SPEC_USDT },
};

/* Steps over "uprobe:" and so on. */
static const char *take_kind(const char *p, struct spec *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		size_t len = strlen(kinds[i].prefix);

		/* "uprobe::f" is the main program's f, not a namespace. */
		if (!strncmp(p, kinds[i].prefix, len)) {
			s->kind = kinds[i].kind;
			s->kind_given = true;
			return p + len;
		}
	}
	return p;
}

/* The first colon that is no part of "::", or NULL. */
static const char *find_separator(const char *p)
{
	while ((p = strchr(p, ':'))) {
		if (p[1] != ':')
			return p;
		p += 2;
	}
	return NULL;
}

/* All of S, decimal or 0x and hexadecimal; no sign, no blank. */
static bool parse_number(const char *s, u64 *ret)
{
	bool hex = s[0] == '0' && (s[1] == 'x' || s[1] == 'X');
	const char *digits = hex ? s + 2 : s;
	const char *allowed = hex ? "0123456789abcdefABCDEF" : "0123456789";

	if (!*digits || digits[strspn(digits, allowed)])
		return false;
	errno = 0;
	*ret = strtoull(digits, NULL, hex ? 16 : 10);
	return !errno;
}

/* BINARY@FILE.c:LINE: the '@' stands before the separator, digits behind it.
 * (SYMBOL@VERSION has its '@' behind the separator, or no separator.) */
static bool is_line_form(const char *p, const char *sep)
{
	const char *at = strchr(p, '@');

	return at && sep && at < sep && sep[1] && !sep[1 + strspn(sep + 1, "0123456789")];
}

/* Cuts "+OFFSET" off s->symbol. C++ operators keep their plus signs. */
static struct uerr *split_offset(struct spec *s)
{
	char *plus = strrchr(s->symbol, '+');

	if (!plus || !plus[1] || plus == s->symbol)
		return NULL;
	if (parse_number(plus + 1, &s->offset)) {
		*plus = '\0';
		return NULL;
	}
	if (strstr(s->symbol, "operator"))
		return NULL;
	return uerr_new(UERR_USAGE, "'%s': '%s' is not an offset (decimal, or 0x and hexadecimal)", s->text,
			plus + 1);
}

/* BINARY:0xADDR: the address takes the place of the symbol. */
static struct uerr *take_address(struct spec *s)
{
	u64 addr;

	if (strncmp(s->symbol, "0x", 2) && strncmp(s->symbol, "0X", 2))
		return NULL;
	if (!parse_number(s->symbol, &addr) || __builtin_add_overflow(addr, s->offset, &addr))
		return uerr_new(UERR_USAGE, "'%s': '%s' is not an address", s->text, s->symbol);
	s->addr = addr;
	s->addr_given = true;
	s->offset = 0;
	free(s->symbol);
	s->symbol = NULL;
	return NULL;
}

static struct uerr *check_symbol(const struct spec *s)
{
	if (*s->symbol)
		return NULL;
	if (!*s->binary)
		return uerr_new(UERR_USAGE, "'%s' names nothing: BINARY:FUNCTION, or :FUNCTION for the program",
				s->text);
	return uerr_new(UERR_USAGE, "'%s' names no function: %s:FUNCTION, or '%s:*' for all", s->text, s->binary,
			s->binary);
}

static struct uerr *parse_place(const char *p, struct spec *s)
{
	const char *sep = find_separator(p);
	struct uerr *err;

	if (is_line_form(p, sep))
		return uerr_new(UERR_USAGE, "'%s': probes by source line are not there yet; name a function",
				s->text);
	if (!sep && strchr(p, '/') && !strstr(p, "operator/"))
		return uerr_new(UERR_USAGE, "'%s' names no function: %s:FUNCTION, or '%s:*' for all", s->text, p,
				p);
	s->binary = strndup(p, sep ? sep - p : 0);
	s->symbol = strdup(sep ? sep + 1 : p);
	if (!s->binary || !s->symbol)
		return uerr_nomem();
	err = split_offset(s);
	if (!err)
		err = check_symbol(s);
	return err ? err : take_address(s);
}

/* BINARY:PROVIDER:NAME; BINARY may be empty, but its colon is there. */
static struct uerr *parse_usdt(const char *p, struct spec *s)
{
	const char *provider = strchr(p, ':'), *name = provider ? strchr(provider + 1, ':') : NULL;

	if (!name || name == provider + 1 || !name[1] || strchr(name + 1, ':'))
		return uerr_new(UERR_USAGE, "'%s': a USDT probe is usdt:BINARY:PROVIDER:NAME, or 'usdt:BINARY:*:*' for all",
				s->text);
	s->binary = strndup(p, provider - p);
	s->provider = strndup(provider + 1, name - provider - 1);
	s->symbol = strdup(name + 1);
	return s->binary && s->provider && s->symbol ? NULL : uerr_nomem();
}

static struct uerr *parse(const char *text, struct spec *s)
{
	struct uerr *err;
	const char *p;

	s->text = strdup(text);
	if (!s->text)
		return uerr_nomem();
	p = take_kind(text, s);
	if (s->kind == SPEC_USDT)
		return parse_usdt(p, s);
	err = parse_place(p, s);
	if (err)
		return err;
	if (s->kind == SPEC_URETPROBE && s->offset)
		return uerr_new(UERR_USAGE, "'%s': a return probe belongs to a whole function and takes no offset",
				text);
	return NULL;
}

struct uerr *spec_parse(const char *text, struct spec *ret)
{
	struct spec s = {};
	struct uerr *err = parse(text, &s);

	if (err) {
		spec_deinit(&s);
		return err;
	}
	*ret = s;
	return NULL;
}

void spec_deinit(struct spec *s)
{
	free(s->binary);
	free(s->provider);
	free(s->symbol);
	free(s->text);
	*s = (struct spec){};
}
