/* SPDX-License-Identifier: MIT */
/*
 * The kernel's maps are the reference: the same operations, a table of them and
 * then random ones, go to a real map through bpf(2) and to ours, and every
 * result, errno and content must be the same. Skipped, saying so, where bpf(2)
 * is not permitted.
 */
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <sched.h>
#include <unistd.h>

#include "support.h"

static struct thread_rec rec;
static const struct umap_ctx cx = {.rec = &rec, .owner = OWNER_ID(1, 1)};

static const struct {
	u32 type, key_size, value_size, max_entries, flags, keys;
	u32 lock; /* 1 + where in the value its struct bpf_spin_lock is */
} shapes[] = {
	{UMAP_HASH, 4, 16, 32, 0, 40, 1},
	{UMAP_HASH, 8, 40, 32, BPF_F_NO_PREALLOC, 64, 1 + 12},
	{UMAP_HASH, 4, 8, 5, 0, 8, 1 + 4},
	{UMAP_LPM_TRIE, 8, 8, 32, BPF_F_NO_PREALLOC, 60},
	{UMAP_LPM_TRIE, 8, 100, 64, BPF_F_NO_PREALLOC, 200},
	{UMAP_LPM_TRIE, 5, 1, 8, BPF_F_NO_PREALLOC, 30},
	{UMAP_LPM_TRIE, 20, 4, 40, BPF_F_NO_PREALLOC, 300},
	{UMAP_ARRAY, 4, 24, 6, 0, 8, 1 + 8},
	{UMAP_ARRAY, 4, 4, 3, 0, 5, 1},
	{UMAP_HASH, 4, 8, 32, 0, 40},
	{UMAP_HASH, 4, 8, 32, BPF_F_NO_PREALLOC, 64},
	{UMAP_HASH, 8, 4, 5, 0, 8},
	{UMAP_HASH, 2, 7, 100, 0, 90},
	{UMAP_HASH, 16, 8, 32, 0, 40},
	{UMAP_HASH, 21, 100, 32, 0, 40},
	{UMAP_HASH, 8, 300, 1, 0, 3},
	{UMAP_PERCPU_HASH, 4, 8, 32, 0, 40},
	{UMAP_PERCPU_HASH, 40, 12, 16, BPF_F_NO_PREALLOC, 20},
	/* so few keys that the kernel, which moves elements to CPUs in heaps, evicts none */
	{UMAP_LRU_HASH, 4, 8, 64, 0, 30},
	{UMAP_LRU_HASH, 24, 40, 200, 0, 90},
	{UMAP_LRU_HASH, 4, 8, 63, BPF_F_NO_COMMON_LRU, 14},
	{UMAP_LRU_PERCPU_HASH, 8, 12, 64, 0, 30},
	{UMAP_ARRAY, 4, 8, 32, 0, 34},
	{UMAP_ARRAY, 4, 13, 3, BPF_F_MMAPABLE, 5},
	{UMAP_PERCPU_ARRAY, 4, 8, 32, 0, 34},
	{UMAP_PERCPU_ARRAY, 4, 5, 3, 0, 5},
	{UMAP_QUEUE, 0, 8, 5, 0, 1},
	{UMAP_QUEUE, 0, 13, 32, 0, 1},
	{UMAP_QUEUE, 0, 300, 1, 0, 1},
	{UMAP_STACK, 0, 8, 5, 0, 1},
	{UMAP_STACK, 0, 21, 16, 0, 1},
	{UMAP_STACK, 0, 4, 1, 0, 1},
	/* nothing is put there but by bpf_get_stackid() */
	{UMAP_STACK_TRACE, 4, 80, 32, 0, 40},
	{UMAP_STACK_TRACE, 4, 1016, 5, 0, 12},
	/* so large that neither side errs about a value that it was not given */
	{UMAP_BLOOM_FILTER, 0, 8, 1000000, 0, 1},
	{UMAP_BLOOM_FILTER, 0, 21, 1000000, BPF_F_ZERO_SEED, 1},
};

