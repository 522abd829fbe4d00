// SPDX-License-Identifier: MIT
//! Threads that panic through a probed function now and then, and catch it.
//! The commands are those of e2e_hammer.c.
use std::io::BufRead;
use std::panic;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

static PAUSED: AtomicUsize = AtomicUsize::new(0);
static STANDING: AtomicUsize = AtomicUsize::new(0);

struct Dropped<'a>(&'a AtomicU64);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[no_mangle]
#[inline(never)]
pub fn hammered(x: u64, dropped: &AtomicU64) -> u64 {
    let _guard = Dropped(dropped);
    if x % 5000 == 4999 {
        panic::panic_any(x);
    }
    x.wrapping_mul(2654435761).wrapping_add(12345)
}

fn hammer(calls: &AtomicU64) {
    let dropped = AtomicU64::new(0);
    for i in 0u64.. {
        let r = panic::catch_unwind(|| hammered(i, &dropped));
        match r {
            Ok(v) => assert!(i % 5000 != 4999 && v == i.wrapping_mul(2654435761).wrapping_add(12345)),
            Err(e) => assert!(*e.downcast_ref::<u64>().unwrap() == i),
        }
        if dropped.load(SeqCst) != i + 1 {
            std::process::abort();
        }
        calls.store(i + 1, SeqCst);
        if PAUSED.load(SeqCst) != 0 {
            STANDING.fetch_add(1, SeqCst);
            while PAUSED.load(SeqCst) != 0 {
                thread::sleep(Duration::from_micros(500));
            }
            STANDING.fetch_sub(1, SeqCst);
        }
    }
}

fn wait_standing(n: usize) {
    while STANDING.load(SeqCst) != n {
        thread::sleep(Duration::from_micros(100));
    }
}

fn main() {
    let n: usize = std::env::args().nth(1).map_or(4, |a| a.parse().unwrap());
    let counters: Vec<Arc<AtomicU64>> = (0..n).map(|_| Arc::new(AtomicU64::new(0))).collect();
    panic::set_hook(Box::new(|_| {}));
    for c in &counters {
        let c = c.clone();
        thread::spawn(move || {
            hammer(&c);
        });
    }
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        match line.unwrap().as_str() {
            "pause" => {
                PAUSED.store(1, SeqCst);
                wait_standing(n);
                println!("paused");
            }
            "go" => {
                PAUSED.store(0, SeqCst);
                wait_standing(0);
                println!("going");
            }
            _ => println!("{}", counters.iter().map(|c| c.load(SeqCst)).sum::<u64>()),
        }
    }
}
