/* SPDX-License-Identifier: MIT */
/*
 * libbpfvm: eBPF in your own process. Load an object, run its programs by
 * interpreter or JIT, read and write its maps. See docs/libbpfvm.md.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct bpfvm;      /* a loaded object with its maps */
struct bpfvm_prog; /* one of its programs */

/* Loads the object of SIZE bytes. NULL on failure: *error is then a message
 * that the caller frees (error may be NULL). */
struct bpfvm *bpfvm_open(const void *object, size_t size, const char *name, char **error);
void bpfvm_close(struct bpfvm *vm); /* NULL is fine; no program may be running */

struct bpfvm_prog *bpfvm_prog_find(struct bpfvm *vm, const char *name); /* NULL: none */

/* Runs P with r1 = ctx, r2 = ctx_size; returns r0. Thread-safe. */
uint64_t bpfvm_run(struct bpfvm_prog *p, void *ctx, size_t ctx_size);      /* JIT */
uint64_t bpfvm_interpret(struct bpfvm_prog *p, void *ctx, size_t ctx_size);

/* Map operations: 0 or a negative errno, values as bpf(2) passes them. */
struct bpfvm_map *bpfvm_map_find(struct bpfvm *vm, const char *name);
int bpfvm_map_lookup(struct bpfvm_map *m, const void *key, void *value);
int bpfvm_map_update(struct bpfvm_map *m, const void *key, const void *value, uint64_t flags);
int bpfvm_map_delete(struct bpfvm_map *m, const void *key);
int bpfvm_map_next_key(struct bpfvm_map *m, const void *key, void *next_key);
uint32_t bpfvm_map_value_size(struct bpfvm_map *m); /* as passed here; per-CPU: all CPUs */

#ifdef __cplusplus
}
#endif
