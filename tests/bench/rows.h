/* SPDX-License-Identifier: MIT */
/*
 * The rows of the benchmark, listed once: a function of the victim, the BPF
 * programs of bench.bpf.c that go on it, how many map or memory operations one
 * call makes, and what was published for bpftime and the kernel on another
 * machine (ns a call; "BPFtime Uprobe Benchmark Results", 2025-04-28, Intel
 * Core Ultra 7 258V, Linux 6.11). Then rows of which nothing was published; their
 * programs are in more.bpf.c. Those whose names begin with DEEP_ROW are called
 * from functions with frame pointers, DEPTH of them: the kernel walks by these.
 */
#pragma once

#define DEEP_ROW "__bench_stackid"
#define DEPTH 40

/* X(function, entry program or "", exit program or "", operations a call,
 *   published kernel, published bpftime) */
#define BENCH_ROWS(X)                                                                     \
	X(__bench_uprobe, "on_entry", "", 0, 2177.25, 172.13)                             \
	X(__bench_uretprobe, "", "on_exit", 0, 2623.65, 178.68)                           \
	X(__bench_uprobe_uretprobe, "on_entry", "on_exit", 0, 2926.97, 215.85)            \
	X(__bench_read, "read", "", 1000, 22223.99, 10321.81)                             \
	X(__bench_write, "write", "", 1000, 23213.06, 13454.07)                           \
	X(__bench_hash_map_update, "hash_update", "", 1000, 41505.07, 36364.03)           \
	X(__bench_hash_map_lookup, "hash_lookup", "", 1000, 12789.52, 34287.46)           \
	X(__bench_hash_map_delete, "hash_delete", "", 1000, 19354.34, 18960.36)           \
	X(__bench_array_map_update, "array_update", "", 1000, 11318.11, 16387.31)         \
	X(__bench_array_map_lookup, "array_lookup", "", 1000, 2784.35, 14648.72)          \
	X(__bench_array_map_delete, "array_delete", "", 1000, 2740.89, 13862.74)          \
	X(__bench_per_cpu_hash_map_update, "pc_hash_update", "", 1000, 27439.99, 80354.05) \
	X(__bench_per_cpu_hash_map_lookup, "pc_hash_lookup", "", 1000, 10150.70, 63585.30) \
	X(__bench_per_cpu_hash_map_delete, "pc_hash_delete", "", 1000, 21132.74, 71262.50) \
	X(__bench_per_cpu_array_map_update, "pc_array_update", "", 1000, 11052.69, 26934.78) \
	X(__bench_per_cpu_array_map_lookup, "pc_array_lookup", "", 1000, 3178.38, 17591.17) \
	X(__bench_per_cpu_array_map_delete, "pc_array_delete", "", 1000, 3070.67, 13325.91)

/* Returns that are taken over, at a jump to another function and at the entry: the
 * same, of functions that are written for it. */
#define BENCH_TAKEN_ROWS(X)                              \
	X(__bench_uretprobe_tail, "", "on_exit", 0, 0, 0)  \
	X(__bench_uretprobe_taken, "", "on_exit", 0, 0, 0)

#define RING_ROW "__bench_ring_output" /* somebody has to read what it writes */
#define RING_BYTES (16u << 20)

/* X(function, entry program, operations a call, calls until its maps are filled) */
#define BENCH_MORE_ROWS(X)                                       \
	X(__bench_hash_insert_delete, "insert_delete", 2000, 0)  \
	X(__bench_hash_string16, "string16", 1000, 1)            \
	X(__bench_hash_string64, "string64", 1000, 1)            \
	X(__bench_hash_million, "million", 1000, 1100)           \
	X(__bench_lru_eviction, "lru_eviction", 1000, 2)         \
	X(__bench_ktime, "ktime", 1000, 0)                       \
	X(__bench_pid_tgid, "pid_tgid", 1000, 0)                 \
	X(__bench_comm, "comm", 1000, 0)                         \
	X(__bench_strncmp, "compare", 1000, 0)                   \
	X(__bench_ring_output, "ring_output", 1000, 0)           \
	X(__bench_stackid_10, "stackid_10", 1000, 0)             \
	X(__bench_stackid_30, "stackid_30", 1000, 0)
