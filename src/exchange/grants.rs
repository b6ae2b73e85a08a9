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

    fn wants(&self) -> bool {
        self.served && !self.unacknowledged && (self.active || u64::from(self.ready) > self.outstanding())
    }

    /// Has jobs and no credit for any.
    fn starves(&self) -> bool {
        self.served && !self.unacknowledged && self.ready > 0 && self.outstanding() == 0
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

    /// Opens an account for a shard that has not announced the path here: its first grant tells it of this lane.
    pub fn invite(&mut self, shard: ShardIndex) {
        let account = self.account(shard, false);
        account.ready = account.ready.max(1);
    }

    /// Says whom this lane serves; the others are left to the lanes on their own executors.
    pub fn set_served(&mut self, served: impl Fn(ShardIndex) -> bool) {
        for account in &mut self.accounts {
            account.served = served(account.shard);
        }
    }

    /// Grants so that, with the `busy` jobs that are here already, about `want` jobs are here or may come. Whoever wants
    /// any gets at least one in turn, as long as `want` allows. Credits in advance that nobody uses keep nobody waiting:
    /// for them more may come than `want`, at most as much from each shard.
    pub fn replenish(&mut self, want: u32, busy: u32) {
        self.share_out(want, busy);
        self.feed_starving(want, busy);
    }

    /// Grants to shards without a credit what is held by shards that have nothing to send with it.
    fn feed_starving(&mut self, want: u32, busy: u32) {
        let starving = self.accounts.iter().filter(|account| account.starves()).count() as u64;
        if starving == 0 {
            return;
        }
        let coming: u64 =
            self.accounts.iter().map(|account| account.outstanding().min(u64::from(account.ready))).sum();
        let mut free = u64::from(want).saturating_sub(u64::from(busy) + coming);
        let share = free.div_ceil(starving);
        for account in self.accounts.iter_mut().filter(|account| account.starves()) {
            let more = share.min(free).min(u64::from(account.ready));
            account.granted += more;
            account.dirty |= more > 0;
            free -= more;
        }
    }

    fn share_out(&mut self, want: u32, busy: u32) {
        let outstanding = self.outstanding();
        let mut free = u64::from(want).saturating_sub(u64::from(busy) + outstanding);
        let wanting = self.accounts.iter().filter(|account| account.wants()).count() as u64;
        if wanting == 0 || free == 0 {
            return;
        }
        // Topping up each single credit would send a message for each job: wait until a quarter is free.
        if free * 4 < u64::from(want) && outstanding > 0 {
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
        for account in &mut self.accounts {
            account.epoch = account.epoch.wrapping_add(1);
            (account.granted, account.arrived) = (0, 0);
            (account.unacknowledged, account.dirty, account.active) = (true, true, false);
        }
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

    /// Whether a shard has sent jobs, or has some, since the last [`Self::cool`].
    pub fn is_idle(&self) -> bool {
        self.demanding().next().is_none()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;
    use crate::id::PathId;
    use crate::routing::{PathKind, PathLimits, PathSpec};
    use std::sync::Arc;
    use std::time::Duration;

    const A: ShardIndex = ShardIndex(0);
    const B: ShardIndex = ShardIndex(1);

    fn demand(ready: u32) -> Demand {
        let limits = PathLimits {
            connections: 1,
            messages_per_connection: 1,
            recipients_per_transaction: 1,
            window: 100,
            idle: Duration::ZERO,
        };
        let spec =
            PathSpec { id: PathId(1), version: 1, name: String::new(), kind: PathKind::Discard, limits };
        Demand { path: Arc::new(spec), epoch: 0, sent: 0, ready, oldest: WallTime::default() }
    }

    /// What `shard` may send now.
    fn credits(grants: &mut Grants, shard: ShardIndex) -> u64 {
        grants.account(shard, false).outstanding()
    }

    #[test]
    fn credits_that_lie_idle_at_one_shard_keep_no_other_waiting() {
        let mut grants = Grants::default();
        // A has been busy and holds all that may come, in advance; now it has nothing.
        grants.demand(A, &demand(1), false);
        grants.replenish(4, 0);
        grants.arrived(A, false);
        grants.replenish(4, 0);
        assert_eq!(credits(&mut grants, A), 4);
        // B must not wait for A to send, nor for A's period to end.
        grants.demand(B, &demand(3), false);
        grants.replenish(4, 0);
        assert_eq!(credits(&mut grants, B), 3);
    }

    #[test]
    fn a_shard_that_uses_its_credits_is_not_taken_for_an_idle_one() {
        let mut grants = Grants::default();
        grants.demand(A, &demand(100), false);
        grants.replenish(8, 0);
        grants.demand(B, &demand(100), false);
        grants.replenish(8, 0);
        assert_eq!((credits(&mut grants, A), credits(&mut grants, B)), (8, 0));
        for _ in 0..4 {
            grants.arrived(A, false);
        }
        // Its jobs are here and waited for: nothing is free yet.
        grants.replenish(8, 4);
        assert_eq!(credits(&mut grants, B), 0);
        grants.replenish(8, 0);
        assert!(credits(&mut grants, B) > 0);
    }

    #[test]
    fn no_shard_ever_holds_more_than_may_be_here_at_all() {
        let (mut grants, mut seed) = (Grants::default(), 3u64);
        for _ in 0..10_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let shard = ShardIndex((seed >> 33) as u16 % 4);
            match (seed >> 40) % 4 {
                0 => grants.demand(shard, &demand((seed >> 45) as u32 % 50), false),
                1 => grants.cool(),
                _ if credits(&mut grants, shard) > 0 => grants.arrived(shard, false),
                _ => {}
            }
            grants.replenish(16, (seed >> 50) as u32 % 20);
            for shard in 0..4 {
                assert!(credits(&mut grants, ShardIndex(shard)) <= 16);
            }
        }
    }
}
