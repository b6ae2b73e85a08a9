//! What clients were told and when, and whether what a restart finds agrees with it: the law of the spool, in one place.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::id::MessageId;
use crate::spool::testing::Model;

/// What is known of a message; moments are numbers of events on its disk.
#[derive(Clone, Copy, Default)]
struct Entry {
    asked: usize,
    accepted: Option<usize>,
    /// From here on a settlement may be on disk, and from there on it is.
    settling: Option<usize>,
    settled: Option<usize>,
    /// The last outcome that is on disk, and since when.
    attempts: Option<(usize, u16)>,
}

/// Shared by everybody who tells clients something.
#[derive(Clone, Default)]
pub(super) struct Ledger(Rc<RefCell<BTreeMap<MessageId, Entry>>>);

impl Ledger {
    /// A ledger that begins with what a restart found.
    pub fn of(recovered: &Model) -> Self {
        let ledger = Self::default();
        for (id, (_, attempts)) in recovered.0.borrow().iter() {
            let entry = Entry { accepted: Some(0), attempts: Some((0, *attempts)), ..Entry::default() };
            ledger.0.borrow_mut().insert(*id, entry);
        }
        ledger
    }

    fn note(&self, id: MessageId, change: impl FnOnce(&mut Entry)) {
        change(self.0.borrow_mut().entry(id).or_default());
    }

    pub fn asked(&self, id: MessageId, at: usize) {
        self.note(id, |entry| entry.asked = at);
    }

    pub fn accepted(&self, id: MessageId, at: usize) {
        self.note(id, |entry| entry.accepted = Some(at));
    }

    pub fn settling(&self, id: MessageId, at: usize) {
        self.note(id, |entry| entry.settling = Some(at));
    }

    pub fn settled(&self, id: MessageId, at: usize) {
        self.note(id, |entry| entry.settled = Some(at));
    }

    pub fn deferred(&self, id: MessageId, at: usize, attempts: u16) {
        self.note(id, |entry| entry.attempts = Some((at, attempts)));
    }

    /// Whether the message was acknowledged within the first `events` events.
    pub fn knows(&self, events: usize, id: MessageId) -> bool {
        self.0.borrow().get(&id).is_some_and(|entry| entry.accepted.is_some_and(|at| at <= events))
    }

    /// How many clients were told 250.
    pub fn accepted_count(&self) -> usize {
        self.0.borrow().values().filter(|entry| entry.accepted.is_some()).count()
    }

    /// Whether `recovered` is what may be left of a disk whose power went off behind `events` events.
    pub fn judge(&self, events: usize, recovered: &Model) -> Result<(), String> {
        let by_then = |at: Option<usize>| at.is_some_and(|at| at <= events);
        let (entries, recovered) = (self.0.borrow(), recovered.0.borrow());
        for (id, entry) in entries.iter() {
            match recovered.get(id) {
                None if by_then(entry.accepted) && !by_then(entry.settling) => {
                    return Err(format!("event {events}: {id} was acknowledged and is lost"));
                }
                Some(_) if by_then(entry.settled) => {
                    return Err(format!("event {events}: {id} was settled, durably, and is back"));
                }
                Some((_, attempts)) => {
                    if let Some((_, least)) =
                        entry.attempts.filter(|(at, least)| *at <= events && attempts < least)
                    {
                        return Err(format!(
                            "event {events}: {id} had {least} attempts and is back at {attempts}"
                        ));
                    }
                }
                None => {}
            }
        }
        match recovered.keys().find(|id| entries.get(id).is_none_or(|entry| entry.asked > events)) {
            Some(id) => Err(format!("event {events}: nobody had sent {id}")),
            None => Ok(()),
        }
    }
}
