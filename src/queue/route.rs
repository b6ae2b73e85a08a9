//! PURE. Domains, flows, turns, paths: from a ready leg to the job that goes next.
//!
//! | entry | key | holds |
//! | --- | --- | --- |
//! | domain | name, and pool of sources if any: its *course* | its path, and how it is being asked for |
//! | flow | domain × tenant | ready legs, first in first out |
//! | turn | path × tenant | flows with ready legs, in rotation; the tenant's deficit |
//! | path | [`PathId`] | turns with ready legs, in rotation; what was last said about its demand |
//!
//! All are counted by their users and freed with the last; some domains stay without legs, not to be asked for each time.

mod dispatch;

use super::index::{Index, TABLES_FEW};
use super::slab::{Link, List, NONE, Slab, linked};
use super::{Job, Queue, QueueOptions};
use crate::clock::{Moment, Now};
use crate::id::{PathId, TenantKey};
use crate::outcome::Reply;
use crate::routing::{DomainHosts, source};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

/// What a tenant of weight 1 may send in a round, bytes: hardly more than the smallest message costs, so that tenants alternate
/// message by message where messages are small.
const QUANTUM_BYTES: i64 = 1024;
/// Most tenants of a path that demand lists.
const SHARES_MAX: u32 = 16;
/// Tables for domains and flows, of which a bulk sender has up to millions.
const TABLES_DOMAINS: usize = 128;

/// What is known of a domain's path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ask {
    /// Nothing is asked.
    #[default]
    No,
    /// [`Queue::poll_unrouted`] will tell it.
    Queued,
    /// It has been told.
    Asked,
    /// There was no answer; to be asked again then.
    Delayed(Moment),
}

#[derive(Debug, Default)]
pub(super) struct Domain {
    link: Link,
    name: Box<str>,
    /// How often the slot had been freed before.
    generation: u32,
    /// Slot of its path.
    pub path: u32,
    /// Its own hosts, if the path is one of domains with other hosts.
    hosts: Option<DomainHosts>,
    valid_until: Moment,
    ask: Ask,
    pub reason: Option<Box<Reply>>,
    flows: Vec<u32>,
    /// Whether it stands in the list of domains without legs.
    idle: bool,
}
linked!(Domain);

#[derive(Debug, Default)]
pub(super) struct Tenant {
    link: Link,
    pub name: Box<str>,
    pub key: TenantKey,
    weight: u32,
    flows: u32,
}
linked!(Tenant);

#[derive(Debug, Default)]
pub(super) struct Flow {
    link: Link,
    pub domain: u32,
    pub tenant: u32,
    /// Number of its schedule.
    pub schedule: u16,
    turn: u32,
    ready: List,
    /// Legs in any state.
    legs: u32,
}
linked!(Flow);

#[derive(Debug, Default)]
struct Turn {
    link: Link,
    path: u32,
    tenant: u32,
    deficit: i64,
    /// What it may send in a round, bytes.
    quantum: i64,
    /// The telling of the path's demand that listed it last.
    told: u32,
    /// It came before those that had waited longer.
    jumped: bool,
    ready: u32,
    /// Flows with ready legs.
    active: List,
    /// Flows at all.
    flows: u32,
}
linked!(Turn);

#[derive(Debug, Default)]
pub(super) struct Path {
    link: Link,
    pub id: PathId,
    pub hold: bool,
    /// Turns with ready legs.
    active: List,
    pub ready: u32,
    reported: u32,
    /// Counts the tellings of demand, from 1.
    tellings: u32,
    /// A tenant has joined those of the last telling.
    joined: bool,
    /// A turn has jumped, and none of the others was served since.
    jumped: bool,
    /// Weights of the tenants with ready legs.
    weight: u32,
    /// Tenants who wait in the queues of several shards, and in how many.
    spread: Vec<(TenantKey, u16)>,
    dirty: bool,
    domains: u32,
}
linked!(Path);

#[derive(Debug)]
pub(super) struct Routes {
    pub domains: Slab<Domain>,
    pub tenants: Slab<Tenant>,
    pub flows: Slab<Flow>,
    turns: Slab<Turn>,
    pub paths: Slab<Path>,
    domain_index: Index,
    tenant_index: Index,
    flow_index: Index,
    turn_index: Index,
    path_index: Index,
    ask: VecDeque<(u32, u32)>,
    delayed: BinaryHeap<Reverse<(Moment, u32, u32)>>,
    idle: VecDeque<(u32, u32)>,
    dirty: VecDeque<u32>,
    hold_paths: Vec<u32>,
    pub unrouted: usize,
    pub ready: usize,
}

