//! An executor's main future: makes its roles from their seats and runs them to their end. Which disk and which kind of
//! network they run on is the caller's choice.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;

use crossbeam_channel as channel;

use super::door::Door;
use super::rules;
use super::seats::{Seat, ShardSeat, WorkerSeat};
use super::{CHANNEL_ROOM, WINDOW};
use crate::config::{Config, Listener, ListenerKind, Network};
use crate::delivery::connection::{ConnectionOptions, Timeouts};
use crate::delivery::job::Payload;
use crate::delivery::keys::Keys;
use crate::delivery::maildir::Stores;
use crate::delivery::pool::{self, Pool};
use crate::event::{Event, EventSender};
use crate::exchange::ledger::Ledger;
use crate::exchange::{ToShard, ToWorker};
use crate::id::{PartId, ShardIndex, WorkerIndex};
use crate::inbound::admission::{Admission, Budget};
use crate::inbound::limits::{Clients, Limits};
use crate::inbound::listener::{Encryption, ListenerPolicy, Networks};
use crate::inbound::login::Logins;
use crate::inbound::pace::Patience;
use crate::inbound::policy::RelayRules;
use crate::inbound::session::Inbound;
use crate::inbound::sessions::Sessions;
use crate::mailboxes::Mailboxes;
use crate::mailboxes::store::Store;
use crate::metrics::{ShardMetrics, WorkerMetrics};
use crate::net;
use crate::net::doorbell::{self, Inbox, Receiver, RemoteSender, Sender};
use crate::net::event::WaitList;
use crate::net::tls::ServerTls;
use crate::protocol::extension::Extensions;
use crate::protocol::server;
use crate::queue::Queue;
use crate::shard::{self, Shard, open};
use crate::spool::storage::Storage;
use crate::spool::{Fence, LogOptions};
use crate::users::Users;
use crate::users::question::Asker;
use crate::worker::Worker;

/// What every executor needs.
#[derive(Clone)]
pub struct Common {
    /// Settings.
    pub config: Arc<Config>,
    /// To the log.
    pub events: channel::Sender<Event>,
    /// Of the spool's file system.
    pub fence: Fence,
    /// The clients of all shards.
    pub clients: Arc<Clients>,
    /// Certificates and users, as they are at the start.
    pub door: Door,
    /// What outbound connections show and trust.
    pub keys: Keys,
    /// To the thread that checks passwords.
    pub asker: Option<Asker>,
    /// To the threads that write Maildirs.
    pub store: Option<Store>,
    /// Parts that a shard leaves empty at the stop.
    pub drained: mpsc::Sender<PartId>,
    /// Messages found by recovery, or why it failed; one for each shard.
    pub recovered: mpsc::Sender<Result<u64, String>>,
    /// Shards that have not ended: workers stay until they have, for a shard may send jobs until it hears of the stop.
    pub shards: Arc<AtomicU32>,
}

/// The table of clients, with the limits that are set.
pub fn clients(config: &Config) -> Arc<Clients> {
    let limits = &config.limits;
    let each = Limits {
        connections: limits.address_connections_max,
        connections_per_minute: limits.address_connections_per_minute,
        messages_per_minute: limits.address_messages_per_minute,
        errors_per_minute: limits.address_errors_per_minute,
        auth_failures: config.auth.failures_by_address,
        auth_failure_window: config.auth.failure_window,
        network_factor: limits.network_factor,
    };
    Clients::new(each, limits.connections_max)
}

/// Counts a shard out, however it ends.
struct ShardEnds(Arc<AtomicU32>);

