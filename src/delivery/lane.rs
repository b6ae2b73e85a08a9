//! PURE. A path at one worker: jobs that arrived, connections that serve them, credits given for more.

use std::sync::Arc;

use super::home::{LaneNews, Lease};
use super::parked::Parked;
use super::rate::{PerRate, Permits};
use crate::clock::Moment;
use crate::exchange::Demand;
use crate::exchange::grants::Grants;
use crate::id::{ShardIndex, TenantKey};
use crate::routing::PathSpec;

/// Jobs wanted here for each connection: one in flight, one behind its final dot, and one more round for the time that
/// a credit and a job take to travel.
const JOBS_PER_CONNECTION: u32 = 4;

/// A path's lane. `J` is the job as the worker keeps it.
#[derive(Debug)]
pub struct Lane<J> {
    spec: Arc<PathSpec>,
    at_home: bool,
    jobs: Parked<J>,
    /// Jobs that connections have taken and not finished.
    busy: u32,
    /// Connections open or opening.
    connections: u32,
    /// Of these, how many have an open session.
    ready: u32,
    /// Of these, how many wait for a job.
    idle: u32,
    lease: Lease,
    /// A connection failed and home has been told: none is opened before its answer.
    paused: bool,
    permits: PerRate<Permits>,
    grants: Grants,
    /// What home was last told, to tell it only news.
    told: Option<LaneNews>,
}

impl<J> Lane<J> {
    /// A lane without slots: home leases it some.
    pub fn new(spec: Arc<PathSpec>, at_home: bool) -> Self {
        Self {
            spec,
            at_home,
            jobs: Parked::default(),
            busy: 0,
            connections: 0,
            ready: 0,
            idle: 0,
            lease: Lease::default(),
            paused: false,
            permits: PerRate::default(),
            grants: Grants::default(),
            told: None,
        }
    }

    /// Where its jobs go.
    pub fn spec(&self) -> &Arc<PathSpec> {
        &self.spec
    }

    /// Takes over a newer version of the path.
    pub fn update(&mut self, spec: Arc<PathSpec>) {
        if spec.version > self.spec.version {
            self.spec = spec;
        }
    }

    /// News from a shard.
    pub fn demand(&mut self, shard: ShardIndex, demand: &Demand) {
        self.update(demand.path.clone());
        self.grants.demand(shard, demand, self.at_home);
    }

    /// A job arrived. It comes back when the path rests, or other lanes have all slots: the shard keeps it meanwhile.
    pub fn arrive(&mut self, shard: ShardIndex, tenant: TenantKey, job: J) -> Result<(), J> {
        self.grants.arrived(shard, self.at_home);
        // At home the first job comes before the first slot.
        if self.lease.rest_until.is_some() || (self.lease.slots == 0 && !self.at_home) {
            return Err(job);
        }
        self.jobs.push(tenant, job);
        Ok(())
    }

    /// The next job that `fits` a connection, if the path's rate allows one more; the connection reports its end with
    /// [`Self::finished`].
    pub fn take(&mut self, fits: impl Fn(&J) -> bool) -> Option<J> {
        if self.startable() == 0 {
            return None;
        }
        let job = self.jobs.pop(fits)?;
        self.permits.messages.spend();
        self.busy += 1;
        Some(job)
    }

    /// A job that the connection which was opened last will find if each that is being opened takes one.
    pub fn expected(&self) -> Option<&J> {
        let others = self.connections.saturating_sub(self.ready).saturating_sub(1) as usize;
        self.jobs.nth(others).or_else(|| self.jobs.nth(0))
    }

    /// A job that `fits` and that no connection will get.
    pub fn take_parked(&mut self, fits: impl Fn(&J) -> bool) -> Option<J> {
        self.jobs.pop(fits)
    }

    /// Whether a parked job fits.
    pub fn any_parked(&self, fits: impl Fn(&J) -> bool) -> bool {
        self.jobs.iter().any(fits)
    }

    /// Parked jobs that could begin now.
    pub fn startable(&self) -> u32 {
        self.jobs.len().min(self.permits.messages.left())
    }

    /// A job that was taken has ended.
    pub fn finished(&mut self) {
        assert!(self.busy > 0, "more ends than jobs");
        self.busy -= 1;
    }

