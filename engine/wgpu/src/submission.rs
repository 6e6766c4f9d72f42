//! What is under way on the device, and how much work one submission may hold.
//!
//! Operating systems reset a device whose queue stands still for about two seconds, so a long recording is cut into submissions. How
//! long one takes is estimated from its work and a rate that follows from how long earlier ones took.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use longwave_contract::BackendError;

use crate::device::Gpu;

/// What a submission should take at most. An estimate may be wrong by a factor of three before the device stands still for a third of a
/// second.
const TARGET: f64 = 0.1;
/// Seconds that a dispatch costs beside its work.
const DISPATCH: f64 = 10e-6;
/// Multiply-adds a second that are assumed at first: a slow software driver's.
const FIRST_RATE: f64 = 1e9;
/// A submission of this many seconds is work, not overhead, and may lower the rate.
const TELLING: f64 = 0.03;
/// A wait of this length has seen the end of the submission, and not only found that it had ended.
const SEEN: Duration = Duration::from_micros(50);
/// A call to submit that takes this long has waited for the device.
const BLOCKED: Duration = Duration::from_millis(1);
/// Submissions that may be under way: a bound on memory and on how far the host runs ahead.
const AHEAD: usize = 16;
/// Dispatches of a submission while the device stands still: few, so that it begins while the host encodes the rest.
const FIRST: usize = 48;
/// Dispatches of every other submission.
const OTHERS: usize = 192;

/// Estimates how long work takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Multiply-adds a second.
    rate: f64,
}

impl Pace {
    const fn new() -> Self {
        Pace { rate: FIRST_RATE }
    }

    /// Seconds of one dispatch.
    pub(crate) fn seconds(&self, work: u64) -> f64 {
        work as f64 / self.rate + DISPATCH
    }

    /// Whether a submission that already holds work of `seconds` has no room for `more`.
    pub(crate) fn is_full(seconds: f64, more: f64) -> bool {
        seconds + more > TARGET
    }

    /// Learns from a submission: from a slow one at once, from a quick one by at most a factor of two, since the next may hold slower
    /// kernels.
    fn learn(&mut self, work: u64, seconds: f64) {
        if work == 0 {
            return;
        }
        let measured = work as f64 / seconds.max(1e-6);
        if measured > self.rate {
            self.rate = measured.min(self.rate * 2.0);
        } else if seconds > TELLING {
            self.rate = measured.max(1e3);
        }
    }
}

/// A submission that has not been waited for.
#[derive(Debug)]
struct Pending {
    serial: u64,
    index: wgpu::SubmissionIndex,
    work: u64,
    at: Instant,
    /// Whether nothing else was under way, so that it began when it was submitted.
    first: bool,
}

/// Commands that have been encoded and not submitted: a submission costs as much as several dispatches, so runs and copies share one.
#[derive(Debug)]
struct Open {
    encoder: wgpu::CommandEncoder,
    dispatches: usize,
    work: u64,
    seconds: f64,
}

/// The submissions of a backend, numbered from 1.
#[derive(Debug)]
pub(crate) struct Submissions {
    last: u64,
    open: Option<Open>,
    /// Why a submission failed, by its number: whoever waits for it must know.
    failed: Option<(u64, BackendError)>,
    pending: VecDeque<Pending>,
    pace: Pace,
    /// When the last one that was waited for ended, where the wait saw it.
    seen: Option<Instant>,
    /// Submissions after which a test loses the device.
    lose_after: Option<u64>,
}

impl Submissions {
    pub(crate) fn new(lose_after: Option<u64>) -> Self {
        Submissions {
            last: 0,
            open: None,
            failed: None,
            pending: VecDeque::new(),
            pace: Pace::new(),
            seen: None,
            lose_after,
        }
    }

    /// How long work takes.
    pub(crate) fn pace(&self) -> Pace {
        self.pace
    }

    /// The number of the last submission; 0 before the first.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// The number of the submission that holds, or will hold, everything that was encoded so far.
    pub(crate) fn newest(&self) -> u64 {
        self.last + u64::from(self.open.is_some())
    }

