//! The DNS thread: shards ask where a domain's mail goes, it asks the DNS, and answers.
//!
//! One lookup is in flight per domain, however many shards ask. Answers are kept for their TTL within configured bounds;
//! when a refresh fails the old path keeps serving for a day, so that an outage of the DNS stops no mail whose way
//! was known. A name that does not exist is refused; whatever is in doubt is delayed. It does not decide what an answer
//! means (`path_map` does), and it writes no record.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinSet, LocalSet};

use super::dns::Dns;
use super::ourselves::Ourselves;
use super::path_map::{
    AddressRule, Asked, Decision, Exchanges, Missing, PathMap, Resolved, cut_at_ourselves, dns_trouble,
    exchanges, loops_back, no_such_domain, null_mx,
};
use crate::config::{Config, Resolver as Options};
use crate::id::ShardIndex;
use crate::routing::site::Sites;
use crate::routing::source::Pools;
use crate::routing::{PathKind, PathLimits, RouteAnswer, RouteTable, Security, Target, literal_address};

/// Questions that may wait in the channel.
const QUESTIONS_MAX: usize = 16 * 1024;
/// Domains that may wait for an answer; beyond it the channel fills, and then [`ResolverHandle::ask`] says no.
const DOMAINS_WAITING_MAX: usize = 64 * 1024;
/// Lookups under way at once: each may have up to 32 queries open.
const LOOKUPS_MAX: usize = 256;
/// How long a path serves behind the end of its TTL while the DNS does not answer (RFC 8767 §4 names 1 to 3 days).
const STALE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Shards are never told to ask again sooner, whatever the TTL.
const VALID_MIN: Duration = Duration::from_secs(1);
/// Answers kept before those that have ended are looked for and dropped.
const ANSWERS_KEPT_MIN: usize = 4096;

/// How often what happened; read by the metrics thread, so these are shared, unlike the counters of roles.
#[derive(Debug, Default)]
pub struct ResolverCounters {
    /// Questions asked by shards.
    pub questions: AtomicU64,
    /// Answered from memory.
    pub cached: AtomicU64,
    /// Lookups that led to a path.
    pub found: AtomicU64,
    /// Lookups that led to a refusal.
    pub refused: AtomicU64,
    /// Lookups that failed for now.
    pub delayed: AtomicU64,
    /// Time of all lookups, microseconds.
    pub lookup_micros: AtomicU64,
    /// Paths known.
    pub paths: AtomicU64,
}

fn count(counter: &AtomicU64, more: u64) {
    // Only sums are shown: no order between counters is needed.
    counter.fetch_add(more, Ordering::Relaxed);
}

struct Question {
    shard: ShardIndex,
    domain: Box<str>,
}

/// A shard's way to ask. The thread ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct ResolverHandle {
    questions: mpsc::Sender<Question>,
}

impl ResolverHandle {
    /// Asks where mail for `domain` (lower case; a course, if it leaves by a pool) goes. Never waits; the answer comes through the callback given to
    /// [`start`]. False when too many questions wait: ask again later.
    #[must_use]
    pub fn ask(&self, shard: ShardIndex, domain: &str) -> bool {
        self.questions.try_send(Question { shard, domain: domain.into() }).is_ok()
    }
}

/// Where the questions of shards come out.
pub struct Questions(mpsc::Receiver<Question>);

impl Questions {
    /// The next question: who asks, and for which domain. `None` when every handle is gone.
    pub async fn next(&mut self) -> Option<(ShardIndex, Box<str>)> {
        let question = self.0.recv().await?;
        Some((question.shard, question.domain))
    }
}

/// A way to ask, for whoever answers: the DNS thread, or a simulation.
pub fn questions() -> (ResolverHandle, Questions) {
    let (questions, inbox) = mpsc::channel(QUESTIONS_MAX);
    (ResolverHandle { questions }, Questions(inbox))
}

/// The running thread.
#[derive(Debug)]
pub struct ResolverThread {
    /// To be cloned into each shard.
    pub handle: ResolverHandle,
    /// For the metrics.
    pub counters: Arc<ResolverCounters>,
    /// Ends when all handles are gone.
    pub thread: JoinHandle<()>,
}

