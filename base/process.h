/* SPDX-License-Identifier: MIT */
/* What is to be known of a process before /proc is asked about it. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

/* The number under which /proc shows PID's memory, files and mappings: its own;
 * where its leader has ended and other threads go on, that of one of these (the
 * leader's entries are empty then). */
pid_t process_live_tid(pid_t pid);

/* Are A and B, two processes, one address space (CLONE_VM without CLONE_THREAD)?
 * False where that cannot be found out. */
bool process_same_memory(pid_t a, pid_t b);
