//! A path as one worker knows it: its lane, its home if this is the home worker, and the connections that wait for work.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future;

use super::home::Home;
use super::job::ActiveJob;
use super::lane::Lane;
use crate::clock::Moment;
use crate::id::WorkerIndex;
use crate::net;
use crate::net::event::Event;
use crate::net::task::within;
use crate::outcome::{LegResult, Reply, Verdict};
use crate::routing::{DomainHosts, PathSpec};
use crate::spool::storage::Storage;

/// How a wait for a job ended.
#[derive(Debug)]
pub enum Waited<T> {
    /// There may be a job.
    Job,
    /// There was none for all of the time.
    InVain,
    /// The other came first.
    Other(T),
}

fn goes_to<S: Storage>(job: &ActiveJob<S>, hosts: Option<&DomainHosts>) -> bool {
    match (&job.job().hosts, hosts) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// Shared by the pool and the path's connections. Cells are borrowed for a step at a time, never across an await.
pub struct PathState<S: Storage> {
    /// Its lane here.
    pub lane: RefCell<Lane<ActiveJob<S>>>,
    pub(super) home: Option<RefCell<Home>>,
    /// Connections that wait for a job, the one that has waited least on top.
    idle: RefCell<Vec<Event>>,
    /// Workers that home has brought in of late.
    pub(super) invited: RefCell<Vec<WorkerIndex>>,
    /// What went wrong last, and when.
    pub(super) last_error: RefCell<Option<(Moment, Reply)>>,
    /// Something has happened in this period.
    pub(super) is_warm: Cell<bool>,
}

impl<S: Storage> PathState<S> {
    /// A path without jobs or slots.
    pub(super) fn new(spec: Arc<PathSpec>, home: Option<Home>) -> Self {
        Self {
            lane: RefCell::new(Lane::new(spec, home.is_some())),
            home: home.map(RefCell::new),
            idle: RefCell::default(),
            invited: RefCell::default(),
            last_error: RefCell::default(),
            is_warm: Cell::new(false),
        }
    }

    /// Remembers what went wrong, for those who ask.
    pub(super) fn note_error(&self, reply: &Reply, now: Moment) {
        *self.last_error.borrow_mut() = Some((now, reply.clone()));
    }

    /// A job for a connection to `hosts`, or to those of the path; it says [`Lane::finished`] at its end.
    pub fn take(&self, hosts: Option<&DomainHosts>) -> Option<ActiveJob<S>> {
        self.lane.borrow_mut().take(|job| goes_to(job, hosts))
    }

    /// Hosts that a connection which is being opened should go to, if the path leaves that to its jobs.
    pub(super) fn hosts_to_open(&self) -> Option<DomainHosts> {
        self.lane.borrow().expected()?.job().hosts.clone()
    }

    /// Whether jobs wait, and none of them for a connection to `hosts`.
    pub(super) fn waits_for_others(&self, hosts: &DomainHosts) -> bool {
        let lane = self.lane.borrow();
        lane.parked() > 0 && !lane.any_parked(|job| goes_to(job, Some(hosts)))
    }

    /// A job that no connection will get.
    pub(super) fn take_parked(&self) -> Option<ActiveJob<S>> {
        self.lane.borrow_mut().take_parked(|_| true)
    }

    /// Reports all parked jobs for `hosts` deferred: they cannot be reached, which says nothing of the path's others.
    pub(super) fn defer_all(&self, hosts: &DomainHosts, reply: &Reply) {
        while let Some(mut job) = { self.lane.borrow_mut().take_parked(|job| goes_to(job, Some(hosts))) } {
            job.begin(net::now().mono);
            let recipients = job.job().recipients;
            let result = LegResult { recipients, verdict: Verdict::Deferred, reply: reply.clone() };
            job.finish(vec![result], Arc::from(&*hosts[0].name));
        }
    }

    /// Reports all parked jobs delivered, unsent.
    pub(super) fn discard_all(&self) {
        while let Some(job) = self.take_parked() {
            job.discard();
        }
    }

    /// When the path's home, if it is here, has something to do.
    pub(super) fn next_wake(&self) -> Option<Moment> {
        self.home.as_ref().and_then(|home| home.borrow().next_wake())
    }

    /// Waits for a job, or a reason to look whether to close, or what `other` gives; at most for `limit`.
    pub async fn wait_for_job<T>(&self, limit: Duration, other: impl Future<Output = T>) -> Waited<T> {
        let event = Event::default();
        self.idle.borrow_mut().push(event.clone());
        self.lane.borrow_mut().set_idle(true);
        // The other first: a connection that has ended is no place for the job.
        let first = future::or(async { Waited::Other(other.await) }, async {
            event.wait().await;
            Waited::Job
        });
        let waited = within(limit, first).await;
        self.lane.borrow_mut().set_idle(false);
        self.idle.borrow_mut().retain(|other| !other.is(&event));
        waited.unwrap_or(Waited::InVain)
    }

    /// Wakes as many waiting connections as there are jobs for that may begin.
    pub(super) fn wake_idle(&self) {
        let startable = self.lane.borrow().startable();
        for _ in 0..startable {
            let Some(event) = self.idle.borrow_mut().pop() else { return };
            event.notify();
        }
    }

    /// Wakes all waiting connections: they look whether they must close.
    pub(super) fn wake_all_idle(&self) {
        for event in self.idle.take() {
            event.notify();
        }
    }
}
