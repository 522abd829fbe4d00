/* SPDX-License-Identifier: MIT */
/* write(2) until all is written. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* N bytes to FD, which blocks; false with errno, and some may be written. */
bool write_all(int fd, const void *buf, size_t n);
