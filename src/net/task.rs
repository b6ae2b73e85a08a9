//! Tasks, timers and the clock of an executor.
//!
//! glommio leaks a task that is cancelled or dropped, and a panic in a task ends its thread. So: tasks are detached at
//! birth, end by themselves, and a panic costs the one task (and is counted); but in a task that everything else counts on
//! it ends the process, since a restart is safer than going on without it.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[cfg(feature = "simulation")]
use super::simulated::World;
use crate::clock::{Moment, Now, WallTime};

/// A turn longer than this is counted as a stall: everything else on the executor waited for it.
pub const STALL: Duration = Duration::from_millis(10);

thread_local! {
    static COUNTERS: TaskCounters = const { TaskCounters::new() };
}

/// What this thread's tasks have been doing.
#[derive(Debug)]
pub struct TaskCounters {
    live: Cell<u64>,
    panics: Cell<u64>,
    stalls: Cell<u64>,
    longest_turn_us: Cell<u64>,
}

/// A copy of the counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskStats {
    /// Tasks that have not ended.
    pub live: u64,
    /// Tasks that ended in a panic.
    pub panics: u64,
    /// Turns longer than [`STALL`].
    pub stalls: u64,
    /// Longest turn so far, microseconds.
    pub longest_turn_us: u64,
}

impl TaskCounters {
    const fn new() -> Self {
        Self { live: Cell::new(0), panics: Cell::new(0), stalls: Cell::new(0), longest_turn_us: Cell::new(0) }
    }
}

/// Counters of the calling thread.
pub fn stats() -> TaskStats {
    COUNTERS.with(|counters| TaskStats {
        live: counters.live.get(),
        panics: counters.panics.get(),
        stalls: counters.stalls.get(),
        longest_turn_us: counters.longest_turn_us.get(),
    })
}

/// Starts a task on the calling executor. It runs to its end: there is no way to cancel it.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    watch(future, false);
}

/// The same for a task without which the rest would wait for ever: a panic in it ends the process.
pub fn spawn_vital(future: impl Future<Output = ()> + 'static) {
    watch(future, true);
}

fn watch(future: impl Future<Output = ()> + 'static, vital: bool) {
    #[cfg(feature = "simulation")]
    if let Some(world) = World::current() {
        return world.spawn(future);
    }
    COUNTERS.with(|counters| counters.live.set(counters.live.get() + 1));
    glommio::spawn_local(Watched { future: Some(Box::pin(future)), vital }).detach();
}

/// A task's future, with its turns timed and its panics kept from the executor.
struct Watched<F> {
    future: Option<Pin<Box<F>>>,
    vital: bool,
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(future) = self.future.as_mut() else { return Poll::Ready(()) };
        let start = Instant::now();
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        let turn = start.elapsed();
        COUNTERS.with(|counters| {
            if turn > STALL {
                counters.stalls.set(counters.stalls.get() + 1);
            }
            let turn_us = u64::try_from(turn.as_micros()).unwrap_or(u64::MAX);
            counters.longest_turn_us.set(counters.longest_turn_us.get().max(turn_us));
            if let Ok(Poll::Pending) = polled {
                return Poll::Pending;
            }
            if polled.is_err() {
                if self.vital {
                    eprintln!("ringpost: a bug in a task that the relay needs; a restart recovers the queue");
                    std::process::abort();
                }
                counters.panics.set(counters.panics.get() + 1);
            }
            counters.live.set(counters.live.get().saturating_sub(1));
            // Destructors of what the task held run here; one that panics as well must not take the thread along.
            let future = self.future.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(future)));
            Poll::Ready(())
        })
    }
}

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Both clocks. The only place of the relay's path that asks the system for the time.
pub fn now() -> Now {
    #[cfg(feature = "simulation")]
    if let Some(world) = World::current() {
        return world.now();
    }
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // One second ahead of the start, so that "a moment ago" never falls below zero.
    let mono = EPOCH.elapsed() + Duration::from_secs(1);
    Now { wall: WallTime(wall.as_millis() as u64), mono: Moment(mono.as_micros() as u64) }
}

/// Waits.
pub async fn sleep(wait: Duration) {
    #[cfg(feature = "simulation")]
    if let Some(world) = World::current() {
        return world.sleep(wait).await;
    }
    glommio::timer::sleep(wait).await;
}

/// Lets the other ready tasks of this executor run.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The future's value, or `None` after `limit`. The future is polled inline and dropped, never a task.
pub async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    #[cfg(feature = "simulation")]
    if let Some(world) = World::current() {
        return world.within(limit, future).await;
    }
    let mut value = None;
    let done = glommio::timer::timeout(limit, async {
        value = Some(future.await);
        Ok(())
    })
    .await;
    done.ok().and(value)
}

/// Random bits: salts of segments, which bytes in a mail must not guess, and spreads of retries.
pub fn random() -> u64 {
    #[cfg(feature = "simulation")]
    if let Some(world) = World::current() {
        return world.random(|random| random.u64(..));
    }
    getrandom::u64().unwrap_or_else(|_| {
        // No entropy source: the clock differs from call to call, which is what stale blocks must not share.
        let now = now();
        (now.wall.0 << 20) ^ now.mono.0
    })
}