/* Prefixes of few different bits, so that there are long ones within short ones; now and
 * then a length that cannot be, and bits behind the prefix. */
static void set_prefix(u8 *key, u32 size, u32 k)
{
	u32 bits = (size - 4) * 8;

	*(u32 *)(void *)key = k % 31 == 30 ? bits + 1 + k : k * 7 % (bits + 1);
	for (u32 i = 4; i < size; i++)
		key[i] = (u8)(i == 4 ? (k & 3) * 85 : k >> 2 & 1 ? 0xff : k >> 3 & 1 ? k : 0);
}

static bool prefixes;

static void set_key(u8 *key, u32 size, u32 k)
{
	if (prefixes) {
		set_prefix(key, size, k);
		return;
	}
	for (u32 i = 0; i < size; i++)
		key[i] = (u8)(i < 4 ? k >> 8 * i : k * 7 + i);
}

/* The kernel leaves the padding of per-CPU values to chance. */
static void compare_values(const struct umap *m, const u8 *a, const u8 *b)
{
	u32 stride = ALIGN_UP(m->value_size, 8u), n = umap_user_value_size(m) == m->value_size ? 1 : m->ncpus;

	for (u32 i = 0; i < n; i++)
		ck_assert_mem_eq(a + i * stride, b + i * stride, m->value_size);
}

/* Same number of keys, and every key of the kernel's is in ours. */
static void compare_contents(const struct umap *m, int fd, u8 *value, u8 *ours)
{
	u8 key[64], mine[64];
	u32 n = 0, n_ours = 0;
	long rc;

	if (!m->key_size)
		return;
	for (rc = bpf_map_get_next_key(fd, NULL, key); !rc; rc = bpf_map_get_next_key(fd, key, key)) {
		n++;
		ck_assert_int_eq(bpf_map_lookup_elem(fd, key, value), 0);
		ck_assert_int_eq(umap_read(m, key, ours, &cx), 0);
		compare_values(m, value, ours);
	}
	ck_assert_int_eq(rc, -ENOENT);
	for (rc = umap_next_key(m, NULL, mine); !rc; rc = umap_next_key(m, mine, mine)) {
		n_ours++;
		if (m->type == UMAP_LPM_TRIE) { /* in the kernel's order, as they were given */
			ck_assert_int_eq(bpf_map_get_next_key(fd, n_ours > 1 ? key : NULL, key), 0);
			ck_assert_mem_eq(key, mine, m->key_size);
		}
	}
	ck_assert_int_eq(rc, -ENOENT);
	ck_assert_uint_eq(n, n_ours);
}

/* One operation on both. The value that it writes is in VALUE. */
enum op { PUT, GET, DEL, TAKE, NEXT };

struct both {
	const struct umap *m;
	int fd;
	u8 *value, *ours;
};

/* Whether keys come in the same order on both sides, so that they can be
 * compared one by one: they do where they are numbers. */
static bool ordered(const struct umap *m)
{
	return m->type == UMAP_ARRAY || m->type == UMAP_PERCPU_ARRAY || !m->key_size;
}

/* The kernel wants no key where there are no keys. Results into WANT and GOT. */
static void run_op(const struct both *b, enum op op, const u8 *key, u64 flags, long *want, long *got)
{
	const struct umap *m = b->m;
	u8 next[64], our_next[64];

	if (!m->key_size)
		key = NULL;
	switch (op) {
	case PUT:
		*want = bpf_map_update_elem(b->fd, key, b->value, flags);
		*got = umap_write(m, key, b->value, flags, &cx);
		break;
	case GET:
		memcpy(b->ours, b->value, umap_user_value_size(m)); /* a bloom filter is asked about it */
		*want = bpf_map_lookup_elem_flags(b->fd, key, b->value, flags);
		*got = umap_read_flags(m, key, b->ours, flags, &cx);
		if (!*want && !*got)
			compare_values(m, b->value, b->ours);
		break;
	case DEL:
		*want = bpf_map_delete_elem(b->fd, key);
		*got = umap_erase(m, key, &cx);
		break;
	case TAKE:
		*want = bpf_map_lookup_and_delete_elem(b->fd, key, b->value);
		*got = umap_take(m, key, b->ours, &cx);
		if (!*want && !*got)
			compare_values(m, b->value, b->ours);
		break;
	case NEXT:
		*want = bpf_map_get_next_key(b->fd, key, next);
		*got = umap_next_key(m, key, our_next);
		if (!*want && !*got && ordered(m))
			ck_assert_mem_eq(next, our_next, m->key_size);
	}
}