impl Drop for ShardEnds {
    fn drop(&mut self) {
        // Release: what the shard has sent by now is there for the worker that sees the count.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Runs the roles of a seat until all of them have ended.
pub async fn run<S: Storage>(
    seat: Seat<S::Pin>,
    common: Common,
    disk: impl Future<Output = Result<S, String>>,
) {
    let started = match disk.await {
        Ok(disk) => start(seat, &common, disk).await,
        Err(error) => Err(error),
    };
    if let Err(error) = started {
        let _ = common.recovered.send(Err(error));
    }
}

async fn start<S: Storage>(seat: Seat<S::Pin>, common: &Common, disk: S) -> Result<(), String> {
    let shard_ends = seat.shard.as_ref().map(|_| ShardEnds(common.shards.clone()));
    let events = EventSender::new(common.events.clone());
    let inbox = |bell| Inbox::new(bell).map_err(|error| format!("cannot wait for an eventfd: {error}"));
    let shard_inbox = seat.shard.as_ref().map(|shard| inbox(shard.bell.clone())).transpose()?;
    let worker_inbox = seat.worker.as_ref().map(|worker| inbox(worker.bell.clone())).transpose()?;
    let mut near = match (&shard_inbox, &worker_inbox) {
        (Some(shard), Some(worker)) => NearChannels::new(shard, worker),
        _ => NearChannels::none(),
    };
    let running = Running::default();
    if let (Some(worker), Some(inbox)) = (seat.worker, worker_inbox) {
        let worker = make_worker(worker, inbox, &mut near, common, events.clone(), disk.clone());
        running.start(worker.run());
    }
    if let (Some(seat), Some(inbox)) = (seat.shard, shard_inbox) {
        let (shard, inbound) = make_shard(seat, inbox, &mut near, common, events, disk).await?;
        let _ = common.recovered.send(Ok(shard.queued() as u64));
        running.start(async move {
            shard.keep(inbound).await;
            drop(shard_ends);
        });
    }
    running.wait().await;
    Ok(())
}

/// Counts the roles that run.
#[derive(Clone, Default)]
struct Running {
    count: Rc<Cell<u32>>,
    ended: WaitList,
}

impl Running {
    fn start(&self, role: impl Future<Output = ()> + 'static) {
        self.count.set(self.count.get() + 1);
        let running = self.clone();
        net::spawn_vital(async move {
            role.await;
            running.count.set(running.count.get() - 1);
            running.ended.wake_all();
        });
    }

    async fn wait(&self) {
        self.ended.until(|| (self.count.get() == 0).then_some(())).await;
    }
}

/// Channels between the two roles of one executor.
struct NearChannels<P> {
    to_worker: Option<Sender<ToWorker<Payload<P>>>>,
    from_shard: Option<Receiver<ToWorker<Payload<P>>>>,
    to_shard: Option<Sender<ToShard>>,
    from_worker: Option<Receiver<ToShard>>,
}

impl<P> NearChannels<P> {
    /// For an executor with one role.
    fn none() -> Self {
        Self { to_worker: None, from_shard: None, to_shard: None, from_worker: None }
    }

    fn new(shard: &Inbox, worker: &Inbox) -> Self {
        let (to_worker, from_shard) = doorbell::local(CHANNEL_ROOM, worker.event());
        let (to_shard, from_worker) = doorbell::local(CHANNEL_ROOM, shard.event());
        Self {
            to_worker: Some(to_worker),
            from_shard: Some(from_shard),
            to_shard: Some(to_shard),
            from_worker: Some(from_worker),
        }
    }
}

/// The senders of a role: remote ones, and the near one in the gap that the seat leaves for it.
fn senders<T>(remote: Vec<Option<RemoteSender<T>>>, near: &mut Option<Sender<T>>) -> Vec<Sender<T>> {
    let fill = |sender: Option<RemoteSender<T>>| match sender {
        Some(sender) => sender.into(),
        None => near.take().expect("a seat leaves one gap, for the role beside it"),
    };
    remote.into_iter().map(fill).collect()
}

/// Likewise the receivers.
fn receivers<T>(
    remote: Vec<Option<channel::Receiver<T>>>,
    near: &mut Option<Receiver<T>>,
) -> Vec<Receiver<T>> {
    let fill = |receiver: Option<channel::Receiver<T>>| match receiver {
        Some(receiver) => Receiver::Remote(receiver),
        None => near.take().expect("a seat leaves one gap, for the role beside it"),
    };
    remote.into_iter().map(fill).collect()
}

fn make_worker<S: Storage>(
    seat: WorkerSeat<S::Pin>,
    inbox: Inbox,
    near: &mut NearChannels<S::Pin>,
    common: &Common,
    events: EventSender,
    disk: S,
) -> Worker<S> {
    let shares_executor = near.from_shard.is_some();
    let metrics = Rc::new(WorkerMetrics::default());
    let delivery = &common.config.delivery;
    let waits = delivery.timeouts;
    let wiring = pool::Wiring {
        index: seat.index,
        workers: common.config.threads.workers,
        shards: common.shards.clone(),
        near: shares_executor.then_some(ShardIndex(seat.index.0)),
        inbox,
        from_shards: receivers(seat.from_shards, &mut near.from_shard),
        to_shards: senders(seat.to_shards, &mut near.to_shard),
        from_peers: seat.from_peers.into_iter().map(Receiver::Remote).collect(),
        to_peers: seat.to_peers.into_iter().map(Sender::from).collect(),
        options: ConnectionOptions {
            ehlo_name: delivery.ehlo_name.clone(),
            verp: rules::verp(&common.config),
            timeouts: Timeouts {
                connect: waits.connect,
                greeting: waits.greeting,
                command: waits.command,
                recipient: waits.recipient,
                data: waits.data,
                block: waits.block,
                end_of_data: waits.end_of_data,
                attempt: waits.attempt,
            },
            keys: common.keys.clone(),
        },
        disk,
        stores: Stores::new(seat.index, common.store.clone()),
        metrics: metrics.clone(),
        events: events.clone(),
    };
    Worker::new(seat.index, Pool::new(wiring), metrics, events, seat.orders, seat.stored)
}

async fn make_shard<S: Storage>(
    seat: ShardSeat<S::Pin>,
    inbox: Inbox,
    near: &mut NearChannels<S::Pin>,
    common: &Common,
    events: EventSender,
    disk: S,
) -> Result<(Rc<Shard<S>>, Rc<Inbound<S>>), String> {
    let config = &common.config;
    let shares_executor = near.from_worker.is_some();
    let mut queue = Queue::new(rules::queue_options(config), net::random());
    let options = LogOptions {
        segment_bytes: u32::try_from(config.spool.segment_bytes).unwrap_or(u32::MAX),
        reserve_bytes: config.spool.reserve_bytes,
        ..LogOptions::default()
    };
    let metrics = Rc::new(ShardMetrics::default());
    let began = net::now().mono;
    let parts = open::open_parts(&disk, &seat.parts, &options, &common.fence, &mut queue, &metrics, &events)
        .await
        .map_err(|error| error.to_string())?;
    metrics.recovery_micros.set(net::now().mono.0 - began.0);
    let ledger =
        Ledger::new(config.threads.workers, shares_executor.then_some(WorkerIndex(seat.index.0)), WINDOW);
    let shards = u64::from(config.threads.shards);
    let wiring = shard::Wiring {
        index: seat.index,
        inbox,
        from_workers: receivers(seat.from_workers, &mut near.from_worker),
        to_workers: senders(seat.to_workers, &mut near.to_worker),
        drained: common.drained.clone(),
        answers: seat.answers,
        orders: seat.orders,
        logins: seat.logins,
        handed: seat.handed,
        hand_to: seat.hand_to,
        loads: seat.loads,
        resolver: seat.resolver,
        events: events.clone(),
    };
    let options = shard::Options {
        hostname: config.smtp.hostname.clone(),
        verp: rules::verp(config),
        expire_after: config.delivery.expire_after,
        resident_bytes_max: usize::try_from(config.limits.resident_bytes_max / shards).unwrap_or(usize::MAX),
        mailboxes: common.door.mailboxes().clone(),
    };
    let shard = Shard::new(wiring, options, queue, ledger, parts, metrics.clone());
    shard.start_logs();
    let inbound = Rc::new(make_inbound(&shard, common, metrics, events));
    for (index, listener) in seat.listeners {
        shard.listen(listener, index, &inbound).map_err(|error| format!("cannot listen: {error}"))?;
    }
    Ok((shard, inbound))
}

fn make_inbound<S: Storage>(
    shard: &Rc<Shard<S>>,
    common: &Common,
    metrics: Rc<ShardMetrics>,
    events: EventSender,
) -> Inbound<S> {
    let config = &common.config;
    let smtp = &config.smtp;
    let shards = u64::from(config.threads.shards);
    let keeper = shard.clone();

    Inbound {
        listeners: RefCell::new(common.door.listeners(config)),
        logins: Logins::new(shard.index(), common.asker.clone()),
        clients: common.clients.clone(),
        banner_wait: smtp.banner_wait,
        admission: Admission::new(Budget {
            connections: config.limits.connections_max.div_ceil(shards as u32),
            in_flight_bytes: config.limits.in_flight_bytes_max / shards,
        }),
        log: shard.active_log().clone(),
        on_accepted: Box::new(move |message, location, size| keeper.accepted(message, location, size)),
        metrics,
        events,
        patience: Patience {
            command: smtp.command_timeout,
            data: smtp.data_timeout,
            rate_min: smtp.data_rate_min,
        },
        expire_after: config.delivery.expire_after,
        sessions: Sessions::default(),
    }
}

/// Tells the addresses of some networks.
fn within(networks: &[Network]) -> Networks {
    let networks = networks.to_vec();
    Box::new(move |peer| networks.iter().any(|network| network.contains(peer)))
}

/// What a listener of this kind lets whom do.
pub(super) fn policy_of(
    config: &Config,
    listener: Listener,
    tls: Option<&ServerTls>,
    users: Option<Arc<Users>>,
    mailboxes: Arc<Mailboxes>,
) -> ListenerPolicy {
    let smtp = &config.smtp;
    let options = server::Options::new(
        &smtp.hostname,
        smtp.message_bytes_max,
        usize::from(smtp.recipients_max),
        Extensions::default(),
    );
    let kind = listener.kind;
    let encryption = match (tls, kind) {
        (None, _) => Encryption::None,
        // Nobody is between.
        _ if listener.address.ip().is_none() => Encryption::None,
        (Some(tls), ListenerKind::Submissions) => Encryption::Implicit(tls.clone()),
        (Some(tls), _) => Encryption::StartTls(tls.clone()),
    };
    let domains = match kind {
        ListenerKind::Relay | ListenerKind::Mx => smtp.relay_domains.as_slice(),
        ListenerKind::Submission | ListenerKind::Submissions | ListenerKind::Lmtp => &[],
    };
    let users = users.filter(|_| !matches!(kind, ListenerKind::Mx | ListenerKind::Lmtp));
    let rules = RelayRules::new(domains)
        .with_users(users)
        .with_certificates(listener.relay_certificates)
        .with_mailboxes(mailboxes);
    let options = match kind {
        ListenerKind::Lmtp => options.with_lmtp().with_greeting("LMTP Ringpost"),
        _ => options,
    };
    ListenerPolicy {
        options: match encryption {
            Encryption::StartTls(_) => options.with_starttls(),
            _ => options,
        },
        encryption,
        rules: match kind {
            ListenerKind::Submission | ListenerKind::Submissions => rules.with_login_required(),
            ListenerKind::Lmtp => rules.with_trust_required(),
            ListenerKind::Relay | ListenerKind::Mx => rules,
        },
        relay_networks: within(&listener.relay_networks.unwrap_or_default()),
        trusts_socket: listener.trusted.unwrap_or(false),
        proxies: within(&listener.proxy_networks.unwrap_or_default()),
        introducers: within(&listener.xclient_networks.unwrap_or_default()),
        is_limited: listener.limits,
        cleartext: within(&config.auth.cleartext_networks),
        tenant: listener.tenant.into(),
        tenant_header: listener.tenant_header.into(),
        pool_header: config.delivery.pool_header.as_str().into(),
    }
}