    /// A lease from home. When it says rest, or takes the last slot from jobs that wait for one, these come out, to be sent back,
    /// and credits are revoked: another lane may serve them.
    pub fn set_lease(&mut self, lease: Lease) -> Parked<J> {
        let rests = lease.rest_until.is_some() && self.lease.rest_until.is_none();
        let ends = rests || (lease.slots == 0 && self.lease.slots > 0 && !self.jobs.is_empty());
        self.lease = lease;
        self.paused = false;
        self.permits.messages.set_leased(lease.permits.messages);
        self.permits.connections.set_leased(lease.permits.connections);
        if !ends {
            return Parked::default();
        }
        self.grants.revoke();
        std::mem::take(&mut self.jobs)
    }

    /// Whether one more connection should be opened now; counts it if so.
    pub fn open_connection(&mut self) -> bool {
        let opens = self.needs_connection() && self.permits.connections.left() > 0;
        if opens {
            self.permits.connections.spend();
            self.connections += 1;
        }
        opens
    }

    /// Whether a job waits for a connection that may be opened, but for the rate of connections.
    fn needs_connection(&self) -> bool {
        // Each connection that is being opened will take a job, as one that waits for work does: one job must not open
        // all the slots there are.
        let coming = self.connections.saturating_sub(self.ready) + self.idle;
        let may = !self.paused && self.lease.rest_until.is_none();
        may && self.connections < self.lease.slots && self.startable() > coming
    }

    /// Opens no connection until the next lease comes. Only where one is sure to come.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// A connection is closed, or could not be opened.
    pub fn close_connection(&mut self) {
        assert!(self.connections > 0, "more closes than opens");
        self.connections -= 1;
    }

    /// A connection waits for work, or has stopped waiting.
    pub fn set_idle(&mut self, idle: bool) {
        self.idle = if idle { self.idle + 1 } else { self.idle.saturating_sub(1) };
    }

    /// A connection's session was opened, or has ended.
    pub fn set_ready(&mut self, ready: bool) {
        self.ready = if ready { self.ready + 1 } else { self.ready.saturating_sub(1) };
    }

    /// Connections with an open session.
    pub fn ready(&self) -> u32 {
        self.ready
    }

    /// Whether a connection must close because home wants its slot.
    pub fn is_over_lease(&self) -> bool {
        self.connections > self.lease.slots
    }

    /// Until when the path rests.
    pub fn rest_until(&self) -> Option<Moment> {
        self.lease.rest_until
    }

    /// Grants credits for the jobs that its connections will want.
    pub fn replenish(&mut self) {
        if self.lease.rest_until.is_some() || self.lease.slots == 0 {
            return;
        }
        let here = self.busy + self.jobs.len();
        // No more than the rate lets begin soon, so that it is the shards who choose what begins then.
        let rate = self.busy.saturating_add(self.permits.messages.left().max(1));
        let want = self.lease.slots.saturating_mul(JOBS_PER_CONNECTION).min(self.spec.limits.window);
        self.grants.replenish(want.min(rate).max(1), here);
    }

    /// The credits of the shards.
    pub fn grants(&mut self) -> &mut Grants {
        &mut self.grants
    }

    /// What home should be told; `None` if that is no news.
    pub fn poll_news(&mut self) -> Option<LaneNews> {
        if self.jobs.is_empty() && (self.lease.slots == 0 || !self.grants.expects()) {
            self.permits.messages.give_back();
        }
        if self.jobs.is_empty() {
            self.permits.connections.give_back();
        }
        let news = LaneNews {
            wants: !self.jobs.is_empty() || self.busy > 0 || !self.grants.is_idle(),
            held: self.connections,
            ready: self.ready,
            known: self.lease.number,
            permits: PerRate {
                messages: self.permits.messages.spent(!self.jobs.is_empty() && self.lease.slots > 0),
                connections: self.permits.connections.spent(self.needs_connection()),
            },
        };
        if self.told.is_some_and(|told| news == told || self.is_small(told, news)) {
            return None;
        }
        self.told = Some(news);
        Some(news)
    }