static void one_step(const struct both *b, u32 keys, u64 *seed)
{
	static const u64 flags[] = {0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7};
	static const enum op ops[] = {PUT, PUT, PUT, DEL, GET, GET, TAKE, NEXT};
	u64 flag = flags[rnd(seed) % ARRAY_SIZE(flags)];
	enum op op = ops[rnd(seed) % ARRAY_SIZE(ops)];
	long want, got;
	u8 key[64];

	if (op == NEXT && !ordered(b->m))
		op = GET;
	set_key(key, b->m->key_size, rnd(seed) % keys);
	if (b->m->type == UMAP_BLOOM_FILTER) /* from a few, so that some have been pushed */
		memset(b->value, rnd(seed) % 250, b->m->value_size);
	else
		for (u32 i = 0; i < umap_user_value_size(b->m); i++)
			b->value[i] = rnd(seed);
	run_op(b, op, key, flag, &want, &got);
	ck_assert_msg(got == want, "operation %d, flags %lu: kernel %ld, ours %ld", op, (long)flag, want, got);
}

/* The kernel's LRU maps keep heaps of free elements for each CPU. */
static void stay_on_cpu(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(sched_getcpu(), &set);
	ck_assert_int_eq(sched_setaffinity(0, sizeof(set), &set), 0);
}

/* The kernel finds the lock by its type. */
static int lock_types(u32 shape, u32 *key, u32 *value)
{
	struct btf *b = btf__new_empty();
	int t_int = btf__add_int(b, "int", 4, BTF_INT_SIGNED), t_bytes, t_lock, fd;

	t_bytes = btf__add_array(b, t_int, btf__add_int(b, "char", 1, 0), shapes[shape].key_size);
	t_lock = btf__add_struct(b, "bpf_spin_lock", 4);
	btf__add_field(b, "val", t_int, 0, 0);
	*value = (u32)btf__add_struct(b, "value", shapes[shape].value_size);
	btf__add_field(b, "lock", t_lock, (shapes[shape].lock - 1) * 8, 0);
	*key = shapes[shape].key_size == 4 ? (u32)t_int : (u32)t_bytes;
	ck_assert_int_eq(btf__load_into_kernel(b), 0);
	fd = dup(btf__fd(b));
	btf__free(b);
	return fd;
}

static void both_init(struct both *b, struct umap *m, int shape, int *memfd)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = shapes[shape].flags);

	stay_on_cpu();
	prefixes = shapes[shape].type == UMAP_LPM_TRIE;
	if (shapes[shape].lock)
		opts.btf_fd = (u32)lock_types(shape, &opts.btf_key_type_id, &opts.btf_value_type_id);
	b->m = m;
	b->fd = bpf_map_create(shapes[shape].type, "uprobed_test", shapes[shape].key_size, shapes[shape].value_size,
			       shapes[shape].max_entries, &opts);
	ck_assert_int_ge(b->fd, 0);
	if (opts.btf_fd)
		close((int)opts.btf_fd);
	ck_ok(umap_create_locked("test", shapes[shape].type, shapes[shape].key_size, shapes[shape].value_size,
				 shapes[shape].max_entries, shapes[shape].flags, libbpf_num_possible_cpus(), 3,
				 shapes[shape].lock, m, memfd));
	b->value = calloc(1, umap_user_value_size(m));
	b->ours = calloc(1, umap_user_value_size(m));
}

static void both_deinit(struct both *b, struct umap *m, int memfd)
{
	if (m->nelems)
		check_hash(m);
	free(b->value);
	free(b->ours);
	umap_destroy(m, memfd);
	close(b->fd);
}