/// Starts the DNS thread. `answer` is called on it and must not block: a send into the shard's channel and a doorbell.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn start(
    config: &Config,
    answer: impl Fn(ShardIndex, Box<str>, RouteAnswer) + Send + 'static,
) -> io::Result<ResolverThread> {
    let dns = Dns::new(&config.resolver, LOOKUPS_MAX)?;
    let (handle, inbox) = questions();
    let counters = Arc::new(ResolverCounters::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let (config, shared) = (config.clone(), counters.clone());
    let thread = std::thread::Builder::new().name("dns".into()).spawn(move || {
        let paths = PathMap::new(sites(&config));
        let control = Rc::new(Control {
            ourselves: Ourselves::new(&config),
            pools: pools(&config),
            dns,
            routes: config.routing.table,
            rule: if config.delivery.allow_loopback_mx { AddressRule::Any } else { AddressRule::Public },
            mx_port: config.delivery.mx_port,
            paths: RefCell::new(paths),
            options: config.resolver,
            answer: Box::new(answer),
            counters: shared,
            state: RefCell::new(State { kept_max: ANSWERS_KEPT_MIN, ..State::default() }),
            active: Cell::new(0),
            room: Notify::new(),
        });
        LocalSet::new().block_on(&runtime, control.serve(inbox));
    })?;
    Ok(ResolverThread { handle, counters, thread })
}

/// What the configuration says about paths.
pub fn sites(config: &Config) -> Sites {
    let delivery = &config.delivery;
    let limits = PathLimits {
        connections: delivery.connections_max,
        messages_per_connection: delivery.messages_per_connection_max,
        recipients_per_transaction: delivery.recipients_per_transaction_max,
        window: delivery.window,
        idle: delivery.idle_timeout,
        connection_rate: delivery.connection_rate,
        message_rate: delivery.message_rate,
        security: Security { tls: delivery.tls, ..Security::default() },
    };
    Sites::new(limits, &config.sites)
}

/// The configured pools.
pub fn pools(config: &Config) -> Pools {
    Pools::new(&config.sources, &config.pools, &config.delivery.pool)
}

/// An answer that is kept.
struct Kept {
    answer: RouteAnswer,
    /// Until when it is given without asking again.
    fresh_until: Instant,
    /// When the DNS last said so.
    found_at: Instant,
}

#[derive(Default)]
struct State {
    kept: HashMap<Box<str>, Kept, crate::hash::HashState>,
    /// Size at which `kept` is swept next.
    kept_max: usize,
    /// Domains without an answer yet, and who asked.
    waiting: HashMap<Box<str>, Vec<ShardIndex>, crate::hash::HashState>,
    /// Those of them whose lookup has not begun.
    queue: VecDeque<Box<str>>,
}

struct Control {
    dns: Dns,
    ourselves: Ourselves,
    pools: Pools,
    routes: RouteTable,
    rule: AddressRule,
    mx_port: u16,
    paths: RefCell<PathMap>,
    options: Options,
    answer: Box<dyn Fn(ShardIndex, Box<str>, RouteAnswer)>,
    counters: Arc<ResolverCounters>,
    state: RefCell<State>,
    /// Lookup tasks running.
    active: Cell<usize>,
    /// Rung when a waiting domain got its answer.
    room: Notify,
}

impl Control {
    async fn serve(self: Rc<Self>, mut inbox: Questions) {
        while let Some((shard, domain)) = inbox.next().await {
            count(&self.counters.questions, 1);
            while self.state.borrow().waiting.len() >= DOMAINS_WAITING_MAX {
                self.room.notified().await;
            }
            if let Some(answer) = self.kept(&domain) {
                count(&self.counters.cached, 1);
                (self.answer)(shard, domain, answer);
                continue;
            }
            let mut state = self.state.borrow_mut();
            if let Some(shards) = state.waiting.get_mut(&domain) {
                if !shards.contains(&shard) {
                    shards.push(shard);
                }
                continue;
            }
            state.waiting.insert(domain.clone(), vec![shard]);
            state.queue.push_back(domain);
            if self.active.get() < LOOKUPS_MAX {
                self.active.set(self.active.get() + 1);
                tokio::task::spawn_local(self.clone().work());
            }
        }
    }

    /// Looks domains up until none waits.
    async fn work(self: Rc<Self>) {
        loop {
            let next = self.state.borrow_mut().queue.pop_front();
            let Some(domain) = next else { break };
            let start = Instant::now();
            // A task of its own, so that a panic in it (answers are strangers' bytes) costs this lookup only.
            let lookup = tokio::task::spawn_local(self.clone().look_up(domain.clone()));
            let (decision, ttl) = lookup.await.unwrap_or_else(|_| {
                let reply = dns_trouble(&domain, "the lookup failed by a bug of the relay");
                (Decision::Delayed(reply), self.options.retry)
            });
            count(
                &self.counters.lookup_micros,
                u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
            );
            self.finish(domain, decision, ttl);
        }
        self.active.set(self.active.get() - 1);
    }

    /// A fresh answer from memory, its duration reduced by its age.
    fn kept(&self, domain: &str) -> Option<RouteAnswer> {
        let state = self.state.borrow();
        let kept = state.kept.get(domain)?;
        let left = kept.fresh_until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        Some(match &kept.answer {
            RouteAnswer::Path { spec, hosts, .. } => {
                let valid_for = left.max(VALID_MIN);
                RouteAnswer::Path { spec: spec.clone(), hosts: hosts.clone(), valid_for }
            }
            RouteAnswer::Refused { reply } => RouteAnswer::Refused { reply: reply.clone() },
            RouteAnswer::Delayed { reply, .. } => {
                RouteAnswer::Delayed { reply: reply.clone(), retry_in: left }
            }
        })
    }

    /// Keeps the answer and gives it to all who asked.
    fn finish(&self, domain: Box<str>, decision: Decision, ttl: Duration) {
        let now = Instant::now();
        let (answer, fresh, found_at) = match decision {
            Decision::Path { spec, hosts, complete } => {
                count(&self.counters.found, 1);
                let valid_for = if complete { ttl } else { ttl.min(self.options.retry) };
                (RouteAnswer::Path { spec, hosts, valid_for: valid_for.max(VALID_MIN) }, valid_for, now)
            }
            Decision::Refused(reply) => {
                count(&self.counters.refused, 1);
                (RouteAnswer::Refused { reply }, self.options.ttl_min, now)
            }
            Decision::Delayed(reply) => {
                count(&self.counters.delayed, 1);
                let retry_in = self.options.retry;
                let (answer, found_at) =
                    self.stale(&domain, now).unwrap_or((RouteAnswer::Delayed { reply, retry_in }, now));
                (answer, retry_in, found_at)
            }
        };
        self.counters.paths.store(self.paths.borrow().len() as u64, Ordering::Relaxed);
        let mut state = self.state.borrow_mut();
        state.sweep(now);
        let shards = state.waiting.remove(&domain).unwrap_or_default();
        state
            .kept
            .insert(domain.clone(), Kept { answer: answer.clone(), fresh_until: now + fresh, found_at });
        drop(state);
        for shard in shards {
            (self.answer)(shard, domain.clone(), answer.clone());
        }
        self.room.notify_one();
    }

    /// The path that served until now, if it may go on.
    fn stale(&self, domain: &str, now: Instant) -> Option<(RouteAnswer, Instant)> {
        let state = self.state.borrow();
        let kept = state.kept.get(domain).filter(|kept| kept.serves_stale(now))?;
        let RouteAnswer::Path { spec, hosts, .. } = &kept.answer else { return None };
        let (spec, hosts, valid_for) = (spec.clone(), hosts.clone(), self.options.retry);
        Some((RouteAnswer::Path { spec, hosts, valid_for }, kept.found_at))
    }

    /// Where mail of this course goes, and how long that holds.
    async fn look_up(self: Rc<Self>, course: Box<str>) -> (Decision, Duration) {
        let (domain, pool) = self.pools.split(&course);
        let target = self.routes.target(domain);
        let asked = Asked { domain, target, pool };
        let fixed = |spec| (Decision::Path { spec, hosts: None, complete: true }, self.options.ttl_max);
        match target {
            Target::Discard => fixed(self.paths.borrow_mut().discard()),
            Target::Hold => fixed(self.paths.borrow_mut().hold()),
            Target::Maildir => fixed(self.paths.borrow_mut().local(domain, target, PathKind::Maildir)),
            Target::LmtpSocket(path) => {
                let kind = PathKind::LmtpSocket(path.clone());
                fixed(self.paths.borrow_mut().local(domain, target, kind))
            }
            Target::Smtp { host, port, .. } | Target::Lmtp { host, port } => {
                self.named_host(&asked, host, *port).await
            }
            Target::Mx => self.mail_exchanges(&asked).await,
        }
    }

    /// A host that the operator named: any address goes, and its absence is a mistake to be mended, never a bounce.
    async fn named_host(&self, asked: &Asked<'_>, host: &str, port: u16) -> (Decision, Duration) {
        let (hosts, ttl) = self.resolved(vec![(0, host.to_owned())], port).await;
        match self.paths.borrow_mut().decide(asked, hosts, AddressRule::Any) {
            Decision::Refused(reply) => (Decision::Delayed(dns_trouble(host, &reply.text)), ttl),
            decision => (decision, ttl),
        }
    }

    async fn mail_exchanges(&self, asked: &Asked<'_>) -> (Decision, Duration) {
        let domain = asked.domain;
        if let Some(address) = literal_address(domain) {
            let (name, addresses) = (address.to_string(), Ok(vec![address]));
            let host = Resolved { preference: 0, name, port: self.mx_port, addresses };
            if self.ourselves.is(&host) {
                return (Decision::Refused(loops_back(domain)), self.options.ttl_max);
            }
            return (self.paths.borrow_mut().literal(asked, host, self.rule), self.options.ttl_max);
        }
        let (records, ttl) = match self.dns.exchanges(domain).await {
            Ok(found) => found,
            Err(Missing::Record) => (Vec::new(), self.options.ttl_max),
            Err(Missing::Name) => return (Decision::Refused(no_such_domain()), self.options.ttl_min),
            Err(Missing::Unknown(why)) => {
                return (Decision::Delayed(dns_trouble(domain, &why)), self.options.retry);
            }
        };
        let implicit = records.is_empty();
        let hosts = match exchanges(domain, records) {
            Exchanges::NullMx => return (Decision::Refused(null_mx()), ttl),
            Exchanges::Hosts(hosts) => hosts,
        };
        let (mut hosts, hosts_ttl) = self.resolved(hosts, self.mx_port).await;
        if implicit && matches!(hosts[0].addresses, Err(Missing::Name | Missing::Record)) {
            return (Decision::Refused(no_such_domain()), self.options.ttl_min);
        }
        if cut_at_ourselves(&mut hosts, |host| self.ourselves.is(host)) && hosts.is_empty() {
            return (Decision::Refused(loops_back(domain)), ttl.min(hosts_ttl));
        }
        let decision = self.paths.borrow_mut().decide(asked, hosts, self.rule);
        (decision, ttl.min(hosts_ttl))
    }

    /// Looks the addresses of `hosts` up, all at once; and how long the shortest of them holds.
    async fn resolved(&self, hosts: Vec<(u16, String)>, port: u16) -> (Vec<Resolved>, Duration) {
        let mut lookups = JoinSet::new();
        for (place, (preference, name)) in hosts.into_iter().enumerate() {
            let dns = self.dns.clone();
            lookups.spawn_local(async move {
                let addresses = match name.parse() {
                    Ok(address) => Ok((vec![address], Duration::MAX)),
                    Err(_) => dns.addresses(&name).await,
                };
                (place, preference, name, addresses)
            });
        }
        let mut ttl = self.options.ttl_max;
        let mut found = Vec::new();
        while let Some(lookup) = lookups.join_next().await {
            // A lookup that panicked is a bug; it must not be taken for an answer, so it goes on here.
            let (place, preference, name, addresses) =
                lookup.expect("lookup tasks neither panic nor are aborted");
            let addresses = addresses.map(|(addresses, holds)| {
                ttl = ttl.min(holds);
                addresses
            });
            found.push((place, Resolved { preference, name, port, addresses }));
        }
        found.sort_by_key(|(place, _)| *place);
        (found.into_iter().map(|(_, host)| host).collect(), ttl.max(self.options.ttl_min))
    }
}

impl Kept {
    fn serves_stale(&self, now: Instant) -> bool {
        matches!(self.answer, RouteAnswer::Path { .. }) && now.duration_since(self.found_at) < STALE_MAX
    }
}

impl State {
    /// Drops answers of no more use, once enough have gathered that it pays.
    fn sweep(&mut self, now: Instant) {
        if self.kept.len() >= self.kept_max {
            self.kept.retain(|_, kept| kept.fresh_until > now || kept.serves_stale(now));
            self.kept_max = (2 * self.kept.len()).max(ANSWERS_KEPT_MIN);
        }
    }
}

#[cfg(test)]
mod tests;
