//! Channels into an executor, and the one bell that wakes it.
//!
//! A role has one [`Inbox`]: every channel into it rings the same bell. Between threads a channel is a bounded
//! crossbeam channel; a sender rings (one `write` to an eventfd) only when the receiver said that it sleeps. Inside one
//! thread a channel is a queue and a wake-up of the task.
//!
//! No wake-up is lost: `sleep` has the protocol, and is tried in every order; `tests` here runs it under real threads.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use crossbeam_channel as channel;

use super::event::Event;
use super::fd;
#[cfg(feature = "simulation")]
use super::simulated::World;
use super::sleep::Sleep;

/// The side of a bell that other threads hold.
#[derive(Clone)]
pub struct Ringer(Arc<Bell>);

struct Bell {
    sleep: Sleep,
    wake: Wake,
}

/// What wakes the executor.
enum Wake {
    Eventfd(OwnedFd),
    #[cfg(feature = "simulation")]
    Simulated(u64),
}

impl Ringer {
    /// A new bell. Its receiving side is made from the same value on the thread that will wait.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Bell { sleep: Sleep::default(), wake: Wake::new()? })))
    }

    /// Wakes the receiver if it sleeps. To be called after a message has been put where the receiver will look.
    pub fn ring(&self) {
        if self.0.sleep.must_ring() {
            self.0.wake.wake();
        }
    }
}

impl Wake {
    fn new() -> io::Result<Self> {
        #[cfg(feature = "simulation")]
        if let Some(world) = World::current() {
            return Ok(Self::Simulated(world.make_bell()));
        }
        let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        Ok(Self::Eventfd(eventfd))
    }

    fn wake(&self) {
        match self {
            Self::Eventfd(eventfd) => {
                // Can fail only if the counter is about to overflow, which takes 2^64 unread rings.
                let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
            }
            #[cfg(feature = "simulation")]
            Self::Simulated(bell) => {
                if let Some(world) = World::current() {
                    world.ring_bell(*bell);
                }
            }
        }
    }
}

/// Where a role waits for its messages.
#[derive(Clone)]
pub struct Inbox {
    bell: Ringer,
    event: Event,
    counts: Rc<Cell<BellCounts>>,
}

/// How often a role slept and was woken by a bell.
#[derive(Clone, Copy, Debug, Default)]
pub struct BellCounts {
    /// Times that the role said it sleeps.
    pub sleeps: u64,
    /// Times that another thread woke it.
    pub rings: u64,
}

impl Inbox {
    /// The receiving side of `bell` on this executor. Starts the task that listens to the bell.
    pub fn new(bell: Ringer) -> io::Result<Self> {
        let inbox = Self { bell: bell.clone(), event: Event::default(), counts: Rc::default() };
        match &bell.0.wake {
            Wake::Eventfd(eventfd) => inbox.listen(eventfd.try_clone()?),
            #[cfg(feature = "simulation")]
            Wake::Simulated(bell) => {
                if let Some(world) = World::current() {
                    world.answer_bell(*bell, inbox.event.clone());
                }
            }
        }
        Ok(inbox)
    }

    fn listen(&self, eventfd: OwnedFd) {
        let file = fd::event_file(eventfd);
        let (event, counts) = (self.event.clone(), self.counts.clone());
        super::spawn_vital(async move {
            // One read at a time, each awaited to its end: glommio's executor dies when a file future is polled too
            // often. It ends with the executor.
            loop {
                if file.read_at(0, 8).await.is_err() {
                    // One failed read must not silence the bell for good: the role looks at what there is, and goes on.
                    super::sleep(std::time::Duration::from_millis(1)).await;
                }
                counts.set(BellCounts { rings: counts.get().rings + 1, ..counts.get() });
                event.notify();
            }
        });
    }

    /// The event that tasks of this executor notify to wake the role.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Sleeps and wakes so far.
    pub fn counts(&self) -> BellCounts {
        self.counts.get()
    }

    /// Waits for a bell, a notification, or the end of `limit`. `is_empty` looks into all channels of the role.
    pub async fn wait(&self, limit: Option<std::time::Duration>, is_empty: impl Fn() -> bool) {
        if self.bell.0.sleep.may_sleep(is_empty) {
            self.counts.set(BellCounts { sleeps: self.counts.get().sleeps + 1, ..self.counts.get() });
            match limit {
                Some(limit) => drop(self.event.wait_for(limit).await),
                None => self.event.wait().await,
            }
        }
        self.bell.0.sleep.wake();
    }
}

/// Sends into a role. A message that does not fit comes back.
pub enum Sender<T> {
    /// To another thread.
    Remote {
        /// The channel.
        sender: channel::Sender<T>,
        /// The bell of the receiving role.
        bell: Ringer,
    },
    /// To a role on the same executor.
    Local {
        /// The queue, shared with the receiver.
        queue: Rc<RefCell<VecDeque<T>>>,
        /// Most messages in it.
        capacity: usize,
        /// Wakes the receiving role.
        event: Event,
    },
}

impl<T> Sender<T> {
    /// Puts a message in without waiting.
    pub fn send(&self, message: T) -> Result<(), T> {
        match self {
            Self::Remote { sender, bell } => {
                sender.try_send(message).map_err(channel::TrySendError::into_inner)?;
                bell.ring();
            }
            Self::Local { queue, capacity, event } => {
                let mut queue = queue.borrow_mut();
                if queue.len() >= *capacity {
                    return Err(message);
                }
                queue.push_back(message);
                event.notify();
            }
        }
        Ok(())
    }

