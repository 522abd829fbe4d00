/* SPDX-License-Identifier: MIT */
/*
 * C++ names (and Rust's older ones, which borrow their mangling) as people write
 * them. The demangling itself is the C++ runtime's; here its result is stripped
 * of what a SPEC leaves out: return type, parameters, qualifiers, Rust's hash.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "elfsym/image_int.h"

/* Of the C++ ABI (cxxabi.h is a C++ header). Not for names that could make it
 * work without end. */
extern char *__cxa_demangle(const char *mangled, char *buf, size_t *len, int *status);
#define MANGLED_MAX 2048

/* Rust writes what an ELF symbol of its day could not hold as $XY$. */
static const struct {
	const char *code, *text;
} rust_codes[] = {
	{ "$SP$", "@" }, { "$BP$", "*" }, { "$RF$", "&" }, { "$LT$", "<" },  { "$GT$", ">" },
	{ "$LP$", "(" }, { "$RP$", ")" }, { "$C$", "," },  { "$u20$", " " }, { "$u27$", "'" },
	{ "$u5b$", "[" }, { "$u5d$", "]" }, { "$u7b$", "{" }, { "$u7d$", "}" }, { "$u7e$", "~" },
	{ "..", "::" },
};

static const char *rust_code(const char *p, const char **text)
{
	for (size_t i = 0; i < ARRAY_SIZE(rust_codes); i++) {
		size_t len = strlen(rust_codes[i].code);

		if (!strncmp(p, rust_codes[i].code, len)) {
			*text = rust_codes[i].text;
			return p + len;
		}
	}
	return NULL;
}

/* "a::b::h0123456789abcdef" → "a::b", and the codes above; in place, since no
 * text is longer than its code. */
static bool strip_rust(char *s)
{
	size_t len = strlen(s);
	char *hash = len > 19 ? s + len - 19 : NULL;
	char *to = s;

	if (!hash || strncmp(hash, "::h", 3) || strspn(hash + 3, "0123456789abcdef") != 16)
		return false;
	*hash = '\0';
	if (!strncmp(s, "_$", 2))
		s++;
	while (*s) {
		const char *text, *next = rust_code(s, &text);

		if (next) {
			to = stpcpy(to, text);
			s += next - s;
		} else {
			*to++ = *s++;
		}
	}
	*to = '\0';
	return true;
}

static bool ends_in_operator(const char *s, const char *end)
{
	static const char word[] = "operator";
	size_t len = sizeof(word) - 1;

	return end - s >= (ptrdiff_t)len && !memcmp(end - len, word, len) &&
	       (end - s == (ptrdiff_t)len || !(isalnum((u8)end[-(ptrdiff_t)len - 1]) || end[-(ptrdiff_t)len - 1] == '_'));
}

/* The end of an operator's own punctuation behind "operator" at P. */
static const char *operator_end(const char *p)
{
	if (!strncmp(p, "()", 2) || !strncmp(p, "[]", 2))
		return p + 2;
	return p + strspn(p, "<>=!+-*/%^&|~,");
}

static bool is_anonymous(const char *p)
{
	return !strncmp(p, "(anonymous namespace)", 21);
}

/*
 * Splits a demangled signature into [*start, *end): the qualified name. The
 * parameters begin at the first '(' outside of brackets; the return type (of
 * templates) ends at the last blank outside of brackets before that.
 */
static void split_signature(const char *s, const char **start, const char **end)
{
	const char *p = s;
	int depth = 0;

	*start = s;
	while (*p) {
		if (!depth && ends_in_operator(s, p)) {
			if (*p == ' ') /* a conversion, new, delete */
				p += 1 + strcspn(p + 1, "(");
			else
				p = operator_end(p);
			if (*p == '(')
				break;
			if (!*p)
				break;
		}
		if (is_anonymous(p)) {
			p += 21;
			continue;
		}
		if (*p == '(' && !depth)
			break;
		if (*p == '<' || *p == '(' || *p == '{' || *p == '[')
			depth++;
		else if (*p == '>' || *p == ')' || *p == '}' || *p == ']')
			depth -= depth > 0;
		else if (*p == ' ' && !depth)
			*start = p + 1;
		p++;
	}
	*end = p;
}

/* LEN without a last "<…>": f<int> → f. */
static size_t without_template(const char *s, size_t len)
{
	int depth = 0;

	if (!len || s[len - 1] != '>')
		return len;
	for (size_t i = len; i-- > 0;) {
		depth += s[i] == '>';
		depth -= s[i] == '<';
		if (!depth)
			return i;
	}
	return len;
}

static size_t without_abi_tag(const char *s, size_t len)
{
	const char *tag = memmem(s, len, "[abi:", 5);

	return tag && s[len - 1] == ']' ? (size_t)(tag - s) : len;
}

static char *demangle(const char *mangled)
{
	int status;

	if (strncmp(mangled, "_Z", 2) || strnlen(mangled, MANGLED_MAX) == MANGLED_MAX)
		return NULL;
	return __cxa_demangle(mangled, NULL, NULL, &status);
}

char *demangle_base(const char *mangled)
{
	cleanup_free char *s = demangle(mangled);
	const char *start, *end;

	if (!s)
		return NULL;
	if (strip_rust(s))
		return steal_ptr(s);
	split_signature(s, &start, &end);
	return strndup(start, without_abi_tag(start, end - start));
}

bool demangles_to(const char *mangled, const char *name)
{
	cleanup_free char *s = demangle(mangled);
	size_t want = strlen(name), len;
	const char *start, *end;

	if (!s)
		return false;
	if (!strcmp(s, name))
		return true;
	if (strip_rust(s))
		return !strcmp(s, name);
	split_signature(s, &start, &end);
	if (!strcmp(start, name)) /* with parameters, without return type */
		return true;
	len = without_abi_tag(start, end - start);
	if (len == want && !memcmp(start, name, len))
		return true;
	len = without_template(start, len);
	return len == want && !memcmp(start, name, len);
}
