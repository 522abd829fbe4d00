/* SPDX-License-Identifier: MIT */
/*
 * Following a ring buffer (MapTail). A ring has one reader. While there is nothing
 * to read, a thread sleeps where writers wake it, so that nobody polls.
 */
#pragma once

struct tail;

/* The reader's thread says that there may be something. */
void tail_event(struct tail *tail);
