//! Delivery into Maildirs: what takes the place of a connection. The files are written by threads of control, for a worker
//! must never wait for a disk; here a message is given to them piece by piece, and its recipients get their results.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::content::Content;
use super::job::{ActiveJob, count_results};
use super::path::{PathState, Waited};
use super::pool::Pool;
use crate::hash::HashState;
use crate::id::WorkerIndex;
use crate::mailboxes::store::{Answer, Begin, Piece, Request, Store, Stored, Ticket};
use crate::net;
use crate::net::event::WaitList;
use crate::outcome::{Enhanced, LegResult, Reply, Verdict};
use crate::spool::storage::Storage;

/// What results name as the remote.
const REMOTE: &str = "maildir";
/// How often a delivery that waits for its thread looks whether it still may.
const LOOK: Duration = Duration::from_secs(1);
/// Looks that a stop leaves it: a little less than a stop waits before it shuts connections.
const LOOKS_AT_STOP: u32 = 5;
/// Pause before a request that found no room is made again.
const ROOM_PAUSE: Duration = Duration::from_millis(10);

/// Deliveries of a worker that wait for the threads.
pub struct Stores {
    worker: WorkerIndex,
    /// `None` where no route leads into Maildirs.
    store: Option<Store>,
    open: RefCell<HashMap<u64, Option<Answer>, HashState>>,
    answered: WaitList,
    next: Cell<u64>,
}

impl Stores {
    /// Of one worker.
    pub fn new(worker: WorkerIndex, store: Option<Store>) -> Self {
        Self { worker, store, open: RefCell::default(), answered: WaitList::default(), next: Cell::new(0) }
    }

    fn take(&self, number: u64) -> Option<Answer> {
        self.open.borrow_mut().get_mut(&number)?.take()
    }
}

/// A delivery's number; its answers are no longer waited for when this is dropped.
struct Waiting<'a> {
    stores: &'a Stores,
    ticket: Ticket,
    /// Not all has been said that ends it.
    unfinished: bool,
}

impl<'a> Waiting<'a> {
    fn new(stores: &'a Stores) -> Self {
        let number = stores.next.get();
        stores.next.set(number + 1);
        stores.open.borrow_mut().insert(number, None);
        Self { stores, ticket: Ticket { worker: stores.worker, number }, unfinished: false }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.stores.open.borrow_mut().remove(&self.ticket.number);
        if let (true, Some(store)) = (self.unfinished, &self.stores.store) {
            // No room for it: its file in `tmp` stays open for as long as the process lives.
            let _ = store.ask(Request::Abandon(self.ticket));
        }
    }
}

impl<S: Storage> Pool<S> {
    /// A thread has answered.
    pub fn stored(&self, number: u64, answer: Answer) {
        let stores = &self.wiring.stores;
        if let Some(open) = stores.open.borrow_mut().get_mut(&number) {
            *open = Some(answer);
        }
        stores.answered.wake_all();
    }
}

/// A place among the path's connections; given back however its task ends.
struct Place<'a, S: Storage>(&'a PathState<S>);

impl<'a, S: Storage> Place<'a, S> {
    fn new(path: &'a PathState<S>) -> Self {
        path.lane.borrow_mut().set_ready(true);
        Self(path)
    }
}

impl<S: Storage> Drop for Place<'_, S> {
    fn drop(&mut self) {
        self.0.lane.borrow_mut().set_ready(false);
    }
}

/// A job that was taken from the lane; counted off however it ends.
struct Taken<'a, S: Storage>(&'a PathState<S>);

impl<S: Storage> Drop for Taken<'_, S> {
    fn drop(&mut self) {
        self.0.lane.borrow_mut().finished();
    }
}

/// Takes jobs of the path, one at a time, until there are none for a while.
pub async fn run<S: Storage>(pool: &Rc<Pool<S>>, path: &Rc<PathState<S>>) {
    let _place = Place::new(path);
    let spec = path.lane.borrow().spec().clone();
    pool.path_succeeded(spec.id);
    while !pool.is_stopping() && !path.lane.borrow().is_over_lease() {
        let Some(job) = path.take(None) else {
            match path.wait_for_job(spec.limits.idle, std::future::pending::<()>()).await {
                Waited::Job => continue,
                Waited::InVain | Waited::Other(()) => return,
            }
        };
        let taken = Taken(path);
        deliver(pool, path, job).await;
        drop(taken);
        pool.upkeep(spec.id);
    }
}

