//! The clocks that are measured with. State machines take the time as an argument; only drivers call this.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Microseconds of CLOCK_MONOTONIC. All processes of one host and boot share it, so a message can carry it.
pub type Micros = u64;

/// Now, on the monotonic clock.
pub fn now() -> Micros {
    read(ClockId::Monotonic)
}

/// CPU time (user and system) that the calling thread has used.
pub fn thread_cpu() -> Duration {
    Duration::from_micros(read(ClockId::ThreadCPUTime))
}

/// Time that the calling thread was ready to run and had no CPU; 0 if the kernel does not say (CONFIG_SCHED_INFO).
pub fn thread_waited() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    // Nanoseconds on a CPU, nanoseconds waiting for one, times it was given one.
    let waited = text.split_ascii_whitespace().nth(1).and_then(|word| word.parse().ok());
    Duration::from_nanos(waited.unwrap_or(0))
}

/// Seconds since 1970, for the Date header and for naming a run.
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn read(clock: ClockId) -> Micros {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanos / 1_000
}
