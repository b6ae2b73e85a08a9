//! PURE. The worker's end of the exchange, for one path: which shard has been granted how many jobs.

use super::{CREDITS_AT_START, Demand};
use crate::id::ShardIndex;

/// Accounts of all shards that have announced the path to this worker.
#[derive(Debug, Default)]
pub struct Grants {
    accounts: Vec<Account>,
    /// Where the next round of grants starts, so that no shard is always first.
    turn: usize,
}

#[derive(Debug)]
struct Account {
    shard: ShardIndex,
    epoch: u32,
    granted: u64,
    arrived: u64,
    ready: u32,
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

    fn wants(&self) -> bool {
        self.served && !self.unacknowledged && (self.active || u64::from(self.ready) > self.outstanding())
    }
}

impl Grants {
    /// Takes over news from a shard. `at_home` says whether this worker is the path's home, where an account starts
    /// with a credit.
    pub fn demand(&mut self, shard: ShardIndex, demand: &Demand, at_home: bool) {
        let account = self.account(shard, at_home);
        account.ready = demand.ready;
        if demand.epoch == account.epoch {
            account.unacknowledged = false;
        }
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
        let mut free = room.saturating_sub(outstanding);
        if !is_enough(free, outstanding) {
            return;
        }
        let share = free.div_ceil(wanting);
        let count = self.accounts.len();
        for offset in 0..count {
            let account = &mut self.accounts[(self.turn + offset) % count];
            if !account.wants() {
                continue;
            }
            let more = share.min(free);
            if more == 0 {
                self.turn = (self.turn + offset) % count;
                return;
            }
            account.granted += more;
            account.dirty = true;
            free -= more;
        }
        self.turn = (self.turn + 1) % count;
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

    /// Whether a grant waits to be sent.
    pub fn has_unsaid(&self) -> bool {
        self.accounts.iter().any(|account| account.dirty)
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
