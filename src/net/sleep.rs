//! PURE. Who sleeps and who rings: the protocol under `doorbell`, small enough to be tried in every order (`cfg(loom)`).
//!
//! The receiver says that it sleeps, fences, and looks at its channels again before it does; a sender puts its message
//! in, fences, and looks whether the receiver sleeps. Whatever the order, one of them sees the other: this is the
//! store-buffering litmus test, which needs the full fence on both sides.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Whether a receiver sleeps.
#[derive(Debug, Default)]
pub struct Sleep(AtomicBool);

impl Sleep {
    /// The receiver means to sleep; `is_empty` looks into its channels. If there is something in them it must not.
    pub fn may_sleep(&self, is_empty: impl FnOnce() -> bool) -> bool {
        self.0.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        is_empty()
    }

    /// The receiver is awake: nobody needs to ring.
    pub fn wake(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    /// A sender, after its message is in: whether it is the one to ring.
    pub fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        // The plain load keeps the common case, a receiver that is awake, free of a read-modify-write.
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::SeqCst)
    }
}

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread as threads;

    /// The channel is a flag, and so is the bell: relaxed, so that nothing but the protocol orders them.
    #[test]
    fn a_receiver_that_sleeps_with_a_message_is_rung_for() {
        loom::model(|| {
            let sleep = Arc::new(Sleep(AtomicBool::new(false)));
            let sent = Arc::new(AtomicBool::new(false));
            let sender = {
                let (sleep, sent) = (sleep.clone(), sent.clone());
                threads::spawn(move || {
                    sent.store(true, Ordering::Relaxed);
                    sleep.must_ring()
                })
            };
            let slept = sleep.may_sleep(|| !sent.load(Ordering::Relaxed));
            if !slept {
                sleep.wake();
            }
            let rang = sender.join().expect("the sender does not panic");
            assert!(!slept || rang, "it sleeps, a message waits, and nobody rang");
        });
    }
}
