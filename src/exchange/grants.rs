//! PURE. The worker's end of the exchange, for one path: which shard has been granted how many jobs.

use super::shares::{ONE, Shards, Spread, Waiting};
use super::{CREDITS_AT_START, Demand};
use crate::id::ShardIndex;

/// Accounts of all shards that have announced the path to this worker.
#[derive(Debug, Default)]
pub struct Grants {
    accounts: Vec<Account>,
    /// What is due to somebody has changed.
    due_is_news: bool,
}

#[derive(Debug)]
struct Account {
    shard: ShardIndex,
    epoch: u32,
    granted: u64,
    arrived: u64,
    ready: u32,
    waiting: Waiting,
    /// What the shard was told of its tenants.
    spread: Spread,
    spread_is_news: bool,
    /// What is due to it, against the others; 0 is not known.
    due: u64,
    /// What it is behind, or ahead of, what it is due, in credits times all that is due.
    owed: i64,
    /// A tenant has joined those of the shard, and no credit was given since.
    joined: bool,
    /// Jobs have come since the last [`Grants::cool`]: keeps credits though no demand is known at the moment.
    active: bool,
    /// The shard has not yet said that it knows the epoch: what arrives was sent in the one before.
    unacknowledged: bool,
    /// May be granted anything: false for shards that another lane serves.
    served: bool,
    dirty: bool,
}

impl Account {
    fn outstanding(&self) -> u64 {
        self.granted.saturating_sub(self.arrived)
    }

    fn revoke(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        (self.granted, self.arrived) = (0, 0);
        (self.unacknowledged, self.dirty, self.active) = (true, true, false);
    }

    /// What is due to it if it wants any.
    fn due_now(&self) -> i64 {
        let due = if self.due == 0 { ONE } else { self.due };
        if self.wants() { i64::try_from(due).unwrap_or(i64::MAX) } else { 0 }
    }

    /// Gives credits, which cost `all` that is due each.
    fn give(&mut self, count: u64, all: i64) {
        self.joined = false;
        self.owed = self.owed.saturating_sub(i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(all));
        self.granted += count;
        self.dirty = true;
    }

    /// Most credits to give it now.
    fn room(&self, equal: u64) -> u64 {
        let known = u64::from(self.ready).saturating_sub(self.outstanding());
        match self.wants() {
            true if self.active => known.max(equal),
            true => known,
            false => 0,
        }
    }

    fn wants(&self) -> bool {
        self.served && !self.unacknowledged && (self.active || u64::from(self.ready) > self.outstanding())
    }
}

impl Grants {
    /// Takes over news from a shard. `at_home` says whether this worker is the path's home, where an account starts
    /// with a credit.
    pub fn demand(&mut self, shard: ShardIndex, demand: &Demand, at_home: bool) {
        let account = self.account(shard, at_home);
        let is_news = (account.ready == 0) != (demand.ready == 0)
            || account.due == 0
            || account.waiting.tenants != demand.waiting.tenants
            || account.waiting.others != demand.waiting.others;
        account.ready = demand.ready;
        account.waiting = demand.waiting.clone();
        account.joined |= demand.joined;
        if demand.epoch == account.epoch {
            account.unacknowledged = false;
        }
        if is_news {
            self.share_anew();
        }
    }

    /// Works out what is due to the shards, and how their tenants are spread over them.
    fn share_anew(&mut self) {
        let waiting = self.accounts.iter().filter(|account| account.ready > 0);
        let shards = Shards::of(waiting.map(|account| &account.waiting));
        for account in &mut self.accounts {
            let (due, spread) = (shards.due(&account.waiting), shards.spread(&account.waiting));
            self.due_is_news |= std::mem::replace(&mut account.due, due) != due;
            account.spread_is_news |= std::mem::replace(&mut account.spread, spread.clone()) != spread;
        }
    }

    /// What is due to a shard, against the others.
    pub fn due(&self, shard: ShardIndex) -> u64 {
        self.accounts.iter().find(|account| account.shard == shard).map_or(0, |account| account.due)
    }