START_TEST(same_as_kernel)
{
	u64 seed = 12345 + _i;
	struct umap m;
	struct both b;
	int memfd;

	both_init(&b, &m, _i, &memfd);
	for (int n = 0; n < 20000; n++) {
		one_step(&b, shapes[_i].keys, &seed);
		if (n % 500 == 0)
			compare_contents(&m, b.fd, b.value, b.ours);
	}
	compare_contents(&m, b.fd, b.value, b.ours);
	both_deinit(&b, &m, memfd);
}
END_TEST

/* What is worth asking of every type, in this order: an empty map, one element,
 * each flag on a present and an absent key, the ends of an array, a full map and
 * one beyond, and emptying it again. FILL does PUT for as many keys as fit. */
#define FILL ((enum op)100)
#define DRAIN ((enum op)101)

static const struct {
	enum op op;
	u32 key;
	u64 flags;
} rows[] = {
	{GET, 0, 0}, {DEL, 0, 0}, {TAKE, 0, 0}, {NEXT, 0, 0},
	{PUT, 0, BPF_EXIST}, {PUT, 0, BPF_NOEXIST}, {PUT, 0, BPF_ANY}, {GET, 0, 0}, {NEXT, 0, 0},
	{PUT, 0, BPF_NOEXIST}, {PUT, 0, BPF_EXIST}, {PUT, 0, BPF_NOEXIST | BPF_EXIST}, {PUT, 0, BPF_F_LOCK},
	{GET, 0, BPF_F_LOCK}, {GET, 0, 1}, {PUT, 0, BPF_F_LOCK | BPF_NOEXIST}, {PUT, 0, BPF_F_LOCK | BPF_EXIST}, {PUT, 3, BPF_F_LOCK | BPF_EXIST},
	{PUT, 0, 8}, {PUT, 0, ~0ull}, {PUT, 0, 1ull << 32}, {GET, 0, 0}, {GET, 1, 0}, {PUT, 1, 0}, {GET, 1, 0},
	{TAKE, 0, 0}, {TAKE, 0, 0}, {DEL, 1, 0}, {DEL, 1, 0}, {GET, 1, 0}, {GET, 0, 0},
	{GET, 0xffffffff, 0}, {PUT, 0xffffffff, BPF_EXIST}, {DEL, 0xffffffff, 0}, {TAKE, 0xfffffffe, 0},
	{FILL, 0, 0}, {PUT, 0x10000, 0}, {PUT, 0x10000, BPF_NOEXIST}, {PUT, 0x10000, BPF_EXIST}, {PUT, 0, 0},
	{PUT, 0, BPF_EXIST}, {GET, 0, 0}, {DEL, 0, 0}, {PUT, 0x10001, 0}, {GET, 0x10001, 0}, {TAKE, 0x10001, 0},
	{DRAIN, 0, 0}, {GET, 0, 0}, {TAKE, 0, 0}, {PUT, 0, 0}, {GET, 0, 0},
};

static void run_row(const struct both *b, u32 row, enum op op, u32 k, u64 flags)
{
	long want, got;
	u8 key[64];

	set_key(key, b->m->key_size, k);
	for (u32 i = 0; i < umap_user_value_size(b->m); i++)
		b->value[i] = (b->m->type == UMAP_BLOOM_FILTER ? 0 : row * 31) + k * 7 + i;
	run_op(b, op, key, flags, &want, &got);
	ck_assert_msg(got == want, "row %u, key %u, flags %lu: kernel %ld, ours %ld", row, k, (long)flags, want, got);
}

