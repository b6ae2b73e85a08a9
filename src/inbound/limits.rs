//! PURE. What one address, and the network around it, may do at once and in a time: connections, messages, errors, logins.
//!
//! All shards share one table, because a client's connections are spread over shards: a table for each would have to
//! guess how many of them it sees, and a limit divided by the shards would refuse a client whose connections happen to be
//! on one. The table is atomics alone, without a lock, and is touched when a connection comes or goes, at MAIL and at an
//! error; only for clients that are not trusted, so never for a bulk injector.
//!
//! Its memory is fixed: sets of [`WAYS`] slots, found by a seeded hash, so that nobody can aim at a set. A new address takes
//! the slot of its set that has the least to forget. Slots with open connections are never given away, and what an address
//! has run up is forgotten only in favour of one more recent: to shed it, an attacker needs as many other addresses as
//! there are slots, each with a connection of its own. A set full of open connections counts no further address; the
//! network, or the budget of the process, still holds those.
//!
//! Between threads counts may be off for a moment (two shards that enter the same new address take two slots; a slot given
//! away just when its owner returns keeps that one connection), but a connection counted in is always counted out.

use std::fmt;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock::Moment;
use crate::hash::HashState;
use crate::metrics::LimitKind;
use crate::outcome::Enhanced;
use crate::protocol::reply::Refusal;

/// Slots of a set.
const WAYS: usize = 8;
/// Slots for each connection that may be open: an address and a network each, and as much again to remember others.
const SLOTS_PER_CONNECTION: usize = 4;
/// Fewest slots, and most: 64 bytes each.
const SLOTS: (usize, usize) = (4096, 1 << 20);
/// The time that most rates are given for.
const MINUTE: Duration = Duration::from_secs(60);
/// Leading bits that one network shares, IPv4 and IPv6.
const NETWORK_BITS: (u8, u8) = (24, 64);

/// What is counted by the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A connection was opened.
    Connection,
    /// MAIL.
    Message,
    /// A command was answered 5xx.
    Error,
    /// AUTH failed. It is counted before it is known, so that tries made at once do not pass together.
    AuthFailure,
}

const ACTS: usize = 4;

/// What an address may do; 0 is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Connections open at once.
    pub connections: u32,
    /// Connections opened a minute.
    pub connections_per_minute: u32,
    /// MAIL commands a minute.
    pub messages_per_minute: u32,
    /// Commands answered 5xx a minute.
    pub errors_per_minute: u32,
    /// Failures of AUTH within their time.
    pub auth_failures: u32,
    /// That time.
    pub auth_failure_window: Duration,
    /// How many times as much its network may do.
    pub network_factor: u32,
}

/// A token bucket that holds `count` and is filled in `within`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    count: u32,
    within: Duration,
}

impl Rate {
    fn within_us(self) -> u64 {
        u64::try_from(self.within.as_micros()).unwrap_or(u64::MAX)
    }

    /// What one token costs, microseconds.
    fn token(self) -> u64 {
        self.within_us() / u64::from(self.count)
    }
}

impl Limits {
    /// What `who` may do; `None` is no limit.
    fn rate(&self, act: Act, who: Who) -> Option<Rate> {
        let (count, within) = match act {
            Act::Connection => (self.connections_per_minute, MINUTE),
            Act::Message => (self.messages_per_minute, MINUTE),
            Act::Error => (self.errors_per_minute, MINUTE),
            Act::AuthFailure => (self.auth_failures, self.auth_failure_window),
        };
        let count = count.saturating_mul(who.times(self));
        (count > 0).then_some(Rate { count, within })
    }
}

/// What a slot says of one address or network.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    /// Hash of whom it is about; 0 when it has never been used.
    key: AtomicU64,
    /// Open connections.
    connections: AtomicU32,
    /// For each [`Act`] when its bucket will be full again, microseconds: all that a token bucket needs to remember.
    full_at: [AtomicU64; ACTS],
}

impl Slot {
    /// When nothing is left to be forgotten.
    fn settled_at(&self) -> u64 {
        self.full_at.iter().map(|at| at.load(Relaxed)).max().unwrap_or(0)
    }