impl Routes {
    pub fn new(seed: u64) -> Self {
        Self {
            domains: Slab::new(),
            tenants: Slab::new(),
            flows: Slab::new(),
            turns: Slab::new(),
            paths: Slab::new(),
            domain_index: Index::new(TABLES_DOMAINS, seed),
            tenant_index: Index::new(TABLES_FEW, seed),
            flow_index: Index::new(TABLES_DOMAINS, seed),
            turn_index: Index::new(TABLES_FEW, seed),
            path_index: Index::new(TABLES_FEW, seed),
            ask: VecDeque::new(),
            delayed: BinaryHeap::new(),
            idle: VecDeque::new(),
            dirty: VecDeque::new(),
            hold_paths: Vec::new(),
            unrouted: 0,
            ready: 0,
        }
    }

    pub fn hosts(&self, flow: u32) -> Option<&DomainHosts> {
        self.domains[self.flows[flow].domain].hosts.as_ref()
    }

    pub fn domain_name(&self, flow: u32) -> &str {
        source::domain_of(&self.domains[self.flows[flow].domain].name)
    }

    /// The path of a flow's domain.
    pub fn path_of(&self, flow: u32) -> Option<&Path> {
        match self.domains[self.flows[flow].domain].path {
            NONE => None,
            path => Some(&self.paths[path]),
        }
    }

    fn find_domain(&self, name: &str) -> Option<u32> {
        self.domain_index.find(self.domain_index.hash(name), |slot| *self.domains[slot].name == *name)
    }

    fn find_path(&self, id: PathId) -> Option<u32> {
        self.path_index.find(self.path_index.hash(id), |slot| self.paths[slot].id == id)
    }

    fn intern_domain(&mut self, name: &str) -> u32 {
        if let Some(slot) = self.find_domain(name) {
            return slot;
        }
        let slot = self.domains.take();
        let generation = self.domains[slot].generation;
        self.domains[slot] = Domain { name: name.into(), generation, path: NONE, ..Domain::default() };
        self.domain_index.insert(self.domain_index.hash(name), slot);
        slot
    }

    fn intern_tenant(&mut self, name: &str, weights: &HashMap<Box<str>, u32>) -> u32 {
        let hash = self.tenant_index.hash(name);
        if let Some(slot) = self.tenant_index.find(hash, |slot| *self.tenants[slot].name == *name) {
            return slot;
        }
        let weight = weights.get(name).copied().unwrap_or(1);
        let key = TenantKey::of(name);
        let slot = self.tenants.insert(Tenant { name: name.into(), key, weight, ..Tenant::default() });
        self.tenant_index.insert(hash, slot);
        slot
    }

    /// The flow of a domain and a tenant, with one more leg.
    pub fn join_flow(&mut self, domain: &str, tenant: &str, options: &QueueOptions) -> u32 {
        let names = (domain, tenant);
        let domain = self.intern_domain(domain);
        let tenant = self.intern_tenant(tenant, &options.weights);
        let hash = self.flow_index.hash((domain, tenant));
        let same = |slot: u32| (self.flows[slot].domain, self.flows[slot].tenant) == (domain, tenant);
        let flow = self.flow_index.find(hash, same).unwrap_or_else(|| {
            let schedule = options.schedules.find(names.0, names.1);
            let flow = self.flows.insert(Flow { domain, tenant, schedule, turn: NONE, ..Flow::default() });
            self.flow_index.insert(hash, flow);
            self.domains[domain].flows.push(flow);
            self.tenants[tenant].flows += 1;
            self.attach(flow);
            flow
        });
        self.flows[flow].legs += 1;
        flow
    }

    /// One leg less; its flow, domain and tenant go with their last.
    pub fn leave_flow(&mut self, flow: u32, idle_max: usize) {
        self.flows[flow].legs -= 1;
        if self.flows[flow].legs > 0 {
            return;
        }
        self.detach(flow);
        let Flow { domain, tenant, .. } = self.flows[flow];
        self.flow_index.remove(self.flow_index.hash((domain, tenant)), flow);
        self.flows.release(flow);
        self.tenants[tenant].flows -= 1;
        if self.tenants[tenant].flows == 0 {
            let name = std::mem::take(&mut self.tenants[tenant].name);
            self.tenant_index.remove(self.tenant_index.hash(&*name), tenant);
            self.tenants.release(tenant);
        }
        let flows = &mut self.domains[domain].flows;
        // As many as tenants that have mail for the domain at the time.
        flows.retain(|other| *other != flow);
        if flows.is_empty() {
            self.domain_unused(domain, idle_max);
        }
    }