    /// Whether what is due to somebody has changed since this was asked last.
    pub fn take_due_news(&mut self) -> bool {
        std::mem::take(&mut self.due_is_news)
    }

    /// What to tell a shard of its tenants: for the path's home to say.
    pub fn poll_spread(&mut self, has_room: impl Fn(ShardIndex) -> bool) -> Option<(ShardIndex, Spread)> {
        let news = |account: &&mut Account| account.spread_is_news && has_room(account.shard);
        let account = self.accounts.iter_mut().find(news)?;
        account.spread_is_news = false;
        Some((account.shard, account.spread.clone()))
    }

    /// A job arrived.
    pub fn arrived(&mut self, shard: ShardIndex, at_home: bool) {
        let account = self.account(shard, at_home);
        account.active = true;
        account.ready = account.ready.saturating_sub(1);
        if !account.unacknowledged {
            account.arrived += 1;
        }
    }

    /// Takes a shard to have a leg for the path, unless it has said so itself: the grant that follows makes it say what
    /// it really has.
    pub fn invite(&mut self, shard: ShardIndex) {
        let account = self.account(shard, false);
        if account.outstanding() == 0 {
            account.ready = account.ready.max(1);
        }
    }

    /// Says whom this lane serves; the others are left to the lanes on their own executors.
    pub fn set_served(&mut self, served: impl Fn(ShardIndex) -> bool) {
        for account in &mut self.accounts {
            account.served = served(account.shard);
        }
    }

    /// Grants so that, with the `busy` jobs that are here already, about `want` jobs are here or may come. Whoever wants
    /// any gets at least one in turn, as long as `want` allows.
    pub fn replenish(&mut self, want: u32, busy: u32) {
        let want = u64::from(want);
        self.let_in_joined(want, u64::from(busy));
        let room = want.saturating_sub(u64::from(busy));
        let wanting = self.accounts.iter().filter(|account| account.wants()).count() as u64;
        if wanting == 0 || room == 0 {
            return;
        }
        // Topping up each single credit would send a message for each job: wait until a quarter is free.
        let is_enough = |free: u64, outstanding: u64| free > 0 && (free * 4 >= want || outstanding == 0);
        if !is_enough(room.saturating_sub(self.outstanding()), self.outstanding()) {
            self.reclaim();
        }
        let outstanding = self.outstanding();
        let free = room.saturating_sub(outstanding);
        if is_enough(free, outstanding) {
            self.share_out(free, free.div_ceil(wanting));
        }
    }

    /// A shard that another tenant has joined gets a credit at once if it has none, so that a message now and then does not wait until
    /// somebody's backlog leaves room. With these there are no more jobs than wanted and one for each shard.
    fn let_in_joined(&mut self, want: u64, busy: u64) {
        let most = want + self.accounts.len() as u64;
        let mut here = busy + self.outstanding();
        for account in &mut self.accounts {
            let waits = std::mem::take(&mut account.joined) && account.wants() && account.outstanding() == 0;
            if waits && here < most {
                account.granted += 1;
                account.dirty = true;
                here += 1;
            }
        }
    }

    /// Gives `free` credits to those who want any, by what is due to them. A shard that may have more legs than it has said gets
    /// no more for those than an `equal` share.
    fn share_out(&mut self, mut free: u64, equal: u64) {
        let due: Vec<i64> = self.accounts.iter().map(Account::due_now).collect();
        let all: i64 = due.iter().sum();
        let parts = i64::try_from(free).unwrap_or(i64::MAX);
        let mut room: Vec<u64> = self.accounts.iter().map(|account| account.room(equal)).collect();
        // Whole parts first, then one by one to whom most is owed.
        for ((account, due), room) in self.accounts.iter_mut().zip(&due).zip(&mut room) {
            account.owed = account.owed.clamp(-all, all).saturating_add(parts.saturating_mul(*due));
            let whole = u64::try_from(account.owed / all.max(1)).unwrap_or(0).min(*room).min(free);
            if whole > 0 {
                account.give(whole, all);
                (*room, free) = (*room - whole, free - whole);
            }
        }
        while free > 0 {
            let open = self.accounts.iter_mut().zip(&mut room).filter(|(_, room)| **room > 0);
            let Some((account, room)) = open.max_by_key(|(account, _)| account.owed) else { return };
            account.give(1, all);
            (*room, free) = (*room - 1, free - 1);
        }
    }

