//! Sessions that wait for the thread that checks passwords.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::hash::HashState;
use crate::id::ShardIndex;
use crate::net::event::WaitList;
use crate::users::Users;
use crate::users::question::{Answer, Asker, Evidence, Question};

/// Questions of a shard that are not answered yet.
pub struct Logins {
    shard: ShardIndex,
    /// `None` where nobody can log in.
    asker: Option<Asker>,
    open: RefCell<HashMap<u64, Option<Answer>, HashState>>,
    answered: WaitList,
    next: Cell<u64>,
}

impl Logins {
    /// Of one shard.
    pub fn new(shard: ShardIndex, asker: Option<Asker>) -> Self {
        Self { shard, asker, open: RefCell::default(), answered: WaitList::default(), next: Cell::new(0) }
    }

    /// Asks, and waits for the answer.
    pub async fn ask(&self, peer: IpAddr, user: &str, evidence: Evidence, users: &Arc<Users>) -> Answer {
        let Some(asker) = &self.asker else { return Answer::Refused };
        let ticket = self.next.get();
        self.next.set(ticket + 1);
        let (user, users) = (user.into(), users.clone());
        if !asker.ask(Question { shard: self.shard, ticket, peer, user, evidence, users }) {
            return Answer::Later;
        }
        self.open.borrow_mut().insert(ticket, None);
        self.answered.until(|| self.take(ticket)).await
    }

    fn take(&self, ticket: u64) -> Option<Answer> {
        let answer = self.open.borrow().get(&ticket).copied().flatten();
        if answer.is_some() {
            self.open.borrow_mut().remove(&ticket);
        }
        answer
    }

    /// An answer has come.
    pub fn answer(&self, ticket: u64, answer: Answer) {
        if let Some(open) = self.open.borrow_mut().get_mut(&ticket) {
            *open = Some(answer);
        }
        self.answered.wake_all();
    }
}
