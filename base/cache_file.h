/* SPDX-License-Identifier: MIT */
/*
 * Files in a cache folder that keep what was worked out of an ELF file, by its
 * build-id. Only what nobody but we and root could have written is believed; that
 * it belongs to the bytes at hand is for the caller to see (by a digest of them).
 */
#pragma once
#include "types.h"

/* "DIR/BUILDID.SUFFIX", malloc'd; NULL when there can be none: the build-id comes
 * from the file and must not be taken for a path. */
char *cache_file_path(const char *dir, const char *build_id, const char *suffix);

/* Opens what is at PATH and its size; -1: nothing, or nothing to be believed. */
int cache_file_open(const char *path, u64 *size);

/* N bytes, or false. */
bool cache_file_read(int fd, void *buf, size_t n);

/* Puts HEAD and BODY there as one. One that cannot be written is no failure: next
 * time is slower. */
void cache_file_write(const char *path, const void *head, size_t nhead, const void *body, size_t nbody);