    /// Takes all credits back: new epochs begin with none. What is on its way still arrives, and must be sent back.
    pub fn revoke(&mut self) {
        self.accounts.iter_mut().for_each(Account::revoke);
    }

    /// Takes back credits that nobody is known to use, if somebody else is known to want some: left where they are they
    /// would keep everybody else waiting for as long as that shard has no mail.
    fn reclaim(&mut self) {
        let is_starved =
            |account: &Account| account.wants() && u64::from(account.ready) > account.outstanding();
        if !self.accounts.iter().any(is_starved) {
            return;
        }
        let lie_idle = |account: &&mut Account| {
            !account.unacknowledged && account.outstanding() > 0 && (account.ready == 0 || !account.served)
        };
        self.accounts.iter_mut().filter(lie_idle).for_each(Account::revoke);
    }

    /// The next grant to send: shard, epoch, total.
    pub fn poll_grant(&mut self, has_room: impl Fn(ShardIndex) -> bool) -> Option<(ShardIndex, u32, u64)> {
        let account = self.accounts.iter_mut().find(|account| account.dirty && has_room(account.shard))?;
        account.dirty = false;
        Some((account.shard, account.epoch, account.granted))
    }

    /// Jobs that were granted and have not arrived.
    pub fn outstanding(&self) -> u64 {
        self.accounts.iter().map(Account::outstanding).sum()
    }

    /// Whether a grant waits to be sent, or a spread where this is the path's home.
    pub fn has_unsaid(&self, at_home: bool) -> bool {
        self.accounts.iter().any(|account| account.dirty || (at_home && account.spread_is_news))
    }

    /// Ready legs at the shards that this worker knows of.
    pub fn ready(&self) -> u64 {
        self.accounts.iter().map(|account| u64::from(account.ready)).sum()
    }

    /// Shards with ready legs, or with jobs of late.
    pub fn demanding(&self) -> impl Iterator<Item = ShardIndex> {
        self.accounts
            .iter()
            .filter(|account| account.ready > 0 || account.active)
            .map(|account| account.shard)
    }

    /// All shards that ever had legs for the path: their jobs may wait here, however long ago they came.
    pub fn known(&self) -> impl Iterator<Item = ShardIndex> {
        self.accounts.iter().map(|account| account.shard)
    }

    /// Whether a shard has said that it has legs.
    pub fn has_ready(&self, shard: ShardIndex) -> bool {
        self.accounts.iter().any(|account| account.shard == shard && account.ready > 0)
    }

    /// Whether a shard that is served here has said that it has legs.
    pub fn expects(&self) -> bool {
        self.accounts.iter().any(|account| account.served && account.ready > 0)
    }

    /// Whether no shard that is served here has jobs, or has sent any since the last [`Self::cool`].
    pub fn is_idle(&self) -> bool {
        !self.accounts.iter().any(|account| account.served && (account.ready > 0 || account.active))
    }

    /// Ends a period: shards that send nothing in the next one get no credits in advance.
    pub fn cool(&mut self) {
        for account in &mut self.accounts {
            account.active = false;
        }
    }

    fn account(&mut self, shard: ShardIndex, at_home: bool) -> &mut Account {
        let at = self.accounts.iter().position(|account| account.shard == shard).unwrap_or_else(|| {
            self.accounts.push(Account {
                shard,
                epoch: 0,
                granted: if at_home { CREDITS_AT_START } else { 0 },
                arrived: 0,
                ready: 0,
                waiting: Waiting::default(),
                spread: Spread::new(),
                spread_is_news: false,
                due: 0,
                owed: 0,
                joined: false,
                active: false,
                unacknowledged: false,
                served: true,
                dirty: false,
            });
            self.accounts.len() - 1
        });
        &mut self.accounts[at]
    }
}
