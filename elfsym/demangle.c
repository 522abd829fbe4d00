/* SPDX-License-Identifier: MIT */
/*
 * The path of a mangled C++ function name (Itanium C++ ABI 5.1), or of one of
 * Rust's older names, which borrow that mangling: "_ZN2ns1A3runEi" → "ns::A::run".
 *
 * That is all a SPEC needs, since it names a function without parameters and
 * template arguments and means all overloads. A full demangler writes those out,
 * and a name of 200 bytes can make it write 2^30: names come from files that
 * anybody may have made. This one passes over them and is linear. Names that it
 * does not know (lambdas, local entities, conversions, expressions as template
 * arguments) have no path; they are still found as they are mangled.
 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/vec.h"
#include "elfsym/image_int.h"

static const struct {
	char code[3];
	const char *text;
} operators[] = {
	{ "nw", " new" }, { "na", " new[]" }, { "dl", " delete" }, { "da", " delete[]" }, { "aw", " co_await" },
	{ "pl", "+" },	  { "mi", "-" },      { "ml", "*" },	   { "dv", "/" },	  { "rm", "%" },
	{ "an", "&" },	  { "or", "|" },      { "eo", "^" },	   { "aS", "=" },	  { "pL", "+=" },
	{ "mI", "-=" },	  { "mL", "*=" },     { "dV", "/=" },	   { "rM", "%=" },	  { "aN", "&=" },
	{ "oR", "|=" },	  { "eO", "^=" },     { "ls", "<<" },	   { "rs", ">>" },	  { "lS", "<<=" },
	{ "rS", ">>=" },  { "eq", "==" },     { "ne", "!=" },	   { "lt", "<" },	  { "gt", ">" },
	{ "le", "<=" },	  { "ge", ">=" },     { "ss", "<=>" },	   { "nt", "!" },	  { "aa", "&&" },
	{ "oo", "||" },	  { "pp", "++" },     { "mm", "--" },	   { "cm", "," },	  { "pm", "->*" },
	{ "pt", "->" },	  { "cl", "()" },     { "ix", "[]" },	   { "ps", "+" },	  { "ng", "-" },
	{ "ad", "&" },	  { "de", "*" },      { "co", "~" },
};

static const struct {
	char code[3];
	const char *text;
} abbreviations[] = {
	{ "St", "std" },	       { "Sa", "std::allocator" }, { "Sb", "std::basic_string" },
	{ "Ss", "std::basic_string" }, { "Si", "std::basic_istream" }, { "So", "std::basic_ostream" },
	{ "Sd", "std::basic_iostream" },
};

/* Rust writes as $XY$ what symbols of its day could not hold. */
static const struct {
	const char *code, *text;
} rust_codes[] = {
	{ "$SP$", "@" }, { "$BP$", "*" },  { "$RF$", "&" },  { "$LT$", "<" },  { "$GT$", ">" },	 { "$LP$", "(" },
	{ "$RP$", ")" }, { "$C$", "," },   { "$u20$", " " }, { "$u27$", "'" }, { "$u5b$", "[" }, { "$u5d$", "]" },
	{ "$u7b$", "{" }, { "$u7d$", "}" }, { "$u7e$", "~" }, { "..", "::" },
};