    /// Whether commands wait to be submitted.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Where the next commands go. They are submitted with what comes after them, at the latest when something waits for them.
    pub(crate) fn encoder(&mut self, gpu: &Gpu) -> &mut wgpu::CommandEncoder {
        let open = self.open.get_or_insert_with(|| Open {
            encoder: gpu.device.create_command_encoder(&Default::default()),
            dispatches: 0,
            work: 0,
            seconds: 0.0,
        });
        &mut open.encoder
    }

    /// How many of the next dispatches, by their work, the open submission takes: none when it is full, at least one when it is empty, since
    /// a dispatch cannot be cut.
    pub(crate) fn room(&self, works: impl Iterator<Item = u64>) -> usize {
        let most = match self.pending.is_empty() {
            true => FIRST,
            false => OTHERS,
        };
        let (taken, mut seconds) = self
            .open
            .as_ref()
            .map_or((0, 0.0), |open| (open.dispatches, open.seconds));
        let fitting = works.take(most.saturating_sub(taken)).take_while(|work| {
            let more = self.pace.seconds(*work);
            let fits = !Pace::is_full(seconds, more);
            seconds += more;
            fits
        });
        fitting.count().max(usize::from(taken == 0))
    }

    /// Counts dispatches that were encoded.
    pub(crate) fn add(&mut self, works: impl Iterator<Item = u64>) {
        let pace = self.pace;
        if let Some(open) = &mut self.open {
            for work in works {
                open.dispatches += 1;
                open.work = open.work.saturating_add(work);
                open.seconds += pace.seconds(work);
            }
        }
    }

    /// Submits what was encoded, and everything that was written before, and returns the number of the last submission.
    ///
    /// # Errors
    /// What the driver refused, or that the device is lost.
    pub(crate) fn flush(&mut self, gpu: &Gpu) -> Result<u64, BackendError> {
        match self.open.is_some() {
            false => Ok(self.last),
            true => self.submit_open(gpu, None),
        }
    }

    /// Submits what was encoded, and after it commands that hold some work.
    fn submit_open(
        &mut self,
        gpu: &Gpu,
        ready: Option<(wgpu::CommandBuffer, u64)>,
    ) -> Result<u64, BackendError> {
        let open = self.open.take();
        let promised = open.as_ref().map(|_| self.last + 1);
        let open = open.map(|open| (open.encoder.finish(), open.work));
        let (commands, works): (Vec<_>, Vec<u64>) = open.into_iter().chain(ready).unzip();
        let work = works.into_iter().fold(0, u64::saturating_add);
        let submitted = self.submit(gpu, commands, work);
        if let (Err(error), Some(serial)) = (&submitted, promised) {
            // Runs were promised this number.
            self.last = serial;
            self.failed = Some((serial, error.clone()));
        }
        submitted
    }

    /// Whether one submission may hold all of this work. How many dispatches it has only matters while the device waits for them to be encoded.
    pub(crate) fn holds(&self, works: impl Iterator<Item = u64>) -> bool {
        let seconds = works.map(|work| self.pace.seconds(work)).sum();
        !Pace::is_full(0.0, seconds)
    }

    /// Submits what was encoded and then commands that were encoded long before, which hold `work` multiply-adds, and returns their number.
    ///
    /// # Errors
    /// What the driver refused, or that the device is lost.
    pub(crate) fn submit_ready(
        &mut self,
        gpu: &Gpu,
        commands: wgpu::CommandBuffer,
        work: u64,
    ) -> Result<u64, BackendError> {
        let seconds = self.open.as_ref().map_or(0.0, |open| open.seconds);
        if Pace::is_full(seconds, self.pace.seconds(work)) {
            self.flush(gpu)?;
        }
        self.submit_open(gpu, Some((commands, work)))
    }