    /// Whether only some of its permits were used, and a worker need not be woken for that.
    fn is_small(&self, told: LaneNews, news: LaneNews) -> bool {
        let mut same = news;
        same.permits.messages.used = told.permits.messages.used;
        same.permits.connections.used = told.permits.connections.used;
        let left = self.permits.messages.left() > 0 && self.permits.connections.left() > 0;
        !self.at_home && same == told && left
    }

    /// The news that was polled last could not be said: it comes again.
    pub fn forget_told(&mut self) {
        self.told = None;
    }

    /// Jobs that no connection has taken.
    pub fn parked(&self) -> usize {
        self.jobs.len() as usize
    }

    /// Jobs parked or in flight, for metrics.
    pub fn depth(&self) -> usize {
        (self.jobs.len() + self.busy) as usize
    }

    /// Connections open or opening.
    pub fn connections(&self) -> u32 {
        self.connections
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::home::tests::limits;
    use crate::id::PathId;
    use crate::routing::PathKind;

    fn lane(slots: u32) -> Lane<u32> {
        let spec = PathSpec {
            id: PathId(1),
            version: 1,
            name: String::new(),
            kind: PathKind::Discard,
            limits: limits(10),
            pool: Arc::default(),
        };
        let mut lane = Lane::new(Arc::new(spec), true);
        lane.set_lease(Lease { slots, number: 1, ..Lease::default() });
        lane
    }

    fn opened(lane: &mut Lane<u32>) -> usize {
        std::iter::from_fn(|| lane.open_connection().then_some(())).count()
    }

    #[test]
    fn a_job_opens_one_connection_however_often_it_is_looked_at_before_the_banner_comes() {
        let mut lane = lane(4);
        assert!(lane.arrive(ShardIndex(0), TenantKey(0), 1).is_ok());
        assert_eq!((opened(&mut lane), opened(&mut lane)), (1, 0));
        // A second job while the connection is still being opened needs one of its own.
        assert!(lane.arrive(ShardIndex(0), TenantKey(0), 2).is_ok());
        assert_eq!(opened(&mut lane), 1);
        // The first could not be opened: its job must not wait for nobody.
        lane.close_connection();
        assert_eq!(opened(&mut lane), 1);
    }

    #[test]
    fn a_burst_opens_all_slots_at_once_and_no_more() {
        let mut lane = lane(4);
        (0..20).for_each(|job| assert!(lane.arrive(ShardIndex(0), TenantKey(0), job).is_ok()));
        assert_eq!(opened(&mut lane), 4);
    }

    #[test]
    fn a_connection_that_waits_for_work_gets_the_job_and_a_busy_one_does_not() {
        let mut lane = lane(4);
        assert!(lane.arrive(ShardIndex(0), TenantKey(0), 1).is_ok());
        assert_eq!(opened(&mut lane), 1);
        lane.set_ready(true);
        assert_eq!(lane.take(|_| true), Some(1));
        assert!(lane.arrive(ShardIndex(0), TenantKey(0), 2).is_ok());
        assert_eq!(opened(&mut lane), 1);
        lane.set_ready(true);
        assert_eq!(lane.take(|_| true), Some(2));
        lane.finished();
        lane.set_idle(true);
        assert!(lane.arrive(ShardIndex(0), TenantKey(0), 3).is_ok());
        assert_eq!(opened(&mut lane), 0);
    }

    #[test]
    fn a_connection_takes_the_oldest_job_that_fits_and_new_ones_go_where_jobs_wait() {
        let mut lane = lane(4);
        [10, 20, 11, 30]
            .into_iter()
            .for_each(|job| assert!(lane.arrive(ShardIndex(0), TenantKey(0), job).is_ok()));
        assert!(lane.open_connection());
        assert_eq!(lane.expected(), Some(&10));
        assert!(lane.open_connection());
        assert_eq!(lane.expected(), Some(&20));
        let tens = |job: &u32| job / 10 == 1;
        assert_eq!((lane.take(tens), lane.take(tens), lane.take(tens)), (Some(10), Some(11), None));
        assert_eq!(lane.parked(), 2);
        // More connections are being opened than jobs wait: any job is better than none.
        lane.take_parked(|job| *job == 30);
        assert_eq!(lane.expected(), Some(&20));
    }
}