async fn deliver<S: Storage>(pool: &Rc<Pool<S>>, path: &PathState<S>, mut job: ActiveJob<S>) {
    let loaded = Content::load(pool, &job).await;
    job.begin(net::now().mono);
    pool.metrics().transactions.inc();
    let all = job.job().recipients;
    let deferred = |reply| vec![LegResult { recipients: all, verdict: Verdict::Deferred, reply }];
    let (results, in_doubt) = match loaded {
        Err(error) => (deferred(Reply::new(0, Enhanced(4, 3, 0), &error.to_string())), 0),
        Ok(content) => {
            let (places, recipients): (Vec<_>, Vec<_>) = content
                .recipients(&job)
                .map(|(place, recipient)| (1u64 << place, Box::from(recipient.mailbox)))
                .unzip();
            let envelope = content.envelope();
            let begin =
                Begin { sender: envelope.sender().into(), recipients, binary: envelope.parameters().binary };
            match send(pool, &content, begin).await {
                Sent::Stored(stored) => (results_of(&places, stored), 0),
                Sent::NotBegun => (Vec::new(), 0),
                Sent::Lost { text, is_in_doubt } => {
                    (deferred(Reply::new(0, Enhanced(4, 3, 0), &text)), if is_in_doubt { all } else { 0 })
                }
            }
        }
    };
    for result in results.iter().filter(|result| !result.verdict.is_success()) {
        path.note_error(&result.reply, net::now().mono);
    }
    count_results(pool.metrics(), &results, in_doubt);
    job.finish(results, Arc::from(REMOTE));
}

/// How the threads left a delivery.
enum Sent {
    Stored(Vec<Stored>),
    /// The stop came before anything was said.
    NotBegun,
    /// No answer came, or there is no more to say.
    Lost {
        text: String,
        /// It may have been stored all the same.
        is_in_doubt: bool,
    },
}

async fn send<S: Storage>(pool: &Pool<S>, content: &Content<S::Pin>, begin: Begin) -> Sent {
    let stores = &pool.wiring.stores;
    let Some(store) = &stores.store else {
        let text = "no Maildir is configured here".into();
        return Sent::Lost { text, is_in_doubt: false };
    };
    let mut waiting = Waiting::new(stores);
    let (ticket, mut begin) = (waiting.ticket, Some(begin));
    for nth in 0.. {
        let (piece, last) = match content {
            Content::Resident(message) => (Piece::Resident(message.clone()), true),
            Content::Spooled { .. } => match content.piece(pool, nth).await {
                Ok((bytes, last)) => (Piece::Read(bytes.into_owned()), last),
                Err(error) => return Sent::Lost { text: error.to_string(), is_in_doubt: false },
            },
        };
        let mut request = Request::Piece { ticket, begin: begin.take(), piece, last };
        let mut patience = Patience::new(pool);
        while let Err(again) = store.ask(request) {
            request = again;
            if !patience.pause(pool, ROOM_PAUSE).await {
                if nth == 0 {
                    return Sent::NotBegun;
                }
                return Sent::Lost {
                    text: "the threads that write Maildirs are too busy".into(),
                    is_in_doubt: false,
                };
            }
        }
        waiting.unfinished = true;
        let mut patience = Patience::new(pool);
        let answer = loop {
            let answer = stores.answered.until(|| stores.take(ticket.number));
            if let Some(answer) = net::task::within(LOOK, answer).await {
                break answer;
            }
            if !patience.has_more(pool, LOOK) {
                return Sent::Lost { text: "the mailbox's disk does not answer".into(), is_in_doubt: last };
            }
        };
        if let Answer::Done(stored) = answer {
            waiting.unfinished = false;
            return Sent::Stored(stored);
        }
    }
    unreachable!("a body has a last piece, which is answered with results")
}

/// How long a delivery waits: as long as an attempt may take, but not much longer than a stop.
struct Patience {
    left: Duration,
}

impl Patience {
    fn new<S: Storage>(pool: &Pool<S>) -> Self {
        Self { left: pool.options().timeouts.attempt }
    }

    /// Whether to go on after a wait.
    fn has_more<S: Storage>(&mut self, pool: &Pool<S>, waited: Duration) -> bool {
        self.left = self.left.saturating_sub(waited);
        if pool.is_stopping() {
            self.left = self.left.min(LOOK * LOOKS_AT_STOP);
        }
        !self.left.is_zero()
    }

    async fn pause<S: Storage>(&mut self, pool: &Pool<S>, time: Duration) -> bool {
        net::sleep(time).await;
        self.has_more(pool, time)
    }
}

/// The recipients' results, those that say the same together.
fn results_of(places: &[u64], stored: Vec<Stored>) -> Vec<LegResult> {
    let mut results: Vec<LegResult> = Vec::new();
    for (place, (verdict, reply)) in places.iter().zip(stored) {
        match results.iter_mut().find(|result| result.verdict == verdict && result.reply == reply) {
            Some(result) => result.recipients |= place,
            None => results.push(LegResult { recipients: *place, verdict, reply }),
        }
    }
    results
}
