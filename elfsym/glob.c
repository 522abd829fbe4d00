/* SPDX-License-Identifier: MIT */
/* Patterns over symbol names. fnmatch(3) can take exponential time; this one
 * goes back to the last star only, which is enough. */
#include <string.h>

#include "elfsym/resolve_int.h"

bool glob_is_pattern(const char *s)
{
	return strpbrk(s, "*?[");
}

/* Matches C against the set behind '[' at P; returns what follows it, or NULL
 * when there is no closing bracket (then '[' is an ordinary letter). */
static const char *match_set(const char *p, char c, bool *ret)
{
	bool invert = *p == '!' || *p == '^', found = false;
	const char *first;

	p += invert;
	first = p;
	for (; *p && (*p != ']' || p == first); p++) {
		char lo = *p, hi = *p;

		if (p[1] == '-' && p[2] && p[2] != ']') {
			hi = p[2];
			p += 2;
		}
		found |= (unsigned char)c >= (unsigned char)lo && (unsigned char)c <= (unsigned char)hi;
	}
	if (!*p)
		return NULL;
	*ret = found != invert;
	return p + 1;
}

/* Matches C against the one pattern item at P; returns what follows the item,
 * or NULL for no match. */
static const char *match_one(const char *p, char c)
{
	const char *next;
	bool in;

	switch (*p) {
	case '\0':
		return NULL;
	case '?':
		return p + 1;
	case '[':
		next = match_set(p + 1, c, &in);
		if (next)
			return in ? next : NULL;
		break;
	case '\\':
		if (p[1])
			p++;
		break;
	}
	return *p == c ? p + 1 : NULL;
}

bool glob_match(const char *pattern, const char *name)
{
	const char *star = NULL, *resume = NULL;

	while (*name) {
		const char *next;

		if (*pattern == '*') {
			star = ++pattern;
			resume = name;
			continue;
		}
		next = match_one(pattern, *name);
		if (next) {
			pattern = next;
			name++;
		} else if (star) {
			pattern = star;
			name = ++resume;
		} else {
			return false;
		}
	}
	while (*pattern == '*')
		pattern++;
	return !*pattern;
}
