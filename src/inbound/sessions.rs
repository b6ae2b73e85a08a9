//! The open sessions of a shard, so that the stop, and a shard short of connections, can reach them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use super::pace::SCARCE_WAIT;
use crate::clock::Moment;
use crate::hash::HashState;
use crate::net::stream::Handle;

/// Least time between two looks for slow sessions.
const CUT_PAUSE: Duration = Duration::from_secs(1);

/// Open sessions of a shard, so that the stop can reach them.
#[derive(Default)]
pub struct Sessions {
    open: RefCell<HashMap<u64, Entry, HashState>>,
    next: Cell<u64>,
    /// When slow ones were last looked for.
    looked: Cell<Moment>,
    stopping: Cell<bool>,
}

struct Entry {
    handle: Handle,
    waiting: Rc<Waiting>,
}

/// What a session says of its wait for the client, for those who may have to end it.
#[derive(Default)]
pub(super) struct Waiting {
    /// In a transaction that is worth waiting for.
    pub(super) busy: Cell<bool>,
    /// Not to be cut short.
    pub(super) is_trusted: Cell<bool>,
    /// Waiting for the client: when our patience is over if connections are scarce.
    pub(super) scarce_by: Cell<Option<Moment>>,
    /// Waiting for it to read what we say.
    pub(super) is_writing: Cell<bool>,
    /// It was ended for that.
    pub(super) cut: Cell<bool>,
}

impl Sessions {
    /// Ends idle sessions with 421 now, and the others after their transaction.
    pub fn stop(&self) {
        self.stopping.set(true);
        for entry in self.open.borrow().values().filter(|entry| !entry.waiting.busy.get()) {
            entry.handle.shut_read();
        }
    }

    /// Ends all sessions with 421 as soon as they read.
    pub fn hurry(&self) {
        for entry in self.open.borrow().values() {
            entry.handle.shut_read();
        }
    }

    /// Ends all sessions as they are.
    pub fn shut(&self) {
        for entry in self.open.borrow().values() {
            entry.handle.shut_both();
        }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections are scarce: ends the sessions that have been slow for longer than is borne now. Sessions look for
    /// themselves when they begin to wait; this reaches those that already do.
    pub fn cut_slow(&self, now: Moment) {
        // Looking at all of them costs: not for each connection of a flood.
        if now.since(self.looked.get()) < CUT_PAUSE {
            return;
        }
        self.looked.set(now);
        for entry in self.open.borrow().values() {
            let waiting = &entry.waiting;
            if !waiting.is_trusted.get() && waiting.scarce_by.get().is_some_and(|by| by <= now) {
                waiting.cut.set(true);
                if waiting.is_writing.get() { entry.handle.shut_both() } else { entry.handle.shut_read() }
            }
        }
    }

    pub(super) fn enter(&self, handle: Handle, now: Moment) -> (u64, Rc<Waiting>) {
        let (key, waiting) = (self.next.get(), Rc::new(Waiting::default()));
        waiting.scarce_by.set(Some(now + SCARCE_WAIT));
        self.next.set(key + 1);
        self.open.borrow_mut().insert(key, Entry { handle, waiting: waiting.clone() });
        (key, waiting)
    }

    pub(super) fn leave(&self, key: u64) {
        self.open.borrow_mut().remove(&key);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }
}
