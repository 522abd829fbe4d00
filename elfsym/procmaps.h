/* SPDX-License-Identifier: MIT */
/* /proc/PID/maps as data. The parser works on a buffer and does no I/O. */
#pragma once
#include <sys/types.h>

#include "base/types.h"
#include "base/uerr.h"

struct procmap {
	addr_t start, end;
	u32 prot;      /* PROT_READ | PROT_WRITE | PROT_EXEC */
	bool shared;
	bool deleted;  /* " (deleted)" was cut off the path */
	u64 file_off;
	dev_t dev;
	ino_t ino;     /* 0: anonymous */
	const char *path; /* "" for anonymous; "[heap]" and so on */
};

struct procmaps {
	struct procmap *maps; /* by address */
	size_t n;
	char *text;           /* backs the paths */
};

/* Parses TEXT (NUL-terminated, copied). */
struct uerr *procmaps_parse(const char *text, struct procmaps *ret) UERR_MUST_CHECK;

/* Reads and parses /proc/PID/maps; UERR_NO_TARGET when there is no such process. */
struct uerr *procmaps_read(pid_t pid, struct procmaps *ret) UERR_MUST_CHECK;

void procmaps_deinit(struct procmaps *pm);

/* The mapping that contains ADDR, or NULL. */
const struct procmap *procmaps_find(const struct procmaps *pm, addr_t addr);
