/* SPDX-License-Identifier: MIT */
/* Any bytes as an ELF file: opened, searched, and taken apart for the injector.
 * A good seed is any small program: fuzz_elf CORPUS_DIR -max_len=65536 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "elfsym/image.h"
#include "elfsym/unwind.h"
#include "elfsym/usdt.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* Unwind tables can be followed whatever they were made of. */
static void use_frames(struct image *im)
{
	struct unwind_table *t = NULL;
	struct unwind_input in;
	struct uerr *err = image_unwind_input(im, &in);

	if (!err)
		err = unwind_table_make(&in, &t);
	if (!err && t && !unwind_table_valid(t, t->size))
		__builtin_trap();
	for (u64 off = 0; t && off < 4096; off += 3)
		unwind_find(t, t->base + off);
	uerr_free(err);
	unwind_input_deinit(&in);
	free(t);
}

static void use(struct image *im)
{
	const struct elf_sym *syms, *found[4];
	const struct code_image *code;
	const struct usdt_probe *probes;
	struct usdt_args args;
	const char *near[4];
	size_t nprobes = 0;
	size_t n = image_syms(im, &syms);

	for (size_t i = 0; i < n; i++)
		if (!image_find_addr(im, syms[i].addr))
			__builtin_trap();
	image_find(im, "ns::f", found, 4);
	image_find(im, "victim_add@V1", found, 4);
	image_near(im, "victim_ad", near, 4);
	image_has_symtab(im);
	uerr_free(image_usdts(im, &probes, &nprobes));
	for (size_t i = 0; i < nprobes; i++)
		uerr_free(usdt_args_parse(probes[i].args, &args));
	uerr_free(image_code(im, &code));
	use_frames(im);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	struct image *im;
	struct uerr *err;

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		__builtin_trap();
	err = image_open_fd(fd, "fuzz", &im);
	close(fd);
	if (err) {
		uerr_free(err);
		return 0;
	}
	use(im);
	image_unref(im);
	image_cache_drop();
	return 0;
}
