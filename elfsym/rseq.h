/* SPDX-License-Identifier: MIT */
/* Restartable sequences of a file; for code.c. */
#pragma once
#include "base/code_image.h"
#include "base/uerr.h"
#include "base/vec.h"

struct image;

typedef VEC(struct code_rseq) rseq_vec;

/* Adds to RET what the file says of its restartable sequences. */
struct uerr *rseq_read(const struct image *im, rseq_vec *ret) UERR_MUST_CHECK;