START_TEST(same_rows_as_kernel)
{
	struct umap m;
	struct both b;
	int memfd;

	both_init(&b, &m, _i, &memfd);
	for (u32 row = 0; row < ARRAY_SIZE(rows); row++) {
		bool many = rows[row].op == FILL || rows[row].op == DRAIN;

		u32 fit = m.refs_off ? shapes[_i].keys : m.max_entries < 1000 ? m.max_entries : 1000;

		for (u32 k = 0; many && k < fit; k++)
			run_row(&b, row, rows[row].op == FILL ? PUT : TAKE, k, 0);
		if (!many)
			run_row(&b, row, rows[row].op, rows[row].key, rows[row].flags);
		compare_contents(&m, b.fd, b.value, b.ours);
	}
	both_deinit(&b, &m, memfd);
}
END_TEST

static u32 count_keys(const struct both *b, bool ours)
{
	u8 key[64];
	u32 n = 0;
	long rc;

	for (rc = ours ? umap_next_key(b->m, NULL, key) : bpf_map_get_next_key(b->fd, NULL, key); !rc;
	     rc = ours ? umap_next_key(b->m, key, key) : bpf_map_get_next_key(b->fd, key, key))
		n++;
	return n;
}

/* Which element goes is for each side to choose (docs/maps.md); that one goes,
 * that the new one is there, and that what is updated over and over stays, is
 * common to both. */
#define HOT 3u

START_TEST(same_under_eviction)
{
	struct umap m;
	struct both b;
	int memfd;
	u8 key[64];

	both_init(&b, &m, _i, &memfd);
	for (u32 k = 0; m.refs_off && k < 20 * m.max_entries; k++) {
		for (u32 hot = 0; hot < HOT; hot++)
			run_row(&b, k, PUT, hot, k ? BPF_EXIST : BPF_ANY);
		run_row(&b, k, PUT, 1000 + k, BPF_NOEXIST);
		run_row(&b, k, GET, 1000 + k, 0);
		run_row(&b, k, PUT, 1000 + k, BPF_NOEXIST);
		set_key(key, m.key_size, k % HOT);
		ck_assert_int_eq(bpf_map_lookup_elem(b.fd, key, b.value), 0);
		ck_assert_int_eq(umap_read(&m, key, b.ours, &cx), 0);
		compare_values(&m, b.value, b.ours);
		ck_assert_uint_le(count_keys(&b, false), m.max_entries);
		ck_assert_uint_eq(count_keys(&b, true), k + 1 + HOT < m.max_entries ? k + 1 + HOT : m.max_entries);
	}
	both_deinit(&b, &m, memfd);
}
END_TEST

/* PROG_ARRAY: the kernel takes descriptors of programs and gives their ids; ours takes
 * and gives numbers. Skipped where no program can be loaded. */
#define NPROGS 3

static int load_program(u32 *id)
{
	static const struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = 0 }, { .code = BPF_JMP | BPF_EXIT },
	};
	struct bpf_prog_info info = {0};
	u32 size = sizeof(info);
	int fd = bpf_prog_load(BPF_PROG_TYPE_KPROBE, "uprobed_test", "GPL", insns, 2, NULL);

	if (fd >= 0)
		ck_assert_int_eq(bpf_obj_get_info_by_fd(fd, &info, &size), 0);
	*id = info.id;
	return fd;
}

static u32 number_of(const u32 *ids, u32 id)
{
	for (u32 i = 0; i < NPROGS; i++)
		if (ids[i] == id)
			return i + 1;
	return 0;
}

