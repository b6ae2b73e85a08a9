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
