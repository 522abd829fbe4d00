/* SPDX-License-Identifier: MIT */
/* Probes made by hand; see probe.h. */
#include "probe.h"

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void ok(struct uerr *err)
{
	if (err)
		ck_abort_msg("%s", err->message);
}

void refused(struct uerr *err, enum uerr_code code, const char *words)
{
	ck_assert_msg(err != NULL, "was not refused, though '%s'", words);
	ck_assert_msg(strstr(err->message, words) != NULL, "'%s' does not say '%s'", err->message, words);
	ck_assert_int_eq(err->code, code);
	uerr_free(err);
}

struct injection *probe_begin(pid_t pid, const char *journal)
{
	struct inject_opts opts = { .pid = pid, .journal = journal, .uid = (uid_t)-1, .gid = (gid_t)-1 };
	struct injection *in = NULL;

	ok(inject_begin(&opts, &in));
	return in;
}

static size_t put(u8 *code, size_t n, const void *bytes, size_t len)
{
	memcpy(code + n, bytes, len);
	return n + len;
}

static size_t put_jump(u8 *code, size_t n, addr_t code_addr, addr_t to)
{
	s32 rel = (s32)(to - (code_addr + n + 5));

	code[n] = 0xe9;
	return put(code, n + 1, &rel, sizeof(rel)) + 0;
}

#define BATCH_OFF 1024 /* of inject_batch_code() in the code page */

/* mov counter, %r11; lock incq (%r11); the window's instructions; jmp back */
static void fill_code(struct probe *p, addr_t site)
{
	static const u8 window[] = VICTIM_SITE_BYTES;
	u8 *code = p->code.local;
	const u8 *routine;
	size_t n;

	n = put(code, 0, "\x49\xbb", 2);
	n = put(code, n, &p->data.addr, 8);
	n = put(code, n, "\xf0\x49\xff\x03", 4);
	p->patch.moves[0] = (struct patch_move){ site, p->code.addr + n };
	p->patch.moves[1] = (struct patch_move){ site + VICTIM_SITE_BOUNDARY,
						 p->code.addr + n + VICTIM_SITE_BOUNDARY };
	p->patch.nmoves = 2;
	n = put(code, n, window, sizeof(window));
	put_jump(code, n, p->code.addr, site + sizeof(window));
	routine = inject_batch_code(&n);
	memcpy(code + BATCH_OFF, routine, n);
}

static void fill_patch(struct probe *p, addr_t site)
{
	static const u8 window[] = VICTIM_SITE_BYTES;

	p->patch.addr = site;
	p->patch.len = sizeof(window);
	memcpy(p->patch.old_bytes, window, sizeof(window));
	memset(p->patch.new_bytes, 0xcc, sizeof(window));
	put_jump(p->patch.new_bytes, 0, site, p->code.addr);
}

struct uerr *probe_place(struct injection *in, const struct victim *v, struct probe *ret)
{
	addr_t site = VICTIM_READ(v->shared->site);
	struct inject_range ranges[2] = {
		{ .kind = RANGE_CODE, .size = PAGE, .near = site & ~(PAGE - 1), .near_end = (site | (PAGE - 1)) + 1 },
		{ .kind = RANGE_SHARED, .size = PAGE },
	};
	struct uerr *err;

	*ret = (struct probe){};
	err = inject_place(in, ranges, 2);
	if (err)
		return err;
	ret->code = ranges[0];
	ret->data = ranges[1];
	ret->counter = ret->data.local;
	fill_code(ret, site);
	fill_patch(ret, site);
	inject_use_batch(in, ret->code.addr + BATCH_OFF);
	return inject_patch(in, &ret->patch);
}

struct probe probe_install(const struct victim *v, const char *journal, struct inject_stats *stats)
{
	struct injection *in = probe_begin(v->pid, journal);
	struct inject_stats own;
	struct probe p;

	ok(probe_place(in, v, &p));
	ok(inject_commit(in, stats ? stats : &own));
	inject_end(in);
	return p;
}

struct uerr *probe_remove(const struct victim *v, const struct probe *p, const char *journal,
			  struct inject_stats *stats)
{
	struct injection *in = probe_begin(v->pid, journal);
	struct patch back = { .addr = p->patch.addr, .len = p->patch.len, .restore = true };
	struct inject_stats own = {};
	struct uerr *err;

	memcpy(back.old_bytes, p->patch.new_bytes, p->patch.len);
	memcpy(back.new_bytes, p->patch.old_bytes, p->patch.len);
	err = inject_patch(in, &back);
	if (!err)
		err = inject_unmap(in, p->code.addr, p->code.size, true, NULL, NULL);
	if (!err)
		err = inject_unmap(in, p->data.addr, p->data.size, false, NULL, NULL);
	inject_use_batch(in, p->code.addr + BATCH_OFF);
	if (!err)
		err = inject_commit(in, stats ? stats : &own);
	inject_end(in);
	return err;
}

void probe_unmap_here(struct probe *p)
{
	if (p->code.local)
		munmap(p->code.local, p->code.size);
	if (p->data.local)
		munmap(p->data.local, p->data.size);
	p->code.local = p->data.local = NULL;
	p->counter = NULL;
}

struct text text_read(pid_t pid, addr_t inside)
{
	char path[32], line[512], perms[5];
	unsigned long lo, hi;
	struct text t = {};
	FILE *f;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "re");
	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx %4s", &lo, &hi, perms) == 3 && inside >= lo && inside < hi)
			t = (struct text){ .lo = lo, .len = hi - lo };
	fclose(f);
	ck_assert_uint_gt(t.len, 0);
	t.bytes = malloc(t.len);
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(pread(fd, t.bytes, t.len, (off_t)t.lo), t.len);
	close(fd);
	return t;
}

bool text_equal(const struct text *a, const struct text *b)
{
	return a->lo == b->lo && a->len == b->len && !memcmp(a->bytes, b->bytes, a->len);
}

void text_free(struct text *t)
{
	free(t->bytes);
}

char *journal_path(void)
{
	char dir[] = "/tmp/uprobed-test-XXXXXX", *path;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_gt(asprintf(&path, "%s/journal", dir), 0);
	return path;
}

void journal_drop(char *path)
{
	unlink(path);
	*strrchr(path, '/') = 0;
	rmdir(path);
	free(path);
}

bool not_root(const char *test)
{
	if (!geteuid())
		return false;
	printf("1..0 # SKIP %s needs root, to trace and to look at other processes\n", test);
	return true;
}
