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
use super::path_map::{
    AddressRule, Decision, Exchanges, Missing, PathMap, Resolved, dns_trouble, exchanges, no_such_domain,
    null_mx,
};
use crate::config::{Config, Delivery, Resolver as Options};
use crate::id::ShardIndex;
use crate::routing::{PathLimits, RouteAnswer, RouteTable, Target, literal_address};

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
    /// Asks where mail for `domain` (lower case) goes. Never waits; the answer comes through the callback given to
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
        let control = Rc::new(Control {
            dns,
            routes: config.routing.table,
            rule: if config.delivery.allow_loopback_mx { AddressRule::Any } else { AddressRule::Public },
            mx_port: config.delivery.mx_port,
            paths: RefCell::new(PathMap::new(path_limits(&config.delivery), getrandom::u64().unwrap_or(1))),
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

/// The limits of every path, until provider rules refine them.
pub fn path_limits(delivery: &Delivery) -> PathLimits {
    PathLimits {
        connections: delivery.connections_max,
        messages_per_connection: delivery.messages_per_connection_max,
        recipients_per_transaction: delivery.recipients_per_transaction_max,
        window: delivery.window,
        idle: delivery.idle_timeout,
        connection_rate: None,
        message_rate: None,
    }
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
            RouteAnswer::Path { spec, .. } => {
                RouteAnswer::Path { spec: spec.clone(), valid_for: left.max(VALID_MIN) }
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
            Decision::Path { spec, complete } => {
                count(&self.counters.found, 1);
                let valid_for = if complete { ttl } else { ttl.min(self.options.retry) };
                (RouteAnswer::Path { spec, valid_for: valid_for.max(VALID_MIN) }, valid_for, now)
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
        let RouteAnswer::Path { spec, .. } = &kept.answer else { return None };
        Some((RouteAnswer::Path { spec: spec.clone(), valid_for: self.options.retry }, kept.found_at))
    }

    /// Where mail for `domain` goes, and how long that holds.
    async fn look_up(self: Rc<Self>, domain: Box<str>) -> (Decision, Duration) {
        let fixed = |spec| (Decision::Path { spec, complete: true }, self.options.ttl_max);
        match self.routes.target(&domain) {
            Target::Discard => fixed(self.paths.borrow_mut().discard()),
            Target::Hold => fixed(self.paths.borrow_mut().hold()),
            Target::Smtp { host, port } => self.smart_host(host, *port).await,
            Target::Mx => self.mail_exchanges(&domain).await,
        }
    }

    /// A host that the operator named: any address goes, and its absence is a mistake to be mended, never a bounce.
    async fn smart_host(&self, host: &str, port: u16) -> (Decision, Duration) {
        let (hosts, ttl) = self.resolved(vec![(0, host.to_owned())], port).await;
        match self.paths.borrow_mut().decide(hosts, AddressRule::Any) {
            Decision::Refused(reply) => (Decision::Delayed(dns_trouble(host, &reply.text)), ttl),
            decision => (decision, ttl),
        }
    }

    async fn mail_exchanges(&self, domain: &str) -> (Decision, Duration) {
        if let Some(address) = literal_address(domain) {
            let (name, addresses) = (address.to_string(), Ok(vec![address]));
            let host = Resolved { preference: 0, name, port: self.mx_port, addresses };
            return (self.paths.borrow_mut().literal(host, self.rule), self.options.ttl_max);
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
        let (hosts, hosts_ttl) = self.resolved(hosts, self.mx_port).await;
        if implicit && matches!(hosts[0].addresses, Err(Missing::Name | Missing::Record)) {
            return (Decision::Refused(no_such_domain()), self.options.ttl_min);
        }
        let decision = self.paths.borrow_mut().decide(hosts, self.rule);
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
mod tests {
    use super::super::dns_stub::{A, AAAA, MX, NXDOMAIN, Record, SERVFAIL, Say, Stub};
    use super::*;
    use crate::outcome::Enhanced;
    use crate::routing::PathKind;
    use crossbeam_channel::Receiver;

    const SHARD: ShardIndex = ShardIndex(3);

    struct Asker {
        resolver: ResolverThread,
        answers: Receiver<(ShardIndex, Box<str>, RouteAnswer)>,
    }

    impl Asker {
        fn new(stub: &Stub, file: &str) -> Self {
            Self::patient(stub, "20s", file)
        }

        fn patient(stub: &Stub, timeout: &str, file: &str) -> Self {
            let file = format!(
                "[resolver]\naddresses = ['{}']\ntimeout = '{timeout}'\nattempts = 1\nttl_min = '0ms'\n{file}",
                stub.address
            );
            let mut config = Config::parse(&file).expect("test file");
            if !file.contains("[routes]") {
                config.routing.table.insert("*", Target::Mx).expect("pattern");
            }
            let (sender, answers) = crossbeam_channel::unbounded();
            let answer = move |shard, domain, answer| {
                let _ = sender.send((shard, domain, answer));
            };
            Self { resolver: start(&config, answer).expect("threads"), answers }
        }

        fn ask(&self, domain: &str) -> RouteAnswer {
            assert!(self.resolver.handle.ask(SHARD, domain));
            let (shard, answered, answer) = self.answers.recv().expect("the thread runs");
            assert_eq!((shard, &*answered), (SHARD, domain));
            answer
        }

        /// The path's id, and `name address,address` of each host.
        fn path(&self, domain: &str) -> (u32, Vec<String>) {
            let RouteAnswer::Path { spec, .. } = self.ask(domain) else { panic!("{domain} has no path") };
            let PathKind::Smtp { hosts } = &spec.kind else { panic!("{domain} is not sent") };
            let host = |host: &crate::routing::PathHost| {
                let addresses: Vec<String> = host.addresses.iter().map(ToString::to_string).collect();
                format!("{} {}", host.name, addresses.join(","))
            };
            (spec.id.0, hosts.iter().map(host).collect())
        }

        fn refused(&self, domain: &str, want: Enhanced) {
            match self.ask(domain) {
                RouteAnswer::Refused { reply } => assert_eq!(reply.enhanced, want, "{domain}"),
                other => panic!("{domain}: {other:?}"),
            }
        }

        fn delayed(&self, domain: &str) {
            match self.ask(domain) {
                RouteAnswer::Delayed { reply, .. } => {
                    assert_eq!(reply.enhanced, Enhanced(4, 4, 3), "{domain}")
                }
                other => panic!("{domain}: {other:?}"),
            }
        }
    }

    #[test]
    fn mx_hosts_are_found_in_order_and_shared_by_domains() {
        let stub = Stub::start();
        stub.mx("one.test", &[(20, "b.test"), (10, "a.test")]);
        stub.mx("two.test", &[(1, "a.test"), (2, "b.test")]);
        stub.address("a.test", "192.0.2.1");
        stub.address("a.test", "2001:db8::1");
        stub.address("b.test", "192.0.2.2");
        let asker = Asker::new(&stub, "");
        let one = asker.path("one.test");
        assert_eq!(one.1, ["a.test 192.0.2.1,2001:db8::1", "b.test 192.0.2.2"]);
        assert_eq!(asker.path("two.test"), one);
    }

    #[test]
    fn without_mx_the_address_of_the_domain_serves() {
        let stub = Stub::start();
        stub.address("plain.test", "192.0.2.7");
        assert_eq!(Asker::new(&stub, "").path("plain.test").1, ["plain.test 192.0.2.7"]);
    }

    #[test]
    fn aliases_of_domain_and_of_host_are_followed() {
        let stub = Stub::start();
        let alias = Record::Alias("alias.test", "real.test");
        stub.set("alias.test", MX, Say::Records(vec![alias]));
        stub.mx("real.test", &[(5, "host.test")]);
        let addresses = vec![Record::Alias("host.test", "h2.test"), Record::Address("h2.test", "192.0.2.8")];
        stub.set("host.test", A, Say::Records(addresses));
        assert_eq!(Asker::new(&stub, "").path("alias.test").1, ["host.test 192.0.2.8"]);
    }

    #[test]
    fn certain_failures_refuse() {
        let stub = Stub::start();
        stub.mx("null.test", &[(0, ".")]);
        stub.set("gone.test", MX, Say::Code(NXDOMAIN));
        stub.mx("inside.test", &[(0, "evil.test")]);
        stub.address("evil.test", "127.0.0.1");
        stub.mx("dangling.test", &[(0, "missing.test")]);
        stub.set("missing.test", A, Say::Code(NXDOMAIN));
        stub.set("missing.test", AAAA, Say::Code(NXDOMAIN));
        let asker = Asker::new(&stub, "");
        asker.refused("null.test", Enhanced(5, 1, 10));
        asker.refused("gone.test", Enhanced(5, 1, 2));
        asker.refused("empty.test", Enhanced(5, 1, 2));
        asker.refused("inside.test", Enhanced(5, 4, 4));
        asker.refused("dangling.test", Enhanced(5, 4, 4));
        asker.refused("[127.0.0.1]", Enhanced(5, 4, 4));
        asker.refused("a..b", Enhanced(5, 1, 2));
    }

    #[test]
    fn doubt_delays() {
        let stub = Stub::start();
        stub.set("fail.test", MX, Say::Code(SERVFAIL));
        stub.set("silent.test", MX, Say::Silence);
        stub.set("refused.test", MX, Say::Code(5));
        stub.mx("half.test", &[(0, "hostfail.test")]);
        stub.set("hostfail.test", A, Say::Code(SERVFAIL));
        let loops = Record::Alias("loop.test", "loop.test");
        stub.set("loop.test", MX, Say::Records(vec![loops]));
        let asker = Asker::patient(&stub, "200ms", "");
        for domain in ["fail.test", "silent.test", "refused.test", "half.test"] {
            asker.delayed(domain);
        }
        assert!(!matches!(asker.ask("loop.test"), RouteAnswer::Path { .. }));
    }

    #[test]
    fn routes_that_need_no_mx_are_answered_without_asking_for_any() {
        let stub = Stub::start();
        stub.address("smart.test", "127.0.0.1");
        let routes = "[routes]\n'a.test' = 'discard'\n'b.test' = 'smtp://127.0.0.1:2526'\n\
                      'c.test' = 'smtp://smart.test:26'\n'd.test' = 'smtp://lost.test:25'\n";
        let asker = Asker::new(&stub, routes);
        assert!(
            matches!(asker.ask("a.test"), RouteAnswer::Path { spec, .. } if spec.kind == PathKind::Discard)
        );
        assert!(matches!(asker.ask("x.test"), RouteAnswer::Path { spec, .. } if spec.kind == PathKind::Hold));
        assert_eq!(asker.path("b.test").1, ["127.0.0.1 127.0.0.1"]);
        assert_eq!(stub.asked(), 0);
        assert_eq!(asker.path("c.test").1, ["smart.test 127.0.0.1"]);
        // The operator's slip is mended, not bounced.
        asker.delayed("d.test");
    }

    #[test]
    fn a_lab_may_send_to_loopback() {
        let stub = Stub::start();
        stub.mx("lab.test", &[(0, "sink.test")]);
        stub.address("sink.test", "127.0.0.1");
        let asker = Asker::new(&stub, "[delivery]\nallow_loopback_mx = true\nmx_port = 2526\n");
        let RouteAnswer::Path { spec, .. } = asker.ask("lab.test") else { panic!("no path") };
        let PathKind::Smtp { hosts } = &spec.kind else { panic!("not sent") };
        assert_eq!((hosts[0].port, spec.name.as_str()), (2526, "sink.test:2526"));
        assert_eq!(asker.path("[127.0.0.1]").1, ["127.0.0.1 127.0.0.1"]);
    }

    #[test]
    fn many_questions_for_a_domain_make_one_lookup() {
        let stub = Stub::start();
        stub.mx("busy.test", &[(0, "a.test")]);
        stub.address("a.test", "192.0.2.1");
        let asker = Asker::new(&stub, "");
        for shard in 0..50 {
            assert!(asker.resolver.handle.ask(ShardIndex(shard % 5), "busy.test"));
        }
        for _ in 0..5 {
            asker.answers.recv().expect("each shard has an answer");
        }
        assert!(stub.asked() <= 3, "{}", stub.asked());
    }

    #[test]
    fn a_path_goes_on_serving_when_its_refresh_fails() {
        let stub = Stub::start();
        stub.set("s.test", MX, Say::Brief(vec![Record::Mx(0, "a.test")]));
        stub.address("a.test", "192.0.2.1");
        let asker = Asker::new(&stub, "retry = '100ms'\n");
        let before = asker.path("s.test");
        stub.set("s.test", MX, Say::Code(SERVFAIL));
        assert_eq!(asker.path("s.test"), before);
        assert_eq!(asker.resolver.counters.delayed.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_thread_ends_with_the_last_handle() {
        let Asker { resolver, .. } = Asker::new(&Stub::start(), "");
        drop(resolver.handle);
        resolver.thread.join().expect("no panic");
    }
}