    fn domain_unused(&mut self, slot: u32, idle_max: usize) {
        if self.domains[slot].idle {
            return;
        }
        self.domains[slot].idle = true;
        self.idle.push_back((slot, self.domains[slot].generation));
        while self.idle.len() > idle_max {
            let Some((slot, generation)) = self.idle.pop_front() else { break };
            let domain = &mut self.domains[slot];
            if domain.generation == generation {
                domain.idle = false;
                if domain.flows.is_empty() {
                    self.free_domain(slot);
                }
            }
        }
    }

    fn free_domain(&mut self, slot: u32) {
        let domain = &mut self.domains[slot];
        domain.generation = domain.generation.wrapping_add(1);
        (domain.reason, domain.hosts) = (None, None);
        let (name, path) = (std::mem::take(&mut domain.name), domain.path);
        self.domain_index.remove(self.domain_index.hash(&*name), slot);
        self.domains.release(slot);
        self.leave_path(path);
    }

    fn join_path(&mut self, id: PathId) -> u32 {
        let path = self.find_path(id).unwrap_or_else(|| {
            let slot = self.paths.insert(Path { id, ..Path::default() });
            self.path_index.insert(self.path_index.hash(id), slot);
            slot
        });
        self.paths[path].domains += 1;
        path
    }

    fn leave_path(&mut self, slot: u32) {
        if slot != NONE {
            self.paths[slot].domains -= 1;
            self.free_path_if_unused(slot);
        }
    }

    /// A path whose end of demand has not been told yet stays until then.
    fn free_path_if_unused(&mut self, slot: u32) {
        let path = &self.paths[slot];
        if path.domains == 0 && !path.dirty {
            self.path_index.remove(self.path_index.hash(path.id), slot);
            self.hold_paths.retain(|held| *held != slot);
            self.paths.release(slot);
        }
    }

    /// Puts a flow and its ready legs under its domain's path.
    fn attach(&mut self, flow: u32) {
        let Flow { domain, tenant, ready, .. } = self.flows[flow];
        let path = self.domains[domain].path;
        if path == NONE {
            return;
        }
        let hash = self.turn_index.hash((path, tenant));
        let same = |slot: u32| (self.turns[slot].path, self.turns[slot].tenant) == (path, tenant);
        let turn = self.turn_index.find(hash, same).unwrap_or_else(|| {
            let turn = self.turns.insert(Turn { path, tenant, ..Turn::default() });
            self.turn_index.insert(hash, turn);
            turn
        });
        self.turns[turn].flows += 1;
        self.flows[flow].turn = turn;
        self.unrouted -= ready.len as usize;
        self.ready += ready.len as usize;
        self.paths[path].ready += ready.len;
        self.turns[turn].ready += ready.len;
        if ready.len > 0 {
            self.activate(flow, false);
            self.mark(path);
        }
    }

    fn detach(&mut self, flow: u32) {
        let Flow { turn, ready, .. } = self.flows[flow];
        if turn == NONE {
            return;
        }
        if ready.len > 0 {
            self.deactivate(flow);
        }
        let Turn { path, tenant, .. } = self.turns[turn];
        self.flows[flow].turn = NONE;
        self.unrouted += ready.len as usize;
        self.ready -= ready.len as usize;
        self.paths[path].ready -= ready.len;
        self.turns[turn].ready -= ready.len;
        self.mark(path);
        self.turns[turn].flows -= 1;
        if self.turns[turn].flows == 0 {
            self.turn_index.remove(self.turn_index.hash((path, tenant)), turn);
            self.turns.release(turn);
        }
    }

    /// A flow with its first ready leg takes part in the rotation.
    fn activate(&mut self, flow: u32, front: bool) {
        let turn = self.flows[flow].turn;
        let path = self.turns[turn].path;
        let waits = self.turns[turn].active.len == 0;
        if front {
            self.turns[turn].active.push_front(&mut self.flows, flow);
        } else {
            self.turns[turn].active.push_back(&mut self.flows, flow);
        }
        if waits {
            self.begin_turns(path, turn);
        }
    }

