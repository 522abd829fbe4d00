/* SPDX-License-Identifier: MIT */
/*
 * Compact unwind tables against libdw's own evaluation of the same .eh_frame, at
 * every address of the code: the same, or "unknown" where libdw says something that
 * no rule can, and that is rare. Then files that lie.
 */
#include "elfsym/unwind.h"

#include <dwarf.h>
#include <elfutils/libdw.h>

#include "support.h"

/* One address in `rare` at most may be unknown: some hand-written assembly, and of the
 * dynamic linker its trampolines, which address their frames by rbx. */
static const struct {
	const char *path;
	u64 rare;
} files[] = {
	{ "/lib/x86_64-linux-gnu/libc.so.6", 5000 }, { "/usr/lib/x86_64-linux-gnu/libstdc++.so.6", 5000 },
	{ "/lib/x86_64-linux-gnu/libgcc_s.so.1", 1000 }, { "/lib64/ld-linux-x86-64.so.2", 40 },
	{ VICTIM_PIE, 1000 }, { VICTIM_STATIC, 100 },
};

static struct uerr *make_table(struct image *im, struct unwind_table **ret)
{
	struct unwind_input in;
	struct uerr *err = image_unwind_input(im, &in);

	if (!err)
		err = unwind_table_make(&in, ret);
	unwind_input_deinit(&in);
	return err;
}

struct tally {
	u64 same, unknown, end, signal;
};

static bool is_op(const Dwarf_Op *op, u8 atom)
{
	return op->atom == atom;
}

/* What libdw says of a register: at CFA + OFF, or as it was. */
static bool at_cfa(const Dwarf_Op *ops, size_t n, s64 *off)
{
	if (n == 1 && is_op(&ops[0], DW_OP_call_frame_cfa)) {
		*off = 0;
		return true;
	}
	if (n == 2 && is_op(&ops[0], DW_OP_call_frame_cfa) && is_op(&ops[1], DW_OP_plus_uconst)) {
		*off = (s64)ops[1].number;
		return true;
	}
	return false;
}

/* REG + OFF, by an expression; libdw puts the CFA in front, as DWARF has it. */
static bool at_reg(const Dwarf_Op *ops, size_t n, u8 reg, s64 off)
{
	if (n && is_op(&ops[0], DW_OP_call_frame_cfa)) {
		ops++;
		n--;
	}
	return n == 1 && is_op(&ops[0], DW_OP_breg0 + reg) && (s64)ops[0].number == off;
}

/* A CFA by a plain register; an expression is compared by its parts elsewhere. */
static void check_cfa(const char *file, u64 pc, const struct unwind_rule *rule, const Dwarf_Op *ops, size_t n)
{
	u8 reg = rule->cfa == UNWIND_RSP || rule->cfa == UNWIND_AT_RSP ? 7 : 6;
	u8 atom = DW_OP_breg0 + reg;

	if (rule->cfa == UNWIND_RSP && n > 1) { /* a PLT */
		u64 low = pc & 15;

		ck_assert_msg(is_op(&ops[0], DW_OP_breg7) && is_op(&ops[1], DW_OP_breg16), "%s: %lx", file, (long)pc);
		ck_assert_int_eq(rule->cfa_off, (s64)ops[0].number + (low >= ops[4].atom - DW_OP_lit0 ? 8 : 0));
		return;
	}
	ck_assert_msg(n && (is_op(&ops[0], atom) || (is_op(&ops[0], DW_OP_bregx) && ops[0].number == reg)),
		      "%s: %lx: libdw computes the CFA by another register", file, (long)pc);
	ck_assert_msg((is_op(&ops[0], DW_OP_bregx) ? (s64)ops[0].number2 : (s64)ops[0].number) == rule->cfa_off,
		      "%s: %lx: CFA at %d, libdw says %ld", file, (long)pc, rule->cfa_off, (long)ops[0].number);
	if (rule->cfa == UNWIND_RSP || rule->cfa == UNWIND_RBP) {
		ck_assert_uint_eq(n, 1);
		return;
	}
	ck_assert_msg(n >= 2 && is_op(&ops[1], DW_OP_deref), "%s: %lx", file, (long)pc);
	ck_assert_int_eq(rule->cfa_add, n > 2 ? (s64)ops[2].number : 0);
}

