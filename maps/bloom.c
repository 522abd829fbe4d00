/* SPDX-License-Identifier: MIT */
/*
 * BLOOM_FILTER: bits that a push sets and a peek tests. Called by map.c.
 * Freestanding.
 *
 * A push sets up to five bits, each by an atomic or, and only those that are not
 * set. Nobody ever clears one. So there is nothing to wait for, nothing to undo
 * after a death (some bits are set: one more false positive, as if the push had
 * happened), and scribbling makes wrong answers only. A value that was pushed is
 * always found.
 */
#include <errno.h>
#include <linux/bpf.h>

#include "hash_core.h"

/* What the kernel accepts (kernel/bpf/bloom_filter.c), and its default. */
#define BLOOM_FLAGS \
	(BPF_F_NUMA_NODE | BPF_F_ZERO_SEED | BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG)
#define BLOOM_HASHES 5u
#define BLOOM_VALUE_MAX (4u << 20)

/* The number of bits is the kernel's: entries × hashes × 7/5 (that is 1 / ln 2),
 * rounded up to a power of two. */
static u64 bloom_bits(u32 max_entries)
{
	u64 want = (u64)max_entries * BLOOM_HASHES / 5 * 7, bits = 64;

	if (want >> 31)
		return 1ull << 32;
	while (bits < want)
		bits <<= 1;
	return bits;
}

long bloom_geometry(struct umap *m)
{
	if (m->value_size > BLOOM_VALUE_MAX)
		return -E2BIG;
	if (m->key_size || m->map_flags & ~BLOOM_FLAGS)
		return -EINVAL;
	m->nhashes = BLOOM_HASHES;
	m->bits_mask = bloom_bits(m->max_entries) - 1;
	m->data_off = 0;
	m->size = (m->bits_mask + 1ull) / 8;
	return 0;
}

/* The N-th bit of a value whose hash is H. */
static force_inline u32 bloom_bit(const struct umap *m, u64 h, u32 n)
{
	return mix(h + n * HASH_MULTIPLIER, 0xd1b54a32d192ed03ull) & m->bits_mask;
}

static force_inline u64 *bloom_word(const struct umap *m, u32 bit)
{
	return (u64 *)(m->base + m->data_off) + (bit >> 6);
}

long bloom_push(const struct umap *m, const void *value, u64 flags)
{
	u64 h = key_hash(value, m->value_size);

	if (flags != UMAP_ANY)
		return -EINVAL;
	for (u32 n = 0; n < m->nhashes; n++) {
		u32 bit = bloom_bit(m, h, n);
		u64 mask = 1ull << (bit & 63);

		if (!(load(bloom_word(m, bit)) & mask))
			__sync_fetch_and_or(bloom_word(m, bit), mask);
	}
	return 0;
}

long bloom_peek(const struct umap *m, const void *value)
{
	u64 h = key_hash(value, m->value_size);

	for (u32 n = 0; n < m->nhashes; n++) {
		u32 bit = bloom_bit(m, h, n);

		if (!(load(bloom_word(m, bit)) >> (bit & 63) & 1))
			return -ENOENT;
	}
	return 0;
}