    /// Takes one token, or says how long to wait.
    fn take(&self, act: Act, rate: Rate, now: Moment) -> Result<(), Duration> {
        let taken = |full_at: u64| {
            let next = full_at.max(now.0) + rate.token();
            (next <= now.0 + rate.within_us()).then_some(next)
        };
        match self.full_at[act as usize].fetch_update(Relaxed, Relaxed, taken) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.wait(act, rate, now)),
        }
    }

    /// Gives a token back.
    fn give_back(&self, act: Act, rate: Rate) {
        let given = |full_at: u64| Some(full_at.saturating_sub(rate.token()));
        let _ = self.full_at[act as usize].fetch_update(Relaxed, Relaxed, given);
    }

    /// How long until there is a token.
    fn wait(&self, act: Act, rate: Rate, now: Moment) -> Duration {
        let next = self.full_at[act as usize].load(Relaxed).max(now.0) + rate.token();
        Duration::from_micros(next.saturating_sub(now.0 + rate.within_us()))
    }
}

/// The addresses and networks of all clients that are limited; one for all shards.
#[derive(Debug)]
pub struct Clients {
    limits: Limits,
    hash: HashState,
    slots: Box<[Slot]>,
}

/// A client's address, or the network around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// The address.
    Address(IpAddr),
    /// First address of the network, and leading bits.
    Network(IpAddr, u8),
}

impl Who {
    /// The address and its network.
    fn both(address: IpAddr) -> [Self; 2] {
        let (v4, v6) = NETWORK_BITS;
        match address.to_canonical() {
            IpAddr::V4(own) => {
                let first = Ipv4Addr::from_bits(own.to_bits() & (u32::MAX << (32 - v4)));
                [Self::Address(own.into()), Self::Network(first.into(), v4)]
            }
            IpAddr::V6(own) => {
                let first = Ipv6Addr::from_bits(own.to_bits() & (u128::MAX << (128 - v6)));
                [Self::Address(own.into()), Self::Network(first.into(), v6)]
            }
        }
    }

    fn times(self, limits: &Limits) -> u32 {
        if matches!(self, Self::Network(..)) { limits.network_factor.max(1) } else { 1 }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Network(first, bits) => write!(f, "{first}/{bits}"),
        }
    }
}

/// A limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Whose.
    pub who: Who,
    /// Which; `None`: connections open at once.
    pub act: Option<Act>,
    /// The limit.
    pub limit: u32,
    /// The time that it is for; zero: at once.
    pub within: Duration,
    /// When there is room again; zero when nobody can say.
    pub wait: Duration,
}

impl Excess {
    /// How it is counted.
    pub fn kind(&self) -> LimitKind {
        match self.act {
            None => LimitKind::Connections,
            Some(Act::Connection) => LimitKind::ConnectionRate,
            Some(Act::Message) => LimitKind::MessageRate,
            Some(Act::Error) => LimitKind::ErrorRate,
            Some(Act::AuthFailure) => LimitKind::AuthFailures,
        }
    }

    /// What the client is told: what it has too many of, how many it may have, when to come again.
    pub fn refusal(&self) -> Refusal {
        let what = match self.act {
            None | Some(Act::Connection) => "connections",
            Some(Act::Message) => "messages",
            Some(Act::Error) => "errors",
            Some(Act::AuthFailure) => "failed logins",
        };
        let unit = match self.within {
            Duration::ZERO => "at once".to_owned(),
            MINUTE => "a minute".to_owned(),
            other => format!("in {} s", other.as_secs()),
        };
        let when = match self.act {
            None => "when one is closed".to_owned(),
            Some(_) => format!("in {} s", self.wait.as_secs() + 1),
        };
        let (who, limit) = (self.who, self.limit);
        let text = format!("Too many {what} from {who}, at most {limit} {unit}; try again {when}");
        // A message can wait in an open session; whoever is over the others is better off without one.
        let code = if self.act == Some(Act::Message) { 450 } else { 421 };
        Refusal { code, enhanced: Enhanced(4, 7, if code == 450 { 1 } else { 0 }), text: text.into() }
    }
}

impl Clients {
    /// Nobody known yet; `connections_max` is the budget of the process and sizes the table.
    pub fn new(limits: Limits, connections_max: u32) -> Arc<Self> {
        let wanted = (connections_max as usize).saturating_mul(SLOTS_PER_CONNECTION);
        let slots = wanted.clamp(SLOTS.0, SLOTS.1).next_power_of_two();
        Self::with_slots(limits, slots)
    }

