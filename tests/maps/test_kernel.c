/* SPDX-License-Identifier: MIT */
/*
 * The kernel's maps are the reference: the same random operations go to a real
 * map through bpf(2) and to ours, and every result, errno and content must be
 * the same. Skipped, saying so, where bpf(2) is not permitted.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <unistd.h>

#include "support.h"

static struct thread_rec rec;
static const struct umap_ctx cx = {.rec = &rec, .owner = OWNER_ID(1, 1)};

static const struct {
	u32 type, key_size, value_size, max_entries, flags, keys;
} shapes[] = {
	{UMAP_HASH, 4, 8, 32, 0, 40},
	{UMAP_HASH, 4, 8, 32, BPF_F_NO_PREALLOC, 64},
	{UMAP_HASH, 8, 4, 5, 0, 8},
	{UMAP_HASH, 2, 7, 100, 0, 90},
	{UMAP_HASH, 16, 8, 32, 0, 40},
	{UMAP_HASH, 21, 100, 32, 0, 40},
	{UMAP_HASH, 8, 300, 1, 0, 3},
	{UMAP_PERCPU_HASH, 4, 8, 32, 0, 40},
	{UMAP_PERCPU_HASH, 40, 12, 16, BPF_F_NO_PREALLOC, 20},
	{UMAP_ARRAY, 4, 8, 32, 0, 34},
	{UMAP_ARRAY, 4, 13, 3, BPF_F_MMAPABLE, 5},
	{UMAP_PERCPU_ARRAY, 4, 8, 32, 0, 34},
	{UMAP_PERCPU_ARRAY, 4, 5, 3, 0, 5},
};

static void set_key(u8 *key, u32 size, u32 k)
{
	for (u32 i = 0; i < size; i++)
		key[i] = (u8)(i < 4 ? k >> 8 * i : k * 7 + i);
}

/* The kernel leaves the padding of per-CPU values to chance. */
static void compare_values(const struct umap *m, const u8 *a, const u8 *b)
{
	u32 stride = ALIGN_UP(m->value_size, 8u), n = m->type == UMAP_HASH || m->type == UMAP_ARRAY ? 1 : m->ncpus;

	for (u32 i = 0; i < n; i++)
		ck_assert_mem_eq(a + i * stride, b + i * stride, m->value_size);
}

/* Same number of keys, and every key of the kernel's is in ours. */
static void compare_contents(const struct umap *m, int fd, u8 *value, u8 *ours)
{
	u8 key[64], mine[64];
	u32 n = 0, n_ours = 0;
	long rc;

	for (rc = bpf_map_get_next_key(fd, NULL, key); !rc; rc = bpf_map_get_next_key(fd, key, key)) {
		n++;
		ck_assert_int_eq(bpf_map_lookup_elem(fd, key, value), 0);
		ck_assert_int_eq(umap_read(m, key, ours, &cx), 0);
		compare_values(m, value, ours);
	}
	ck_assert_int_eq(rc, -ENOENT);
	for (rc = umap_next_key(m, NULL, mine); !rc; rc = umap_next_key(m, mine, mine))
		n_ours++;
	ck_assert_int_eq(rc, -ENOENT);
	ck_assert_uint_eq(n, n_ours);
}

static void one_step(const struct umap *m, int fd, u32 keys, u64 *seed, u8 *value, u8 *ours)
{
	static const u64 flags[] = {0, 0, 0, 0, 1, 2, 3, 4, 7};
	u64 flag = flags[rnd(seed) % ARRAY_SIZE(flags)];
	u8 key[64];
	long want, got;

	set_key(key, m->key_size, rnd(seed) % keys);
	switch (rnd(seed) % 4) {
	case 0:
	case 1:
		for (u32 i = 0; i < umap_user_value_size(m); i++)
			value[i] = rnd(seed);
		want = bpf_map_update_elem(fd, key, value, flag);
		got = umap_write(m, key, value, flag, &cx);
		break;
	case 2:
		want = bpf_map_delete_elem(fd, key);
		got = umap_delete(m, key, &cx);
		break;
	default:
		want = bpf_map_lookup_elem(fd, key, value);
		got = umap_read(m, key, ours, &cx);
		if (!want && !got)
			compare_values(m, value, ours);
	}
	ck_assert_int_eq(got, want);
}

START_TEST(same_as_kernel)
{
	int ncpus = libbpf_num_possible_cpus(), fd, memfd;
	u64 seed = 12345 + _i;
	u8 *value, *ours;
	struct umap m;
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = shapes[_i].flags);

	fd = bpf_map_create(shapes[_i].type, "uprobed_test", shapes[_i].key_size, shapes[_i].value_size,
			    shapes[_i].max_entries, &opts);
	ck_assert_int_ge(fd, 0);
	ck_ok(umap_create("test", shapes[_i].type, shapes[_i].key_size, shapes[_i].value_size, shapes[_i].max_entries,
			  shapes[_i].flags, ncpus, 3, &m, &memfd));
	value = calloc(1, umap_user_value_size(&m));
	ours = calloc(1, umap_user_value_size(&m));
	for (int n = 0; n < 20000; n++) {
		one_step(&m, fd, shapes[_i].keys, &seed, value, ours);
		if (n % 500 == 0)
			compare_contents(&m, fd, value, ours);
	}
	compare_contents(&m, fd, value, ours);
	if (m.nelems)
		check_hash(&m);
	free(value);
	free(ours);
	umap_destroy(&m, memfd);
	close(fd);
}
END_TEST

static const struct {
	u32 key_size, value_size, max_entries;
} sizes[] = {
	{4, 8, 4}, {0, 8, 4}, {4, 0, 4}, {4, 8, 0}, {8, 8, 4}, {512, 8, 4}, {513, 8, 4}, {4, 32 << 10, 1},
	{4, (32 << 10) + 1, 1}, {4, 4 << 20, 1}, {4, 0x80000000u, 1}, {5000, 8, 2}, {4, 8, ~0u >> 4},
};

/* Every type, with every flag and pair of access flags, and sizes at limits. The
 * kernel may lack memory for what it would accept; then there is no answer. */
START_TEST(same_refusals_as_kernel)
{
	static const u32 types[] = {UMAP_HASH, UMAP_ARRAY, UMAP_PERCPU_HASH, UMAP_PERCPU_ARRAY};
	u32 type = types[_i];

	for (u32 i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (u32 bit = 0; bit <= 13; bit++) {
			LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = bit == 13 ? 0 : 1u << bit);
			struct umap m;
			int fd;
			long got;

			if (sizes[i].max_entries > 4 && (bit != 13 || type == UMAP_ARRAY || type == UMAP_PERCPU_ARRAY))
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
	tcase_add_loop_test(tc, same_refusals_as_kernel, 0, 4);
}

int main(void)
{
	int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "uprobed_test", 4, 8, 1, NULL);

	if (fd < 0) {
		printf("1..0 # SKIP bpf(BPF_MAP_CREATE): %s\n", strerror(-fd));
		return 0;
	}
	close(fd);
	return run_tests("kernel", add, 60);
}
