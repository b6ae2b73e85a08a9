//! Sessions that wait for the thread that checks passwords.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use super::limits::Act;
use super::session::Driver;
use crate::hash::HashState;
use crate::id::ShardIndex;
use crate::metrics::{LoginResult, RejectReason};
use crate::net;
use crate::net::event::WaitList;
use crate::protocol::reply;
use crate::protocol::sasl::Claim;
use crate::protocol::server::AuthOffer;
use crate::spool::storage::Storage;
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
    pub async fn ask(&self, user: &str, evidence: Evidence, users: &Arc<Users>) -> Answer {
        let Some(asker) = &self.asker else { return Answer::Refused };
        let ticket = self.next.get();
        self.next.set(ticket + 1);
        let (user, users) = (user.into(), users.clone());
        if !asker.ask(Question { shard: self.shard, ticket, user, evidence, users }) {
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

impl<S: Storage> Driver<'_, S> {
    /// Offers the ways to log in that this connection has now.
    pub(super) fn offer_auth(&mut self) {
        let offer = match self.listener.rules.users() {
            None => AuthOffer::None,
            Some(_) if !self.session.is_secured() && !self.is_in_cleartext_network() => AuthOffer::AfterTls,
            Some(_) if self.policy.certificate_user().is_some() => AuthOffer::PasswordsAndCertificate,
            Some(_) => AuthOffer::Passwords,
        };
        self.session.offer_auth(offer);
    }

    fn is_in_cleartext_network(&self) -> bool {
        self.is_known && (self.listener.cleartext)(self.peer)
    }

    /// Finds out whether the client is who it claims to be; `false` when the session is over.
    pub(super) async fn authenticate(&mut self) -> bool {
        let Some(users) = self.listener.rules.users() else {
            self.session.authenticated(Err(reply::NOT_OFFERED), &mut self.out);
            return true;
        };
        let counted = self.policy.pass.as_ref().map(|pass| pass.count(Act::AuthFailure, net::now().mono));
        if let Some(Err(excess)) = counted {
            self.inbound.metrics.logins[LoginResult::Limited].inc();
            self.reject(RejectReason::Auth);
            let refusal = self.refuse_excess(&excess);
            return self.close(&refusal).await;
        }
        let (user, evidence) = match self.session.claim().clone() {
            Claim::Password { user, password } => (user, Evidence::Password(password)),
            Claim::Proof { user, holds } => (user, Evidence::Decided(holds)),
            Claim::Certificate { user } => {
                let own = self.policy.certificate_user().map(|user| user.name.clone()).unwrap_or_default();
                let holds = !own.is_empty() && (user.is_empty() || user == own);
                (own, Evidence::Decided(holds))
            }
        };
        let answer = self.inbound.logins.ask(&user, evidence, users).await;
        if answer != Answer::Refused
            && let Some(pass) = &self.policy.pass
        {
            pass.take_back(Act::AuthFailure);
        }
        let (counted, result) = match answer {
            Answer::Granted => (LoginResult::Granted, Ok(&*user)),
            Answer::Refused => (LoginResult::Refused, Err(reply::BAD_CREDENTIALS)),
            Answer::Later => (LoginResult::Later, Err(reply::AUTH_LATER)),
        };
        self.inbound.metrics.logins[counted].inc();
        match &result {
            Ok(name) => self.policy.logged_in(name),
            Err(refusal) => self.log_refusal(RejectReason::Auth, refusal, user.clone()),
        }
        self.session.authenticated(result, &mut self.out);
        true
    }
}
