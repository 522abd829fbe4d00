/* SPDX-License-Identifier: MIT */
/*
 * Threads end anywhere, in the middle of an update or with a lock in hand. What they left
 * half done in maps is finished, and their records are free again.
 */
#pragma once
#include "daemon/daemon.h"

/* The process of T has ended, and its number may be another one's. */
bool target_is_gone(const struct target *t);
/* Of the dead among the threads of T and of those that share its records. Also before T is
 * forgotten, or where it has its maps. */
void recover_dead_threads(struct daemon *d, const struct target *t);
/* T is gone. */
void recover_ended(struct daemon *d, const struct target *t);