START_TEST(same_prog_array)
{
	static const u64 flags[] = {0, 0, 0, 0, 1, 2, 4, 1ull << 40};
	int progs[NPROGS], fd, memfd;
	u32 ids[NPROGS];
	u64 seed = 4711;
	struct umap m;

	for (u32 i = 0; i < NPROGS; i++)
		progs[i] = load_program(&ids[i]);
	if (progs[0] < 0)
		return;
	fd = bpf_map_create(BPF_MAP_TYPE_PROG_ARRAY, "uprobed_test", 4, 4, 8, NULL);
	ck_assert_int_ge(fd, 0);
	ck_ok(umap_create("test", UMAP_PROG_ARRAY, 4, 4, 8, 0, 2, 3, &m, &memfd));
	for (int n = 0; n < 20000; n++) {
		u32 key = rnd(&seed) % 10, which = rnd(&seed) % NPROGS, number = which + 1, theirs = 0, ours = 0;
		u64 flag = flags[rnd(&seed) % ARRAY_SIZE(flags)];
		long want = 0, got = 0;

		switch (rnd(&seed) % 5) {
		case 0:
		case 1:
			want = bpf_map_update_elem(fd, &key, &progs[which], flag);
			got = umap_write(&m, &key, &number, flag, &cx);
			break;
		case 2:
			want = bpf_map_delete_elem(fd, &key);
			got = umap_delete(&m, &key, &cx);
			break;
		case 3:
			want = bpf_map_get_next_key(fd, &key, &theirs);
			got = umap_next_key(&m, &key, &ours);
			ck_assert_uint_eq(theirs, ours);
			break;
		default:
			want = bpf_map_lookup_elem(fd, &key, &theirs);
			got = umap_read(&m, &key, &ours, &cx);
			if (!want)
				ck_assert_uint_eq(number_of(ids, theirs), ours);
		}
		ck_assert_msg(want == got, "step %d: kernel %ld, ours %ld", n, want, got);
	}
	ck_assert_int_eq(bpf_map_lookup_and_delete_elem(fd, &(u32){0}, &(u32){0}), umap_take(&m, &(u32){0}, &(u32){0}, &cx));
	for (u32 i = 0; i < NPROGS; i++)
		close(progs[i]);
	close(fd);
	umap_destroy(&m, memfd);
}
END_TEST

/*
 * Batches. Where the order is each side's own, what one batch holds is too; what all
 * of them hold together, and how they end, is not.
 */
#define BATCH_KEYS 2000u

struct batches {
	const struct both *b;
	bool ours, take;
	u8 *keys, *values;
	u32 n; /* in all batches */
};

static long next_batch(struct batches *x, void *from, void *next, u32 *count)
{
	LIBBPF_OPTS(bpf_map_batch_opts, opts);
	u8 *keys = x->keys + (u64)x->n * x->b->m->key_size;
	u8 *values = x->values + x->n * umap_user_value_size(x->b->m);
	struct umap_batch batch = {.keys = keys, .values = values, .count = *count};
	long rc;

	if (x->ours) {
		rc = x->take ? umap_take_batch(x->b->m, from, next, &batch, &cx) :
			       umap_read_batch(x->b->m, from, next, &batch, &cx);
		*count = batch.count;
		return rc;
	}
	return x->take ? bpf_map_lookup_and_delete_batch(x->b->fd, from, next, keys, values, count, &opts) :
			 bpf_map_lookup_batch(x->b->fd, from, next, keys, values, count, &opts);
}

static long all_batches(struct batches *x, u32 size)
{
	u8 cursors[2][64];
	long rc = 0;

	x->n = 0;
	for (u32 i = 0; !rc && i < BATCH_KEYS; i++) {
		u32 count = size;

		ck_assert_uint_le(x->n + size, BATCH_KEYS);
		rc = next_batch(x, i ? cursors[i % 2] : NULL, cursors[(i + 1) % 2], &count);
		ck_assert_uint_le(count, size);
		if (!rc || rc == -ENOENT)
			x->n += count;
	}
	return rc;
}

static void compare_batches(const struct batches *theirs, const struct batches *ours)
{
	const struct umap *m = theirs->b->m;
	u64 stride = umap_user_value_size(m);

	ck_assert_uint_eq(theirs->n, ours->n);
	for (u32 i = 0; i < theirs->n; i++) {
		u32 k = 0;

		while (k < ours->n && memcmp(theirs->keys + i * m->key_size, ours->keys + k * m->key_size, m->key_size))
			k++;
		ck_assert_uint_lt(k, ours->n);
		compare_values(m, theirs->values + i * stride, ours->values + k * stride);
	}
}