    /// Messages that still fit. Only this sender's own messages can make it less.
    pub fn room(&self) -> usize {
        match self {
            Self::Remote { sender, .. } => sender.capacity().unwrap_or(usize::MAX) - sender.len(),
            Self::Local { queue, capacity, .. } => capacity.saturating_sub(queue.borrow().len()),
        }
    }
}

/// Receives in a role.
pub enum Receiver<T> {
    /// From another thread.
    Remote(channel::Receiver<T>),
    /// From a role on the same executor.
    Local(Rc<RefCell<VecDeque<T>>>),
}

impl<T> Receiver<T> {
    /// The next message, if there is one.
    pub fn try_recv(&self) -> Option<T> {
        match self {
            Self::Remote(receiver) => receiver.try_recv().ok(),
            Self::Local(queue) => queue.borrow_mut().pop_front(),
        }
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        match self {
            Self::Remote(receiver) => receiver.len(),
            Self::Local(queue) => queue.borrow().len(),
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Remote(receiver) => receiver.is_empty(),
            Self::Local(queue) => queue.borrow().is_empty(),
        }
    }
}

/// A channel between two roles on the same executor; `event` wakes the receiving one.
pub fn local<T>(capacity: usize, event: &Event) -> (Sender<T>, Receiver<T>) {
    let queue = Rc::new(RefCell::new(VecDeque::new()));
    (Sender::Local { queue: queue.clone(), capacity, event: event.clone() }, Receiver::Local(queue))
}

/// A sender to another thread that any thread may hold, unlike [`Sender`], which may be of the local kind.
pub struct RemoteSender<T> {
    sender: channel::Sender<T>,
    bell: Ringer,
}

impl<T> Clone for RemoteSender<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), bell: self.bell.clone() }
    }
}

impl<T> RemoteSender<T> {
    /// Puts a message in without waiting; a message that does not fit comes back.
    pub fn send(&self, message: T) -> Result<(), T> {
        self.sender.try_send(message).map_err(channel::TrySendError::into_inner)?;
        self.bell.ring();
        Ok(())
    }
}

impl<T> From<RemoteSender<T>> for Sender<T> {
    fn from(remote: RemoteSender<T>) -> Self {
        Self::Remote { sender: remote.sender, bell: remote.bell }
    }
}

/// A channel to the role that waits at `bell`.
pub fn remote<T>(capacity: usize, bell: &Ringer) -> (RemoteSender<T>, channel::Receiver<T>) {
    let (sender, receiver) = channel::bounded(capacity);
    (RemoteSender { sender, bell: bell.clone() }, receiver)
}

/// The same without a bound, for what is bounded by other means.
pub fn remote_unbounded<T>(bell: &Ringer) -> (RemoteSender<T>, channel::Receiver<T>) {
    let (sender, receiver) = channel::unbounded();
    (RemoteSender { sender, bell: bell.clone() }, receiver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{self, executor};
    use std::time::{Duration, Instant};

    const MESSAGES: u32 = 200_000;
    /// A wake-up that is lost stops both sides for good; nothing else takes this long.
    const FOR_EVER: Duration = Duration::from_secs(60);

    /// Busy for 0 to about 2,000 turns of a loop, mostly few: the pauses that make the sides miss each other.
    fn pause(seed: &mut u64) {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let turns = if (*seed >> 60) == 0 { (*seed >> 40) % 2_000 } else { (*seed >> 40) % 16 };
        (0..turns).for_each(|_| std::hint::spin_loop());
    }

    /// Sends `MESSAGES` and receives as many, by turns; sleeps whenever there is nothing to do.
    async fn play(bell: Ringer, to: RemoteSender<u32>, from: channel::Receiver<u32>, mut seed: u64) {
        let inbox = Inbox::new(bell).expect("an eventfd");
        let (mut sent, mut received) = (0, 0);
        while sent < MESSAGES || received < MESSAGES {
            let before = (sent, received);
            // What went out is at most eight ahead of what came in, so that the sides keep waiting for each other.
            if sent < MESSAGES && sent < received + 8 && to.send(sent).is_ok() {
                sent += 1;
            }
            pause(&mut seed);
            while let Ok(message) = from.try_recv() {
                assert_eq!(message, received, "in order, each once");
                received += 1;
            }
            if before == (sent, received) {
                inbox.wait(None, || from.is_empty()).await;
            } else if sent % 64 == 0 {
                net::yield_now().await;
            }
        }
    }

    #[test]
    fn no_wake_up_is_lost_between_threads_that_keep_falling_asleep() {
        if let Err(error) = executor::check_host(2) {
            eprintln!("SKIP no_wake_up_is_lost: {error}");
            return;
        }
        let bells = [Ringer::new().expect("an eventfd"), Ringer::new().expect("an eventfd")];
        let (to_first, at_first) = remote(16, &bells[0]);
        let (to_second, at_second) = remote(16, &bells[1]);
        let [first, second] = bells;
        let threads = [
            executor::start("first", None, move || play(first, to_second, at_first, 1)).expect("starts"),
            executor::start("second", None, move || play(second, to_first, at_second, 2)).expect("starts"),
        ];
        let began = Instant::now();
        while !threads.iter().all(std::thread::JoinHandle::is_finished) {
            assert!(began.elapsed() < FOR_EVER, "a wake-up was lost: both sides sleep");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        threads.into_iter().for_each(|thread| thread.join().expect("no assertion failed"));
    }
}
