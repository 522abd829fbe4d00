/* SPDX-License-Identifier: MIT */
/* BLAKE2b-256; see digest.h. */
#include "injector/digest.h"

#include <string.h>

static const u64 iv[8] = {
	0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
	0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

static const u8 sigma[12][16] = {
	{ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
	{ 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3 },
	{ 11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4 },
	{ 7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8 },
	{ 9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13 },
	{ 2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9 },
	{ 12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11 },
	{ 13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10 },
	{ 6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5 },
	{ 10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0 },
	{ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
	{ 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3 },
};

static inline u64 ror(u64 x, unsigned n)
{
	return x >> n | x << (64 - n);
}

#define MIX(a, b, c, d, x, y)                    \
	do {                                     \
		v[a] += v[b] + (x);              \
		v[d] = ror(v[d] ^ v[a], 32);     \
		v[c] += v[d];                    \
		v[b] = ror(v[b] ^ v[c], 24);     \
		v[a] += v[b] + (y);              \
		v[d] = ror(v[d] ^ v[a], 16);     \
		v[c] += v[d];                    \
		v[b] = ror(v[b] ^ v[c], 63);     \
	} while (0)

static void compress(struct digest *d, const u8 *block, bool last)
{
	u64 v[16], m[16];

	memcpy(m, block, sizeof(m));
	memcpy(v, d->h, sizeof(d->h));
	memcpy(v + 8, iv, sizeof(iv));
	v[12] ^= d->total;
	if (last)
		v[14] = ~v[14];
	for (int r = 0; r < 12; r++) {
		const u8 *s = sigma[r];

		MIX(0, 4, 8, 12, m[s[0]], m[s[1]]);
		MIX(1, 5, 9, 13, m[s[2]], m[s[3]]);
		MIX(2, 6, 10, 14, m[s[4]], m[s[5]]);
		MIX(3, 7, 11, 15, m[s[6]], m[s[7]]);
		MIX(0, 5, 10, 15, m[s[8]], m[s[9]]);
		MIX(1, 6, 11, 12, m[s[10]], m[s[11]]);
		MIX(2, 7, 8, 13, m[s[12]], m[s[13]]);
		MIX(3, 4, 9, 14, m[s[14]], m[s[15]]);
	}
	for (int i = 0; i < 8; i++)
		d->h[i] ^= v[i] ^ v[i + 8];
}

void digest_init(struct digest *d)
{
	*d = (struct digest){};
	memcpy(d->h, iv, sizeof(iv));
	d->h[0] ^= 0x01010000 ^ DIGEST_SIZE;
}

void digest_add(struct digest *d, const void *data, size_t n)
{
	const u8 *p = data;

	/* The last block is compressed by digest_final alone, so a full one
	 * waits until more follows. */
	while (n) {
		size_t take = sizeof(d->block) - d->fill;

		if (!take) {
			d->total += sizeof(d->block);
			compress(d, d->block, false);
			d->fill = 0;
			continue;
		}
		if (take > n)
			take = n;
		memcpy(d->block + d->fill, p, take);
		d->fill += take;
		p += take;
		n -= take;
	}
}

void digest_final(struct digest *d, u8 ret[DIGEST_SIZE])
{
	d->total += d->fill;
	memset(d->block + d->fill, 0, sizeof(d->block) - d->fill);
	compress(d, d->block, true);
	memcpy(ret, d->h, DIGEST_SIZE);
}
