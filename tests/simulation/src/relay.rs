//! The relay in the world: the roles that serve runs, on a simulated disk and network. Can be killed, stopped and started.

use std::cell::Cell;
use std::future::ready;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc;
use std::time::Duration;

use crossbeam_channel as channel;
use ringpost::config::{Config, Host as HostFacts, Network, Wiring};
use ringpost::control::path_map::{AddressRule, Asked, Decision, PathMap, Resolved, no_such_domain};
use ringpost::control::resolver::{self, Questions};
use ringpost::delivery::keys::Keys;
use ringpost::event::{Event, event_channel};
use ringpost::id::PartId;
use ringpost::inbound::listener::ListenerIndex;
use ringpost::net::simulated::{Death, Host, World};
use ringpost::outcome::{Enhanced, Reply};
use ringpost::relay::door::Door;
use ringpost::relay::roles::{self, Common};
use ringpost::relay::{Orders, seats};
use ringpost::routing::{PathKind, Rate, RouteAnswer, Target};
use ringpost::spool::Fence;
use ringpost::spool::layout::part_dir;
use ringpost::spool::storage::memory::MemoryDisk;

use crate::disk::{Manner, SimulatedDisk};
use crate::mail::{DEAD, DOMAINS, NULL};

/// Where the relay listens.
pub const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 25);
/// Small segments, so that the ring turns often; still larger than the longest record.
const SEGMENT_BYTES: u64 = 512 * 1024;
/// Age at which a sender is told that mail is late.
pub const DELAY_AFTER: Duration = Duration::from_secs(15 * 60);
/// Room on the disk.
pub const DISK_BYTES: u64 = 1 << 30;

/// Where mail for a domain goes: `d0.test` and `d3.test` share a remote, and so on.
pub fn remote_of(domain: &str) -> SocketAddr {
    let last = match domain.strip_prefix('d').and_then(|rest| rest.strip_suffix(".test")?.parse::<u8>().ok())
    {
        Some(number) => 1 + number % 3,
        None if domain == DEAD => 9,
        None => 8,
    };
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 1, last)), 25)
}

/// Where the delivery agent listens, if there is one.
pub const AGENT: &str = "/run/agent";

/// How many roles there are, and how they sit.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Shards.
    pub shards: u16,
    /// Workers.
    pub workers: u16,
    /// Whether each has an executor of its own.
    pub split: bool,
    /// Messages, and half as many connections, to one path in a minute.
    pub rate: Option<u32>,
}

/// What outlives a relay: its spool.
pub struct Spool {
    /// The disk.
    pub disk: MemoryDisk,
    /// How it behaves.
    pub manner: Rc<Manner>,
    /// Parts there are, and the next number.
    pub parts: Vec<PartId>,
    next_part: u16,
}

impl Spool {
    /// An empty one.
    pub fn new() -> Self {
        let manner = Manner { slowest: Cell::new(Duration::from_millis(2)) };
        Self {
            disk: MemoryDisk::without_history(DISK_BYTES),
            manner: Rc::new(manner),
            parts: Vec::new(),
            next_part: 0,
        }
    }

    fn parts_for(&mut self, shards: u16) -> Vec<PartId> {
        while self.parts.len() < usize::from(shards) {
            self.parts.push(PartId(self.next_part));
            self.next_part += 1;
        }
        self.parts.clone()
    }
}

impl Default for Spool {
    fn default() -> Self {
        Self::new()
    }
}

/// A relay that runs, or recovers.
pub struct Relay {
    host: Host,
    orders: Orders,
    recovered: mpsc::Receiver<Result<u64, String>>,
    waiting: usize,
    drained: mpsc::Receiver<PartId>,
    events: channel::Receiver<Event>,
    /// Of its spool.
    pub fence: Fence,
    running: Rc<Cell<usize>>,
}

impl Relay {
    /// Starts one on `spool`; mail bounces at the age of `expiry`; with `lmtp` some domains are the agent's at [`AGENT`]. `dns_works` may change at any time.
    pub fn start(
        world: &World,
        spool: &mut Spool,
        shape: Shape,
        expiry: Option<Duration>,
        lmtp: bool,
        dns_works: &Rc<Cell<bool>>,
    ) -> Self {
        let host = world.host();
        let config = Arc::new(config(shape, expiry, lmtp));
        let plans = seats::plan_parts(&spool.parts_for(shape.shards), shape.shards);
        let sockets =
            (0..shape.shards).map(|_| vec![(ListenerIndex(0), world.listen(host, ADDRESS))]).collect();
        let made = seats::make(&config, !shape.split, sockets, plans, |answer_to| {
            let (handle, questions) = resolver::questions();
            world.spawn_on(
                host,
                answer(world.clone(), config.clone(), questions, answer_to, dns_works.clone()),
            );
            Ok(handle)
        });
        let made = made.expect("nothing here can fail");
        let (recover, recovered) = mpsc::channel();
        let (drain, drained) = mpsc::channel();
        let (event_to, events) = event_channel();
        let fence = Fence::default();
        let common = Common {
            clients: roles::clients(&config),
            config,
            events: event_to,
            fence: fence.clone(),
            door: Door::default(),
            keys: Keys::none(),
            asker: None,
            store: None,
            drained: drain,
            recovered: recover,
            shards: Arc::new(AtomicU32::new(u32::from(shape.shards))),
        };
        let running = Rc::new(Cell::new(made.seats.len()));
        for seat in made.seats {
            let disk = SimulatedDisk::new(world, spool.disk.clone(), &spool.manner);
            let (common, running) = (common.clone(), running.clone());
            world.spawn_on(host, async move {
                roles::run(seat, common, ready(Ok(disk))).await;
                running.set(running.get() - 1);
            });
        }
        let waiting = usize::from(shape.shards);
        Self { host, orders: made.orders, recovered, waiting, drained, events, fence, running }
    }

