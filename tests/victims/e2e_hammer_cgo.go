// SPDX-License-Identifier: MIT

// With cgo: each round of e2e_hammer.go calls C as well, on the stack that Go keeps
// for it, and C calls Go back.
package main

/*
#include <stdint.h>
extern uint64_t goBack(uint64_t x);
static __attribute__((noipa)) uint64_t c_hammered(uint64_t x) { return x * 2654435761u + 12345; }
static __attribute__((noipa)) uint64_t c_and_back(uint64_t x) { return goBack(x) + 1; }
*/
import "C"

//export goBack
func goBack(x C.uint64_t) C.uint64_t { return C.uint64_t(hammeredByC(uint64(x))) }

//go:noinline
func hammeredByC(x uint64) uint64 { return x*2654435761 + 12345 }

func init() {
	viaC = func(x uint64) bool {
		want := x*2654435761 + 12345
		return uint64(C.c_hammered(C.uint64_t(x))) == want && uint64(C.c_and_back(C.uint64_t(x))) == want+1
	}
}