    fn deactivate(&mut self, flow: u32) {
        let turn = self.flows[flow].turn;
        self.turns[turn].active.unlink(&mut self.flows, flow);
        if self.turns[turn].active.len == 0 {
            let path = self.turns[turn].path;
            self.paths[path].active.unlink(&mut self.turns, turn);
            self.paths[path].weight -= self.tenants[self.turns[turn].tenant].weight;
            // When it comes back that is news.
            self.turns[turn].told = u32::MAX;
            // Unused turns are not saved up; debts stay.
            self.turns[turn].deficit = self.turns[turn].deficit.min(0);
        }
    }

    /// Notes that a path's demand may be worth telling: it began, ended, doubled or halved, or a tenant joined it.
    fn mark(&mut self, slot: u32) {
        let path = &mut self.paths[slot];
        if !path.dirty && path.news() {
            path.dirty = true;
            self.dirty.push_back(slot);
        }
    }

    /// Asks for a domain's path unless it is known and valid, or being asked for.
    fn ask(&mut self, slot: u32, now: Moment) {
        let domain = &mut self.domains[slot];
        if domain.ask == Ask::No && (domain.path == NONE || domain.valid_until <= now) {
            domain.ask = Ask::Queued;
            self.ask.push_back((slot, domain.generation));
        }
    }

    pub fn poll_ask(&mut self) -> Option<&str> {
        while let Some((slot, generation)) = self.ask.pop_front() {
            let domain = &mut self.domains[slot];
            if domain.generation == generation && domain.ask == Ask::Queued {
                domain.ask = Ask::Asked;
                return Some(&self.domains[slot].name);
            }
        }
        None
    }

    /// Asks again for one domain whose delay is over; whether there was one.
    pub fn wake_domain(&mut self, now: Moment) -> bool {
        let Some(Reverse((until, slot, generation))) = self.delayed.peek().copied() else { return false };
        if until > now {
            return false;
        }
        self.delayed.pop();
        let domain = &mut self.domains[slot];
        if domain.generation == generation && domain.ask == Ask::Delayed(until) {
            domain.ask = Ask::No;
        }
        // The delay, or the path's validity, is over: ask if somebody waits for the answer.
        let waits = |flow: &u32| self.flows[*flow].ready.len > 0;
        if self.domains[slot].generation == generation && self.domains[slot].flows.iter().any(waits) {
            self.ask(slot, now);
        }
        true
    }

    /// Ready legs of paths that hold mail; such paths are few, and each is looked at.
    pub fn held(&self) -> usize {
        self.hold_paths.iter().map(|path| self.paths[*path].ready as usize).sum()
    }

    /// Says whether a path holds mail.
    fn set_hold(&mut self, path: u32, hold: bool) {
        if self.paths[path].hold != hold {
            self.paths[path].hold = hold;
            // Who was told of demand that was held, or was not told, is told anew.
            self.paths[path].reported = 0;
            self.mark(path);
            if hold {
                self.hold_paths.push(path);
            } else {
                self.hold_paths.retain(|other| *other != path);
            }
        }
    }

    pub fn next_wake(&self) -> Option<Moment> {
        self.delayed.peek().map(|Reverse((until, ..))| *until)
    }

    pub fn resident_bytes(&self) -> usize {
        let indexes =
            [&self.domain_index, &self.tenant_index, &self.flow_index, &self.turn_index, &self.path_index];
        self.domains.resident_bytes()
            + self.tenants.resident_bytes()
            + self.flows.resident_bytes()
            + self.turns.resident_bytes()
            + self.paths.resident_bytes()
            + indexes.iter().map(|index| index.resident_bytes()).sum::<usize>()
    }
}

impl Path {
    fn news(&self) -> bool {
        let (ready, reported) = (u64::from(self.ready), u64::from(self.reported));
        self.joined || (ready == 0) != (reported == 0) || ready > 2 * reported || 2 * ready < reported
    }

    /// What a tenant may send in a round here, so that its rounds in all shards together come to its weight.
    fn quantum(&self, tenant: TenantKey, weight: u32) -> i64 {
        let shards = self.spread.iter().find(|(key, _)| *key == tenant).map_or(1, |(_, shards)| *shards);
        (QUANTUM_BYTES * i64::from(weight) / i64::from(shards.max(1))).max(1)
    }
}

