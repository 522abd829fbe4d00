// SPDX-License-Identifier: MIT

// Goroutines that call methods without a pause, deep in recursion so that their
// stacks move, while others make garbage and the scheduler preempts them. The
// commands are those of e2e_hammer.c.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"
)

type counter struct {
	calls uint64
	pad   [56]byte
}

// T has a method to be probed under its Go name.
type T struct{ add uint64 }

//go:noinline
func (t *T) Get(x uint64) uint64 {
	return x*2654435761 + t.add
}

//go:noinline
func hammered(x uint64) uint64 {
	return x*2654435761 + 12345
}

// Nine arguments: those of ABIInternal's registers.
//
//go:noinline
func nine(a, b, c, d, e, f, g, h, i int) int {
	return a + 2*b + 3*c + 4*d + 5*e + 6*f + 7*g + 8*h + 9*i
}

// A frame large enough that the stack grows every few levels. The pointer into
// the stack must be found and moved.
//
//go:noinline
func deep(n int, p *uint64) uint64 {
	var room [100]uint64
	here := *p + 1
	room[n%100] = here
	if n == 0 {
		return room[0]
	}
	r := deep(n-1, &here)
	if room[n%100] != here {
		panic("the stack was damaged")
	}
	return r
}

// With e2e_hammer_cgo.go: calls C, and tells whether the results are right.
var viaC func(x uint64) bool

var paused, standing int32
var garbage atomic.Value

//go:noinline
func leaf(x uint64) uint64 { return hammered(x) }

func hammer(c *counter) {
	t := &T{12345}
	for i := uint64(0); ; i++ {
		if leaf(i) != i*2654435761+12345 || t.Get(i) != i*2654435761+12345 {
			panic("wrong result")
		}
		if viaC != nil && !viaC(i) {
			panic("wrong result of C")
		}
		atomic.StoreUint64(&c.calls, i+1)
		if i%20000 == 0 {
			done := make(chan uint64)
			go func() {
				zero := uint64(i)
				done <- deep(200, &zero)
			}()
			if <-done != i+201 {
				panic("wrong depth")
			}
			garbage.Store(make([]*T, 1000))
		}
		if i%100 == 0 {
			if atomic.LoadInt32(&paused) != 0 {
				atomic.AddInt32(&standing, 1)
				for atomic.LoadInt32(&paused) != 0 {
					time.Sleep(500 * time.Microsecond)
				}
				atomic.AddInt32(&standing, -1)
			}
		}
	}
}

func main() {
	n := 4
	if len(os.Args) > 1 {
		n, _ = strconv.Atoi(os.Args[1])
	}
	counters := make([]counter, n)
	for i := range counters {
		go hammer(&counters[i])
	}
	go func() {
		for {
			runtime.GC()
			time.Sleep(time.Millisecond)
		}
	}()
	time.Sleep(time.Millisecond) // the runtime opens its descriptors
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "pause":
			atomic.StoreInt32(&paused, 1)
			for atomic.LoadInt32(&standing) != int32(n) {
				time.Sleep(100 * time.Microsecond)
			}
			fmt.Println("paused")
		case "go":
			atomic.StoreInt32(&paused, 0)
			for atomic.LoadInt32(&standing) != 0 {
				time.Sleep(100 * time.Microsecond)
			}
			fmt.Println("going")
		case "nine":
			fmt.Println(nine(1, 2, 3, 4, 5, 6, 7, 8, 9))
		default:
			sum := uint64(0)
			for i := range counters {
				sum += atomic.LoadUint64(&counters[i].calls)
			}
			fmt.Println(sum)
		}
	}
}