struct path {
	const char *p;      /* what is left of the mangled name */
	VEC(char) out;
	size_t last, last_len; /* the last component, in out */
	bool bad;
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* <source-name>: its length, then so many letters. Returns what follows, or
 * NULL; *text and *len are the letters. */
static const char *source_name(const char *p, const char **text, size_t *len)
{
	size_t n = 0;

	while (is_digit(*p) && n < 1u << 20)
		n = n * 10 + (*p++ - '0');
	if (!n || strnlen(p, n) < n)
		return NULL;
	*text = p;
	*len = n;
	return p + n;
}

/* ---- passing over template arguments ---- */

static const char *skip_sequence(const char *p)
{
	while (is_digit(*p) || (*p >= 'A' && *p <= 'Z'))
		p++;
	return *p == '_' ? p + 1 : NULL;
}

/* L <builtin type or enumeration> <value> E, or L _Z <encoding> E, of which the
 * latter ends like any bracket. */
static const char *skip_literal(const char *p, unsigned *depth)
{
	const char *text;
	size_t len;

	if (p[0] == '_' && p[1] == 'Z') {
		++*depth;
		return p + 2;
	}
	if (is_digit(*p))
		p = source_name(p, &text, &len);
	else if (*p >= 'a' && *p <= 'z')
		p++;
	else
		return NULL;
	if (!p)
		return NULL;
	while (is_digit(*p) || (*p >= 'a' && *p <= 'z'))
		p++;
	return *p == 'E' ? p + 1 : NULL;
}

/* One token inside of template arguments; NULL when it is unknown. */
static const char *skip_token(const char *p, unsigned *depth)
{
	const char *text;
	size_t len;

	if (is_digit(*p))
		return source_name(p, &text, &len);
	if (*p >= 'a' && *p <= 'z')
		return p + 1;
	switch (*p) {
	case 'I':
	case 'N':
	case 'J':
	case 'F':
		++*depth;
		return p + 1;
	case 'E':
		--*depth;
		return p + 1;
	case 'L':
		return skip_literal(p + 1, depth);
	case 'S':
		return p[1] >= 'a' && p[1] <= 'z' ? p + 2 : skip_sequence(p + 1);
	case 'T':
		return skip_sequence(p + 1);
	case 'A':
		return is_digit(p[1]) || p[1] == '_' ? skip_sequence(p + 1) : NULL;
	case 'D':
		return p[1] && strchr("pnisuacdefho", p[1]) ? p + 2 : NULL;
	case 'K':
	case 'V':
	case 'R':
	case 'O':
	case 'P':
	case 'C':
	case 'G':
	case 'M':
	case 'B':
		return p + 1;
	default:
		return NULL;
	}
}

/* P stands at the 'I'. */
static const char *skip_arguments(const char *p)
{
	unsigned depth = 0;

	do {
		p = skip_token(p, &depth);
	} while (p && depth);
	return p;
}

/* ---- components ---- */

static void append(struct path *path, const char *text, size_t len)
{
	for (size_t i = 0; i < len && !path->bad; i++)
		path->bad = !vec_push(&path->out, text[i]);
}

static void begin_component(struct path *path)
{
	if (path->out.n)
		append(path, "::", 2);
	path->last = path->out.n;
}

static void component(struct path *path, const char *text, size_t len)
{
	begin_component(path);
	append(path, text, len);
	path->last_len = path->out.n - path->last;
}

static void named_component(struct path *path)
{
	const char *text;
	size_t len;

	path->p = source_name(path->p, &text, &len);
	if (!path->p)
		path->bad = true;
	else if (len >= 10 && !strncmp(text, "_GLOBAL__N", 10))
		component(path, "(anonymous namespace)", 21);
	else
		component(path, text, len);
}

/* C1 and D1 and so on: the class once more. */
static void structor(struct path *path)
{
	bool dtor = *path->p == 'D';
	char *class;

	if (!is_digit(path->p[1]) || !path->out.n) {
		path->bad = true;
		return;
	}
	path->p += 2;
	class = strndup(path->out.data + path->last, path->last_len);
	begin_component(path);
	append(path, "~", dtor);
	append(path, class ? class : "", class ? strlen(class) : 0);
	path->bad |= !class;
	free(class);
}

static void abbreviation(struct path *path)
{
	for (size_t i = 0; i < ARRAY_SIZE(abbreviations); i++) {
		if (strncmp(path->p, abbreviations[i].code, 2))
			continue;
		path->p += 2;
		component(path, abbreviations[i].text, strlen(abbreviations[i].text));
		if (path->last_len > 5) { /* std:: is not part of the class's name */
			path->last += 5;
			path->last_len -= 5;
		}
		return;
	}
	path->bad = true;
}

static void operator(struct path *path)
{
	for (size_t i = 0; i < ARRAY_SIZE(operators); i++) {
		if (strncmp(path->p, operators[i].code, 2))
			continue;
		path->p += 2;
		begin_component(path);
		append(path, "operator", 8);
		append(path, operators[i].text, strlen(operators[i].text));
		return;
	}
	path->bad = true;
}

/* One piece of a name: a component, or what qualifies the last one. */
static void piece(struct path *path)
{
	const char *text;
	size_t len;

	if (is_digit(*path->p)) {
		named_component(path);
		return;
	}
	switch (*path->p) {
	case 'S':
		abbreviation(path);
		return;
	case 'C':
	case 'D':
		structor(path);
		return;
	case 'I':
		path->p = skip_arguments(path->p);
		break;
	case 'B': /* an ABI tag */
		path->p = source_name(path->p + 1, &text, &len);
		break;
	case 'L': /* internal linkage */
		path->p++;
		break;
	default:
		operator(path);
		return;
	}
	path->bad |= !path->p;
}

static void parse(struct path *path)
{
	bool nested;

	path->p += *path->p == 'L';
	nested = *path->p == 'N';
	if (!nested) {
		if (!strncmp(path->p, "St", 2))
			piece(path);
		if (!path->bad)
			piece(path);
		return;
	}
	path->p++;
	path->p += strspn(path->p, "rVK");
	path->p += *path->p == 'R' || *path->p == 'O';
	while (!path->bad && *path->p != 'E') {
		if (!*path->p)
			path->bad = true;
		else
			piece(path);
	}
}

/* ---- Rust ---- */

static size_t rust_code(const char *s, const char **text)
{
	for (size_t i = 0; i < ARRAY_SIZE(rust_codes); i++) {
		size_t len = strlen(rust_codes[i].code);

		if (!strncmp(s, rust_codes[i].code, len)) {
			*text = rust_codes[i].text;
			return len;
		}
	}
	return 0;
}

/* "a::b::h0123456789abcdef" → "a::b", and the codes; in place, since no text is
 * longer than its code. */
static void strip_rust(char *s)
{
	size_t len = strlen(s);
	char *hash = len > 19 ? s + len - 19 : NULL, *to = s;

	if (!hash || strncmp(hash, "::h", 3) || strspn(hash + 3, "0123456789abcdef") != 16)
		return;
	*hash = '\0';
	s += !strncmp(s, "_$", 2);
	while (*s) {
		const char *text;
		size_t n = rust_code(s, &text);

		if (n)
			to = stpcpy(to, text);
		else
			*to++ = *s;
		s += n ? n : 1;
	}
	*to = '\0';
}

char *demangle_path(const char *mangled)
{
	struct path path = {};

	if (strncmp(mangled, "_Z", 2))
		return NULL;
	path.p = mangled + 2;
	parse(&path);
	if (!path.bad && (!path.out.n || !vec_push(&path.out, '\0')))
		path.bad = true;
	if (path.bad) {
		vec_free(&path.out);
		return NULL;
	}
	strip_rust(path.out.data);
	return path.out.data;
}

char *symbol_path(const char *name)
{
	char *path = demangle_path(name);

	return path ? path : strdup(name);
}
