/* SPDX-License-Identifier: MIT */
/* Objects that the build made of tests/vm/bpf/, by name; $BPF_OBJECTS is where
 * they are, $BPF_VARIANT ("-clang-19-v4"), if set, which compiler made them. */
#pragma once
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/types.h"
#include "vm/object.h"

struct bpf_file {
	u8 *data;
	size_t size;
};

static inline struct bpf_file bpf_file_read(const char *name)
{
	const char *dir = getenv("BPF_OBJECTS");
	struct bpf_file f = { malloc(1 << 20), 0 };
	char path[4096];
	FILE *in;

	ck_assert_msg(dir, "BPF_OBJECTS is not set");
	snprintf(path, sizeof(path), "%s/%s%s.bpf.o", dir, name, getenv("BPF_VARIANT") ? getenv("BPF_VARIANT") : "");
	in = fopen(path, "r");
	ck_assert_msg(in, "%s: no such object", path);
	f.size = fread(f.data, 1, 1 << 20, in);
	fclose(in);
	return f;
}