    fn with_slots(limits: Limits, slots: usize) -> Arc<Self> {
        let slots = (0..slots.next_multiple_of(WAYS)).map(|_| Slot::default()).collect();
        Arc::new(Self { limits, hash: HashState::default(), slots })
    }

    /// Counts a connection from `address` in, until the pass is dropped.
    ///
    /// # Errors
    /// When the address or its network has too many connections, opens them too quickly, or has made too many errors.
    pub fn admit(self: &Arc<Self>, address: IpAddr, now: Moment) -> Result<Pass, Excess> {
        let who = Who::both(address);
        let mut pass = Pass { clients: self.clone(), who, places: [None; 2] };
        for (who, place) in who.into_iter().zip(&mut pass.places) {
            let Some((found, open)) = self.enter(who) else { continue };
            *place = Some(found);
            let limit = self.limits.connections.saturating_mul(who.times(&self.limits));
            if limit > 0 && open > limit {
                let (within, wait) = (Duration::ZERO, Duration::ZERO);
                return Err(Excess { who, act: None, limit, within, wait });
            }
        }
        for act in [Act::Error, Act::AuthFailure] {
            pass.each(act, |slot, rate| match slot.wait(act, rate, now) {
                Duration::ZERO => Ok(()),
                wait => Err(wait),
            })?;
        }
        pass.count(Act::Connection, now)?;
        Ok(pass)
    }

    /// The slot of `who`, and the connections in it with this one.
    fn enter(&self, who: Who) -> Option<(usize, u32)> {
        let key = self.hash.hash_one(match who {
            Who::Address(address) => (address, 0),
            Who::Network(first, bits) => (first, bits),
        });
        let key = key.max(1);
        let first = (key as usize) % (self.slots.len() / WAYS) * WAYS;
        let set = &self.slots[first..first + WAYS];
        // Again only if another shard gives the slot away in between; then the address goes uncounted.
        for _ in 0..2 {
            let known = set.iter().position(|slot| slot.key.load(Relaxed) == key);
            let place = match known {
                Some(place) => place,
                None => claim(set, key)?,
            };
            let open = set[place].connections.fetch_add(1, Relaxed) + 1;
            if set[place].key.load(Relaxed) == key {
                return Some((first + place, open));
            }
            set[place].connections.fetch_sub(1, Relaxed);
        }
        None
    }
}

/// Gives `key` the slot that has the least to forget; `None` when all have connections.
fn claim(set: &[Slot], key: u64) -> Option<usize> {
    let free = set.iter().enumerate().filter(|(_, slot)| slot.connections.load(Relaxed) == 0);
    let (place, slot) = free.min_by_key(|(_, slot)| slot.settled_at())?;
    let before = slot.key.load(Relaxed);
    slot.key.compare_exchange(before, key, Relaxed, Relaxed).ok()?;
    for at in &slot.full_at {
        at.store(0, Relaxed);
    }
    Some(place)
}

/// A connection that is counted in. Dropped, it is counted out.
#[derive(Debug)]
pub struct Pass {
    clients: Arc<Clients>,
    who: [Who; 2],
    places: [Option<usize>; 2],
}

impl Pass {
    /// Counts something that the client does.
    ///
    /// # Errors
    /// When its address, or its network, has done it too often; then it is not counted.
    pub fn count(&self, act: Act, now: Moment) -> Result<(), Excess> {
        self.each(act, |slot, rate| slot.take(act, rate, now))
    }

    /// It was not what it was counted as.
    pub fn take_back(&self, act: Act) {
        let given = self.each(act, |slot, rate| {
            slot.give_back(act, rate);
            Ok(())
        });
        debug_assert!(given.is_ok(), "giving back meets no limit");
    }

    fn each(&self, act: Act, take: impl Fn(&Slot, Rate) -> Result<(), Duration>) -> Result<(), Excess> {
        for (who, place) in self.who.into_iter().zip(self.places) {
            if let Some(place) = place
                && let Some(rate) = self.clients.limits.rate(act, who)
                && let Err(wait) = take(&self.clients.slots[place], rate)
            {
                return Err(Excess { who, act: Some(act), limit: rate.count, within: rate.within, wait });
            }
        }
        Ok(())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        for place in self.places.into_iter().flatten() {
            self.clients.slots[place].connections.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