static void check_bp(const char *file, u64 pc, const struct unwind_rule *rule, Dwarf_Frame *frame)
{
	Dwarf_Op mem[3], *ops;
	size_t n;
	s64 off;

	ck_assert_int_eq(dwarf_frame_register(frame, 6, mem, &ops, &n), 0);
	if (rule->bp == UNWIND_BP_SAME) {
		ck_assert_msg(!n && !ops, "%s: %lx: rbp is not as it was", file, (long)pc);
	} else if (rule->bp == UNWIND_BP_AT_CFA) {
		ck_assert_msg(at_cfa(ops, n, &off) && off == rule->bp_off, "%s: %lx: rbp", file, (long)pc);
	} else if (rule->bp == UNWIND_BP_AT_BP) {
		ck_assert_msg(at_reg(ops, n, 6, rule->bp_off), "%s: %lx: rbp", file,
			      (long)pc);
	}
}

/* What FRAME, which libdw has made for PC, says. */
static void check_pc(const char *file, u64 pc, const struct unwind_rule *rule, Dwarf_Frame *frame, struct tally *sum)
{
	Dwarf_Op mem[3], *ops;
	bool signal = false;
	s64 off;
	size_t n;

	if (!rule || rule->cfa == UNWIND_UNKNOWN) {
		sum->unknown++;
		return;
	}
	dwarf_frame_info(frame, NULL, NULL, &signal);
	ck_assert_int_eq(dwarf_frame_register(frame, 16, mem, &ops, &n), 0);
	if (rule->cfa == UNWIND_END) {
		sum->end++;
		ck_assert_msg(!n && ops == mem, "%s: %lx: the return address is not undefined", file, (long)pc);
	} else if (rule->cfa == UNWIND_SIGNAL) {
		sum->signal++;
		ck_assert_msg(signal && at_reg(ops, n, 7, UNWIND_UC_IP), "%s: %lx", file, (long)pc);
	} else {
		sum->same++;
		ck_assert_msg(at_cfa(ops, n, &off) && off == -8, "%s: %lx: the return address", file, (long)pc);
		check_bp(file, pc, rule, frame);
		ck_assert_int_eq(dwarf_frame_cfa(frame, &ops, &n), 0);
		check_cfa(file, pc, rule, ops, n);
	}
}

/* Every address that libdw's row at PC goes on for, which it evaluates once; returns
 * the next. */
static u64 check_row(const char *file, u64 pc, const struct unwind_table *t, Dwarf_CFI *cfi, struct tally *sum)
{
	const struct unwind_rule *rule = unwind_find(t, pc);
	Dwarf_Frame *frame = NULL;
	Dwarf_Addr lo, hi;

	if (dwarf_cfi_addrframe(cfi, pc, &frame)) {
		ck_assert_msg(!rule || rule->cfa == UNWIND_UNKNOWN, "%s: %lx: libdw knows nothing", file, (long)pc);
		return pc + 1;
	}
	dwarf_frame_info(frame, &lo, &hi, NULL);
	ck_assert_msg(lo <= pc && pc < hi, "%s: %lx", file, (long)pc);
	for (; pc < hi; pc++)
		check_pc(file, pc, unwind_find(t, pc), frame, sum);
	free(frame);
	return pc;
}