START_TEST(same_in_batches)
{
	static const u32 sizes[] = {64, 7, 1, 200};
	static const u64 flags[] = {0, 1, 1ull << 40, BPF_F_LOCK};
	struct batches theirs = {0}, ours = {.ours = true};
	u64 stride;
	struct umap m;
	struct both b;
	int memfd;

	both_init(&b, &m, _i, &memfd);
	theirs.b = ours.b = &b;
	stride = umap_user_value_size(&m);
	theirs.keys = calloc(BATCH_KEYS, 64);
	theirs.values = calloc(BATCH_KEYS, stride);
	ours.keys = calloc(BATCH_KEYS, 64);
	ours.values = calloc(BATCH_KEYS, stride);
	for (u32 round = 0; round < 12; round++) {
		u32 n = shapes[_i].keys < 60 ? shapes[_i].keys : 60, count = n, size = sizes[round % ARRAY_SIZE(sizes)];
		u64 flag = flags[round / 3 % ARRAY_SIZE(flags)];
		LIBBPF_OPTS(bpf_map_batch_opts, opts, .elem_flags = flag);
		struct umap_batch batch = {.keys = ours.keys, .values = ours.values, .count = n, .flags = flag};
		long want, got;

		for (u32 k = 0; k < n; k++) {
			set_key(ours.keys + k * m.key_size, m.key_size, k);
			for (u32 i = 0; i < stride; i++)
				ours.values[k * stride + i] = k * 11 + i + round;
		}
		want = bpf_map_update_batch(b.fd, ours.keys, ours.values, &count, &opts);
		got = umap_write_batch(&m, &batch, &cx);
		ck_assert_msg(want == got, "update, flags %lu: kernel %ld, ours %ld", (long)flag, want, got);
		if (!want || want == -E2BIG || want == -ENOENT)
			ck_assert_uint_eq(count, batch.count);
		theirs.take = ours.take = round % 3 == 2;
		size = ours.take ? 200 : size;
		want = all_batches(&theirs, size);
		got = all_batches(&ours, size);
		/* a bucket with more than the batch has room for is each side's own matter */
		if (want == -ENOSPC || got == -ENOSPC)
			continue;
		ck_assert_msg(want == got, "lookup of %u, take %d: kernel %ld, ours %ld", size, ours.take, want, got);
		compare_batches(&theirs, &ours);
		compare_contents(&m, b.fd, b.value, b.ours);
		for (u32 k = 0; k < n; k++)
			set_key(ours.keys + k * m.key_size, m.key_size, (k + 3) % n);
		if (round % 3)
			continue;
		count = batch.count = n / 2;
		want = bpf_map_delete_batch(b.fd, ours.keys, &count, &opts);
		got = umap_delete_batch(&m, &batch, &cx);
		ck_assert_msg(want == got, "delete, flags %lu: kernel %ld, ours %ld", (long)flag, want, got);
		compare_contents(&m, b.fd, b.value, b.ours);
	}
	free(theirs.keys);
	free(theirs.values);
	free(ours.keys);
	free(ours.values);
	both_deinit(&b, &m, memfd);
}
END_TEST

/* What a frozen map, and one that is not to be read or written from outside, lets us do. */
START_TEST(same_access)
{
	static const u32 flags[] = {0, BPF_F_RDONLY, BPF_F_WRONLY, BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG};
	u32 type = _i % 2 ? UMAP_ARRAY : UMAP_HASH, bits = flags[_i / 2];
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = bits);
	int fd = bpf_map_create(type, "uprobed_test", 4, 8, 4, &opts), memfd;
	u8 theirs[8] = {1}, ours[8] = {1};
	u32 key = 1, next;
	struct umap m;

	ck_assert_int_ge(fd, 0);
	ck_ok(umap_create("test", type, 4, 8, 4, bits, 2, 3, &m, &memfd));
	for (int frozen = 0; frozen < 3; frozen++) {
		struct both b = {&m, fd, theirs, ours};
		static const enum op ops[] = {PUT, GET, DEL, TAKE};
		long want, got;

		for (u32 i = 0; i < 2 * ARRAY_SIZE(ops); i++) {
			run_op(&b, ops[i % ARRAY_SIZE(ops)], (const u8 *)&key, 0, &want, &got);
			ck_assert_msg(want == got, "frozen %d, operation %u: kernel %ld, ours %ld", frozen, i, want, got);
		}
		ck_assert_int_eq(bpf_map_get_next_key(fd, NULL, &next), umap_next_key(&m, NULL, &next));
		ck_assert_int_eq(bpf_map_freeze(fd), umap_freeze(&m));
	}
	umap_destroy(&m, memfd);
	close(fd);
}
END_TEST