    /// Submits commands that hold `work` multiply-adds, after all that came before them.
    fn submit(
        &mut self,
        gpu: &Gpu,
        commands: Vec<wgpu::CommandBuffer>,
        work: u64,
    ) -> Result<u64, BackendError> {
        while self.pending.len() >= AHEAD {
            self.wait_first(gpu)?;
        }
        if self.lose_after.is_some_and(|limit| self.last >= limit) {
            gpu.device.destroy();
            gpu.wait(None)?;
        }
        let first = self.pending.is_empty();
        let at = Instant::now();
        let index = gpu.queue.submit(commands);
        let took = at.elapsed();
        gpu.faults.check()?;
        self.last += 1;
        self.pending.push_back(Pending {
            serial: self.last,
            index,
            work,
            at,
            first,
        });
        if took > BLOCKED {
            self.take_ended(gpu)?;
        }
        Ok(self.last)
    }

    /// Waits until the submission of this number and all before it have ended.
    ///
    /// # Errors
    /// As [`Gpu::wait`].
    pub(crate) fn wait(&mut self, gpu: &Gpu, serial: u64) -> Result<(), BackendError> {
        if serial > self.last {
            self.flush(gpu)?;
        }
        if let Some((failed, error)) = &self.failed
            && *failed == serial
        {
            return Err(error.clone());
        }
        // One after another: the time limit is one submission's, not that of all.
        while self
            .pending
            .front()
            .is_some_and(|first| first.serial <= serial)
        {
            self.wait_first(gpu)?;
        }
        gpu.faults.check()
    }

    fn wait_first(&mut self, gpu: &Gpu) -> Result<(), BackendError> {
        let Some(pending) = self.pending.pop_front() else {
            return gpu.faults.check();
        };
        let before = Instant::now();
        gpu.wait(Some(pending.index.clone()))?;
        let ended = Instant::now();
        let seen = ended.duration_since(before) > SEEN;
        self.account(&pending, seen.then_some(ended));
        Ok(())
    }

    /// Takes what has ended while a call to submit blocked. Drivers that let only one submission wait, as software drivers do, block until
    /// the one before has ended, and nothing is left to wait for later.
    fn take_ended(&mut self, gpu: &Gpu) -> Result<(), BackendError> {
        let mut ended = Vec::new();
        while let Some(pending) = self.pending.front() {
            if !gpu.ended(pending.index.clone())? {
                break;
            }
            ended.extend(self.pending.pop_front());
        }
        let now = Instant::now();
        match ended.as_slice() {
            [] => {}
            [one] => self.account(one, Some(now)),
            // Of several, only the last one's end is known.
            _ => self.seen = Some(now),
        }
        Ok(())
    }

    /// Learns from a submission whose end was seen, when its beginning is known too.
    fn account(&mut self, pending: &Pending, ended: Option<Instant>) {
        let began = match (pending.first, self.seen) {
            (true, _) => Some(pending.at),
            (false, Some(seen)) => Some(seen.max(pending.at)),
            (false, None) => None,
        };
        if let (Some(began), Some(ended)) = (began, ended) {
            let seconds = ended.saturating_duration_since(began).as_secs_f64();
            self.pace.learn(pending.work, seconds);
        }
        self.seen = ended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_submission_lowers_the_rate_at_once_and_a_quick_one_raises_it_in_steps() {
        let mut pace = Pace { rate: 1e9 };
        pace.learn(1_000_000_000, 0.01);
        assert_eq!(pace.rate, 2e9);
        pace.learn(1_000_000_000, 10.0);
        assert_eq!(pace.rate, 1e8);
        // Overhead says nothing about the rate.
        pace.learn(10, 0.001);
        assert_eq!(pace.rate, 1e8);
        pace.learn(0, 1.0);
        assert_eq!(pace.rate, 1e8);
    }

    #[test]
    fn a_submission_is_full_at_the_target() {
        let pace = Pace { rate: 1e9 };
        let each = pace.seconds(20_000_000);
        assert!(!Pace::is_full(3.0 * each, each));
        assert!(Pace::is_full(4.0 * each, each));
    }
}
