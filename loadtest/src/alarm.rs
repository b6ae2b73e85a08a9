//! A timer that a poll can wait for, exact to microseconds: epoll's own time-out counts whole milliseconds, which would
//! make every message of an open loop late.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::clock::Micros;

/// Wakes its poll once, at a given time.
#[derive(Debug)]
pub struct Alarm {
    timer: OwnedFd,
    set_for: Option<Micros>,
}

impl Alarm {
    /// An alarm that is not set, known to a poll as `token`.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, set_for: None })
    }

    /// Wakes at `time`, at once if that has passed. Replaces an earlier time.
    pub fn set(&mut self, time: Micros) -> io::Result<()> {
        if self.set_for == Some(time) {
            return Ok(());
        }
        let part = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let it_value = Timespec { tv_sec: part(time / 1_000_000), tv_nsec: part(time % 1_000_000 * 1_000) };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval, it_value })?;
        self.set_for = Some(time);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn setting_it_again_wakes_again_without_reading_the_timer() -> io::Result<()> {
        let mut poll = mio::Poll::new()?;
        let mut alarm = Alarm::new(poll.registry(), Token(7))?;
        let mut events = mio::Events::with_capacity(4);
        for round in 1..4 {
            alarm.set(clock::now() - round)?;
            events.clear();
            while events.is_empty() {
                poll.poll(&mut events, None)?;
            }
            assert!(events.iter().all(|event| event.token() == Token(7)));
        }
        Ok(())
    }
}
