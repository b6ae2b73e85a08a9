//! A wake-up inside one executor: tasks wait, others notify. A notification is kept until somebody waits.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// One waiting task at a time; notifications coalesce.
#[derive(Clone, Default)]
pub struct Event(Rc<Inner>);

#[derive(Default)]
struct Inner {
    notified: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Event {
    /// Wakes the waiter, or lets the next wait return at once.
    pub fn notify(&self) {
        if !self.0.notified.replace(true)
            && let Some(waker) = self.0.waiter.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Whether both are the same event.
    pub fn is(&self, other: &Event) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Waits for a notification since the last one that was taken.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.0.notified.replace(false) {
                return Poll::Ready(());
            }
            let mut waiter = self.0.waiter.borrow_mut();
            match &mut *waiter {
                Some(waker) => waker.clone_from(context.waker()),
                None => *waiter = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }

    /// Waits for a notification, at most for `limit`; says whether there was one.
    pub async fn wait_for(&self, limit: Duration) -> bool {
        super::task::within(limit, self.wait()).await.is_some()
    }
}

/// Tasks that wait for a number of places: 0 places makes them wait, each release lets one go on.
#[derive(Clone, Default)]
pub struct WaitList(Rc<RefCell<Vec<Waker>>>);

impl WaitList {
    /// Wakes all that wait; they look again at what they wait for.
    pub fn wake_all(&self) {
        for waker in self.0.take() {
            waker.wake();
        }
    }

    /// Waits until `ready` gives a value; asked again after each [`Self::wake_all`].
    pub async fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| match ready() {
            Some(value) => Poll::Ready(value),
            None => {
                let mut waiting = self.0.borrow_mut();
                // A task that waits for something else too is polled more often than it is woken from here.
                if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                    waiting.push(context.waker().clone());
                }
                Poll::Pending
            }
        })
        .await
    }
}