    /// Whether every shard has recovered; `Err` with what stood in the way.
    pub fn is_recovered(&mut self) -> Result<bool, String> {
        for result in self.recovered.try_iter() {
            result?;
            self.waiting -= 1;
        }
        Ok(self.waiting == 0)
    }

    /// Log lines since the last call.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        self.events.try_iter()
    }

    /// Control's way to every role.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Whether every executor has come to its end.
    pub fn has_ended(&self) -> bool {
        self.running.get() == 0
    }

    /// Ends it where it stands.
    pub fn kill(self, world: &World, death: Death) {
        world.kill(self.host, death);
    }

    /// What is left of a relay that has ended by itself; removes the parts that it drained.
    pub fn bury(self, world: &World, spool: &mut Spool) {
        assert!(self.has_ended());
        for part in self.drained.try_iter() {
            spool.parts.retain(|other| *other != part);
            let within = format!("{}/", part_dir(part));
            for path in spool.disk.paths().iter().filter(|path| path.starts_with(&within)) {
                spool.disk = spool.disk.without(path);
            }
        }
        world.kill(self.host, Death::Killed);
    }
}

/// Short times, so that a run needs hours and not days.
fn config(shape: Shape, expiry: Option<Duration>, lmtp: bool) -> Config {
    let mut config = Config::default();
    config.smtp.relay_networks =
        vec![Network { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), prefix: 8 }];
    config.spool.segment_bytes = SEGMENT_BYTES;
    config.spool.reserve_bytes = 0;
    config.threads.shards = shape.shards;
    config.threads.workers = shape.workers;
    config.threads.pin = false;
    config.threads.wiring = if shape.split { Wiring::Split } else { Wiring::Shared };
    config.delivery.tls = ringpost::routing::TlsPolicy::Off;
    config.delivery.retry_first = Duration::from_secs(20);
    config.delivery.retry_max = Duration::from_secs(5 * 60);
    config.delivery.expire_after = expiry.unwrap_or(Duration::from_secs(30 * 24 * 3600));
    let behind_agent = |domain: &&&str| lmtp && remote_of(domain) == remote_of("d2.test");
    for domain in DOMAINS.iter().filter(behind_agent) {
        let target = Target::LmtpSocket(Path::new(AGENT).into());
        config.routing.table.insert(domain, target).expect("a domain");
    }
    config.delivery.delay_after = DELAY_AFTER;
    config.delivery.connections_max = 3;
    config.delivery.messages_per_connection_max = 20;
    let rate = |count: u32| Rate { count, period: Duration::from_secs(60) };
    config.delivery.message_rate = shape.rate.map(rate);
    config.delivery.connection_rate = shape.rate.map(|count| rate(count / 2));
    // Little stays in memory, so that messages are read back all the time.
    config.limits.resident_bytes_max = 64 * 1024;
    config.completed(&HostFacts { name: "relay.test".into(), cpus: 1 }).expect("a usable host name")
}

/// The DNS of the world.
async fn answer(
    world: World,
    config: Arc<Config>,
    mut questions: Questions,
    answer_to: seats::AnswerTo,
    works: Rc<Cell<bool>>,
) {
    let mut paths = PathMap::new(resolver::sites(&config));
    while let Some((shard, domain)) = questions.next().await {
        let wait = world.random(|random| random.u64(..200_000));
        world.sleep(Duration::from_micros(wait)).await;
        let answer = match &*domain {
            _ if !works.get() => {
                let reply = Reply::new(0, Enhanced(4, 4, 3), "no name server answers");
                RouteAnswer::Delayed { reply, retry_in: Duration::from_secs(30) }
            }
            NULL => RouteAnswer::Refused { reply: no_such_domain() },
            domain if config.routing.table.target(domain) != &Target::Hold => {
                let target = config.routing.table.target(domain);
                let kind = PathKind::LmtpSocket(Path::new(AGENT).into());
                let spec = paths.local(domain, target, kind);
                RouteAnswer::Path { spec, hosts: None, valid_for: Duration::from_secs(60) }
            }
            domain => {
                let remote = remote_of(domain);
                let asked = Asked { domain, target: &Target::Mx, pool: Arc::default() };
                let host = Resolved {
                    preference: 10,
                    name: format!("mx{}.test", remote.ip()),
                    port: remote.port(),
                    addresses: Ok(vec![remote.ip()]),
                };
                match paths.decide(&asked, vec![host], AddressRule::Any) {
                    Decision::Path { spec, hosts, .. } => {
                        RouteAnswer::Path { spec, hosts, valid_for: Duration::from_secs(60) }
                    }
                    other => panic!("the DNS of the world is not like this: {other:?}"),
                }
            }
        };
        answer_to.tell(shard, domain, answer);
    }
}
