/* SPDX-License-Identifier: MIT */
/*
 * Dynptrs: memory whose size is known when the program runs only. A program keeps
 * one on its stack and reaches it by these helpers alone; the verifier sees to that
 * (verify_call.c). A failed one has no data, and everything refuses it.
 */
#include "vm/runtime/rt.h"

#define DYNPTR_SIZE_MAX ((1u << 24) - 1)

/* In a program's struct bpf_dynptr. */
struct dynptr {
	u64 data; /* 0: none */
	u32 size;
	u32 pad;
};
_Static_assert(sizeof(struct dynptr) == 16, "struct bpf_dynptr");

static long dynptr_set(struct dynptr *d, u64 data, u32 size, long err)
{
	d->data = err ? 0 : data;
	d->size = err ? 0 : size;
	d->pad = 0;
	return err;
}

/* Its memory is touched by others while we copy; that is theirs. Source and
 * destination may overlap. */
RT_NO_SANITIZE static void move(u8 *dst, const u8 *src, u32 n)
{
	if ((u64)dst - (u64)src >= n) {
		rt_copy(dst, src, n);
		return;
	}
	while (n--)
		dst[n] = src[n];
}

static bool is_inside(const struct dynptr *d, u32 off, u32 len)
{
	return len <= d->size && off <= d->size - len;
}

RT_HELPER(dynptr_from_mem)
{
	u32 size = (u32)r2;

	return (u64)dynptr_set((struct dynptr *)r4, r1, size, size > DYNPTR_SIZE_MAX ? -E2BIG : r3 ? -EINVAL : 0);
}

RT_HELPER(ringbuf_reserve_dynptr)
{
	struct dynptr *d = (struct dynptr *)r4;
	u32 size = (u32)r2;
	void *rec;

	if (r3 || size > DYNPTR_SIZE_MAX)
		return (u64)dynptr_set(d, 0, 0, r3 ? -EINVAL : -E2BIG);
	rec = rt_ring_reserve(frame, (const struct umap *)r1, size, 0);
	return (u64)dynptr_set(d, (u64)rec, size, rec ? 0 : -EINVAL);
}

static u64 give_back(u64 dynptr, u64 flags, bool discard, const struct hook_frame *frame)
{
	struct dynptr *d = (struct dynptr *)dynptr;

	if (d->data)
		rt_ring_commit(frame, d->data, flags, discard);
	d->data = 0;
	d->size = 0;
	return 0;
}

RT_HELPER(ringbuf_submit_dynptr)
{
	return give_back(r1, r2, false, frame);
}

RT_HELPER(ringbuf_discard_dynptr)
{
	return give_back(r1, r2, true, frame);
}

RT_HELPER(dynptr_read)
{
	const struct dynptr *d = (const struct dynptr *)r3;
	u32 len = (u32)r2, off = (u32)r4;

	if (!d->data || r5)
		return (u64)-EINVAL;
	if (!is_inside(d, off, len))
		return (u64)-E2BIG;
	move((u8 *)r1, (const u8 *)d->data + off, len);
	return 0;
}

RT_HELPER(dynptr_write)
{
	const struct dynptr *d = (const struct dynptr *)r1;
	u32 off = (u32)r2, len = (u32)r4;

	if (!d->data)
		return (u64)-EINVAL;
	if (!is_inside(d, off, len))
		return (u64)-E2BIG;
	if (r5)
		return (u64)-EINVAL;
	move((u8 *)d->data + off, (const u8 *)r3, len);
	return 0;
}

RT_HELPER(dynptr_data)
{
	const struct dynptr *d = (const struct dynptr *)r1;
	u32 off = (u32)r2, len = (u32)r3;

	return d->data && is_inside(d, off, len) ? d->data + off : 0;
}

#define DRAINED_MAX (128u << 10) /* BPF_MAX_USER_RINGBUF_SAMPLES */

RT_HELPER(user_ringbuf_drain)
{
	const struct umap *m = (const struct umap *)r1;
	rt_callback *fn = (rt_callback *)r2;
	struct umap_user_record record;
	u64 seen = 0, stop = 0;
	long err = 0;

	if (r4 & ~(u64)(UMAP_RB_NO_WAKEUP | UMAP_RB_FORCE_WAKEUP)) /* nobody sleeps there */
		return (u64)-EINVAL;
	if (!umap_user_begin(m, rt_owner(rt_env(frame), rt_rec(frame))))
		return (u64)-EBUSY;
	for (u32 i = 0; i < DRAINED_MAX && !stop; i++) {
		struct dynptr d;

		err = umap_user_peek(m, &record);
		if (err == -EAGAIN)
			continue;
		if (!err && record.size > DYNPTR_SIZE_MAX)
			err = -E2BIG;
		if (err)
			break;
		dynptr_set(&d, (u64)record.data, record.size, 0);
		stop = fn((u64)&d, r3, 0, 0, 0, frame);
		umap_user_release(m, &record);
		seen++;
	}
	umap_user_end(m);
	return err && err != -ENODATA && err != -EAGAIN ? (u64)err : seen;
}