static const struct {
	u32 key_size, value_size, max_entries;
} sizes[] = {
	{4, 8, 4}, {4, 4, 4}, {8, 4, 4}, {4, 4, 0}, {0, 8, 4}, {4, 0, 4}, {4, 8, 0}, {8, 8, 4}, {512, 8, 4}, {513, 8, 4}, {4, 32 << 10, 1},
	{4, (32 << 10) + 1, 1}, {0, 300, 1}, {0, 0, 4}, {0, 8, 0}, {0, 4 << 20, 1}, {0, (4 << 20) + 1, 1}, {4, 4 << 20, 1}, {4, 0x80000000u, 1}, {5000, 8, 2}, {4, 8, ~0u >> 4}, {4, 12, 4}, {4, 16, 4}, {4, 1016, 4}, {4, 1024, 4},
};

static const u32 types[] = {UMAP_HASH,	   UMAP_ARRAY,		 UMAP_PERCPU_HASH, UMAP_PERCPU_ARRAY, UMAP_QUEUE, UMAP_STACK,
			    UMAP_LRU_HASH, UMAP_LRU_PERCPU_HASH, UMAP_BLOOM_FILTER,
			    UMAP_PROG_ARRAY, UMAP_LPM_TRIE, UMAP_STACK_TRACE};

/* Every type, with every flag and pair of access flags, and sizes at limits. The
 * kernel may lack memory for what it would accept; then there is no answer. */
START_TEST(same_refusals_as_kernel)
{
	u32 type = types[_i];

	for (u32 i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (u32 bit = 0; bit <= 13; bit++) {
			LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = bit == 13 ? 0 : 1u << bit);
			struct umap m;
			int fd;
			long got;

			/* build-ids in the place of addresses are not there */
			if (type == UMAP_STACK_TRACE && opts.map_flags == BPF_F_STACK_BUILD_ID)
				continue;
			if (sizes[i].max_entries > 4 &&
			    (bit != 13 || type == UMAP_ARRAY || type == UMAP_PERCPU_ARRAY || type == UMAP_PROG_ARRAY))
				continue;
			fd = bpf_map_create(type, "uprobed_test", sizes[i].key_size, sizes[i].value_size,
					    sizes[i].max_entries, &opts);
			got = umap_geometry(type, sizes[i].key_size, sizes[i].value_size, sizes[i].max_entries,
					    opts.map_flags, 2, 1, &m);
			if (fd >= 0)
				close(fd);
			if (fd != -ENOMEM)
				ck_assert_msg(got == (fd < 0 ? fd : 0), "type %u size %u flags %#x: kernel %d, ours %ld",
					      type, i, opts.map_flags, fd, got);
		}
	}
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, same_as_kernel, 0, ARRAY_SIZE(shapes));
	tcase_add_loop_test(tc, same_rows_as_kernel, 0, ARRAY_SIZE(shapes));
	tcase_add_loop_test(tc, same_under_eviction, 0, ARRAY_SIZE(shapes));
	tcase_add_loop_test(tc, same_in_batches, 0, ARRAY_SIZE(shapes));
	tcase_add_loop_test(tc, same_access, 0, 10);
	tcase_add_test(tc, same_prog_array);
	tcase_add_loop_test(tc, same_refusals_as_kernel, 0, ARRAY_SIZE(types));
}

int main(void)
{
	int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "uprobed_test", 4, 8, 1, NULL);

	if (fd < 0) {
		printf("1..0 # SKIP bpf(BPF_MAP_CREATE): %s\n", strerror(-fd));
		return 0;
	}
	close(fd);
	return run_tests("kernel-maps", add, 60);
}
