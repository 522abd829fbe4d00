/* SPDX-License-Identifier: MIT */
/* What plan.c and plan_insn.c share; inside the injector only. */
#pragma once
#include "injector/textscan.h"
#include "injector/window.h"

/* UERR_CANNOT_PROBE when [ADDR, ADDR + SIZE) does not lie in the file's code. */
struct uerr *plan_check_place(const struct textscan *scan, addr_t addr, u64 size) UERR_MUST_CHECK;

/* A breakpoint at the instruction at ADDR, if no punned jump needs its byte. */
enum window_fault plan_trap(const struct textscan *scan, addr_t addr, addr_t end, struct window *ret);

/* Is the function at ADDR the kernel's return from a signal handler? */
bool plan_is_sigreturn(const struct textscan *scan, addr_t addr);
