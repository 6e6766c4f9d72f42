//! Threads that stay awake while a plan runs.
//!
//! A decode step is some 150 short parallel sections with a little serial work between. There rayon's threads fall asleep, and waking one takes
//! about as long as a section.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a plan waits for threads to come. Those that come later do not stay.
const PATIENCE: Duration = Duration::from_micros(100);

/// Set in [`Watch::comers`] when nobody is let in any more.
const CLOSED: usize = 1 << (usize::BITS - 1);

#[derive(Default)]
struct Watch {
    /// Threads that stay.
    comers: AtomicUsize,
    over: AtomicBool,
}

impl Watch {
    fn enter(&self) -> bool {
        self.comers.fetch_add(1, Ordering::AcqRel) & CLOSED == 0
    }

    /// Takes work from the pool until the watch is over.
    fn stay(&self) {
        while !self.over.load(Ordering::Acquire) {
            if rayon::yield_now() != Some(rayon::Yield::Executed) {
                std::thread::yield_now();
            }
        }
    }

    /// Lets threads in for a while, until `expected` have come.
    fn gather(&self, expected: usize) {
        let start = Instant::now();
        while self.comers.load(Ordering::Acquire) < expected && start.elapsed() < PATIENCE {
            std::hint::spin_loop();
        }
        self.comers.fetch_or(CLOSED, Ordering::AcqRel);
    }
}

/// Ends the watch, whether the work returns or panics.
struct End<'a>(&'a Watch);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}

/// Runs `work` on a thread of the current pool; the others do not sleep meanwhile.
///
/// A thread stays only if it comes before `work` begins. It might otherwise wait for the end of `work` on top of a part of `work` that it had begun, and
/// neither would end.
pub(crate) fn keep<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let watch = Watch::default();
    rayon::scope(|scope| {
        let here = rayon::current_thread_index();
        let watch = &watch;
        let _end = End(watch);
        scope.spawn_broadcast(move |_, context| {
            if Some(context.index()) != here && watch.enter() {
                watch.stay();
            }
        });
        watch.gather(rayon::current_num_threads() - 1);
        work()
    })
}