START_TEST(same_as_libdw)
{
	const char *file = files[_i].path;
	struct unwind_table *t = NULL;
	struct image *im = NULL;
	struct tally sum = {};
	Dwarf_CFI *cfi;
	Elf *elf;
	int fd = open(file, O_RDONLY);

	if (fd < 0)
		return;
	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ, NULL);
	cfi = dwarf_getcfi_elf(elf);
	ck_assert_ptr_nonnull(cfi);
	ck_ok(image_open(file, &im));
	ck_ok(make_table(im, &t));
	ck_assert_ptr_nonnull(t);
	ck_assert(unwind_table_valid(t, t->size));
	for (u64 pc = t->base; pc < t->base + (u64)t->nblocks * UNWIND_BLOCK;)
		pc = check_row(file, pc, t, cfi, &sum);
	printf("# %s: %lu addresses known, %lu unknown, %lu ends, %lu of signals; %u rows, %u rules, %lu KiB\n", file,
	       (long)sum.same, (long)sum.unknown, (long)sum.end, (long)sum.signal, t->nrows, t->nrules,
	       (long)t->size >> 10);
	ck_assert_msg(sum.unknown * files[_i].rare <= sum.same, "%s: %lu of %lu addresses are unknown", file,
		      (long)sum.unknown,
		      (long)(sum.same + sum.unknown));
	ck_assert(!strstr(file, "libc.so") || sum.signal);
	free(t);
	image_unref(im);
	dwarf_cfi_end(cfi);
	elf_end(elf);
	close(fd);
}
END_TEST

/* Bytes of .eh_frame that are changed at random: any table, but one that can be
 * followed, and no read outside (sanitizers watch). */
START_TEST(survives_damage)
{
	char *bytes;
	int in = open(VICTIM_PIE, O_RDONLY), out;
	off_t size = lseek(in, 0, SEEK_END);
	u64 seed = 88172645463325252ull;

	bytes = malloc(size);
	for (int round = 0; round < 100; round++) {
		struct unwind_table *t = NULL;
		struct image *im = NULL;
		struct uerr *err;

		ck_assert_int_eq(pread(in, bytes, size, 0), size);
		for (int i = 0; i < 40; i++) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			/* not the headers: what is behind them is what is tried here */
			bytes[0x400 + seed % (size - 0x400)] ^= 1 << (seed >> 60);
		}
		out = memfd_create("damaged", MFD_CLOEXEC);
		ck_assert_int_eq(write(out, bytes, size), size);
		image_cache_drop();
		err = image_open_fd(out, "damaged", &im);
		close(out);
		if (!err)
			err = make_table(im, &t);
		if (!err && t) {
			ck_assert(unwind_table_valid(t, t->size));
			for (u64 i = 0; i < 20000; i++)
				unwind_find(t, t->base + (u64)t->nblocks * UNWIND_BLOCK * i / 20000 + i % 7);
		}
		uerr_free(err);
		free(t);
		image_unref(im);
	}
	free(bytes);
	close(in);
}
END_TEST

/* What is read from a cache is followed only if it holds. */
START_TEST(bad_tables)
{
	struct unwind_table *t = NULL, *bad;
	struct image *im = NULL;
	u64 size;

	ck_ok(image_open(VICTIM_PIE, &im));
	ck_ok(make_table(im, &t));
	size = t->size;
	bad = malloc(size);
	for (u64 at = 0; at < unwind_refs_off(t); at += 4) {
		memcpy(bad, t, size);
		*(u32 *)(void *)((u8 *)bad + at) ^= 0x80000000u;
		/* (the base says only where it lies) */
		ck_assert_msg(!unwind_table_valid(bad, size) || (at >= 8 && at < 16) || at == 36 ||
				      at >= unwind_pcs_off(t),
			      "a table with a changed word at %lu is taken", (long)at);
	}
	ck_assert(!unwind_table_valid(t, size - 8));
	ck_assert(!unwind_table_valid(t, 8));
	free(bad);
	free(t);
	image_unref(im);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("unwind");

	tcase_set_timeout(tc, 200);
	tcase_add_loop_test(tc, same_as_libdw, 0, ARRAY_SIZE(files));
	tcase_add_test(tc, survives_damage);
	tcase_add_test(tc, bad_tables);
	return run_case("unwind", tc);
}