impl Queue {
    /// Puts a leg into its flow's list.
    pub(super) fn queue_leg(&mut self, slot: u32, front: bool) {
        let flow = self.legs[slot].flow;
        let routes = &mut self.routes;
        let list = &mut routes.flows[flow].ready;
        if front {
            list.push_front(&mut self.legs, slot);
        } else {
            list.push_back(&mut self.legs, slot);
        }
        let first = list.len == 1;
        let Flow { turn, domain, .. } = routes.flows[flow];
        if turn == NONE {
            routes.unrouted += 1;
        } else {
            let path = routes.domains[domain].path;
            routes.ready += 1;
            routes.paths[path].ready += 1;
            routes.turns[turn].ready += 1;
            if first {
                routes.activate(flow, front);
            }
            routes.mark(path);
        }
        routes.ask(domain, self.now);
    }

    /// Takes a leg out of its flow's list.
    pub(super) fn unqueue_leg(&mut self, slot: u32) {
        let flow = self.legs[slot].flow;
        let routes = &mut self.routes;
        routes.flows[flow].ready.unlink(&mut self.legs, slot);
        let Flow { turn, domain, ready, .. } = routes.flows[flow];
        if turn == NONE {
            routes.unrouted -= 1;
            return;
        }
        let path = routes.domains[domain].path;
        routes.ready -= 1;
        routes.paths[path].ready -= 1;
        routes.turns[turn].ready -= 1;
        if ready.len == 0 {
            routes.deactivate(flow);
        }
        routes.mark(path);
    }

    /// The domain's mail goes by `path` until told otherwise; after `valid_until` it is asked for again when needed, and
    /// the old answer serves until the new one is there. Ready legs move along. `hold`: the path sends nothing.
    pub fn route(&mut self, domain: &str, path: PathId, hold: bool, valid_until: Moment, now: Now) {
        self.touch(now.mono);
        let routes = &mut self.routes;
        let Some(slot) = routes.find_domain(domain) else { return };
        routes.domains[slot].ask = Ask::No;
        routes.domains[slot].valid_until = valid_until;
        routes.domains[slot].reason = None;
        let generation = routes.domains[slot].generation;
        routes.delayed.push(Reverse((valid_until, slot, generation)));
        let old = routes.domains[slot].path;
        let new = routes.join_path(path);
        routes.set_hold(new, hold);
        if old != new {
            let flows = std::mem::take(&mut routes.domains[slot].flows);
            flows.iter().for_each(|flow| routes.detach(*flow));
            routes.domains[slot].path = new;
            flows.iter().for_each(|flow| routes.attach(*flow));
            routes.domains[slot].flows = flows;
        }
        routes.leave_path(old);
    }

    /// The domain's own hosts, for a path whose domains have hosts of their own.
    pub fn set_hosts(&mut self, domain: &str, hosts: Option<DomainHosts>) {
        if let Some(slot) = self.routes.find_domain(domain) {
            self.routes.domains[slot].hosts = hosts;
        }
    }

    /// There is no answer for the domain (DNS failed, for `reason`): it is asked for again at `until`. Nothing is
    /// recorded; deadlines run on. A path it has keeps serving.
    pub fn delay_domain(&mut self, domain: &str, until: Moment, reason: Reply) {
        let routes = &mut self.routes;
        let Some(slot) = routes.find_domain(domain) else { return };
        let entry = &mut routes.domains[slot];
        entry.ask = Ask::Delayed(until);
        entry.reason = Some(Box::new(reason));
        routes.delayed.push(Reverse((until, slot, entry.generation)));
    }

    /// The next ready leg of a domain that takes no mail (null MX, no such domain), as a job to be reported as failed.
    /// `None` when all have been given out; legs that are not due yet ask again when they are.
    pub fn poll_domain_legs(&mut self, domain: &str) -> Option<Job> {
        let slot = self.routes.find_domain(domain)?;
        let routes = &self.routes;
        let heads = routes.domains[slot].flows.iter().map(|flow| routes.flows[*flow].ready.head);
        let Some(leg) = heads.into_iter().find(|head| *head != NONE) else {
            self.routes.domains[slot].ask = Ask::No;
            return None;
        };
        let recipients = self.bits(leg).fresh();
        Some(self.launch(leg, recipients))
    }
}
