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

    /// Whether its credits are likely to be used soon.
    fn has_some(&self) -> bool {
        self.active || self.ready > 0
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
    /// any gets at least one in turn, as long as `want` allows.
    ///
    /// Credits of shards that have nothing do not count: they cannot be taken back without a round trip, and those who
    /// have mail must not wait for those who have none. Nor must a shard without any credit wait for busier ones. What
    /// comes beyond `want` then, at most as much for each shard, waits here and not there.
    pub fn replenish(&mut self, want: u32, busy: u32) {
        let promised: u64 =
            self.accounts.iter().filter(|account| account.has_some()).map(Account::outstanding).sum();
        let free = u64::from(want).saturating_sub(u64::from(busy) + promised);
        let wanting = self.accounts.iter().filter(|account| account.wants()).count() as u64;
        if wanting == 0 {
            return;
        }
        // Topping up each single credit would send a message for each job: wait until a quarter is free.
        let is_worth_it = free > 0 && (free * 4 >= u64::from(want) || promised == 0);
        let mut free = if is_worth_it { free } else { 0 };
        let share = free.div_ceil(wanting);
        let least = (u64::from(want) / (4 * wanting)).max(1);
        let (count, start) = (self.accounts.len(), self.turn);
        self.turn = (start + 1) % count;
        for offset in 0..count {
            let at = (start + offset) % count;
            let account = &mut self.accounts[at];
            if !account.wants() {
                continue;
            }
            let fair = share.min(free);
            if fair == 0 && is_worth_it && offset > 0 {
                self.turn = at;
            }
            let starved = account.ready > 0 && account.outstanding() == 0;
            let more = if starved { fair.max(least.min(u64::from(account.ready))) } else { fair };
            if more > 0 {
                account.granted += more;
                account.dirty = true;
                free = free.saturating_sub(more);
            }
        }
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

    /// Ends a period: shards that send nothing in the next one get no credits in advance. Says whether one fell quiet.
    pub fn cool(&mut self) -> bool {
        let mut fell_quiet = false;
        for account in &mut self.accounts {
            fell_quiet |= std::mem::take(&mut account.active);
        }
        fell_quiet
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

    fn demand(ready: u32) -> Demand {
        let limits = PathLimits {
            connections: 8,
            messages_per_connection: 100,
            recipients_per_transaction: 64,
            window: 1024,
            idle: Duration::from_secs(60),
        };
        let path =
            PathSpec { id: PathId(1), version: 1, name: "test".into(), kind: PathKind::Discard, limits };
        Demand { path: Arc::new(path), epoch: 0, sent: 0, ready, oldest: WallTime::default() }
    }

    fn granted(grants: &mut Grants, shard: u16) -> u64 {
        let all = std::iter::from_fn(|| grants.poll_grant(|_| true)).collect::<Vec<_>>();
        all.iter().rev().find(|(to, ..)| to.0 == shard).map_or(0, |(_, _, granted)| *granted)
    }

    #[test]
    fn a_shard_without_credits_gets_some_though_a_busier_one_has_all() {
        let mut grants = Grants::default();
        grants.demand(ShardIndex(0), &demand(1000), true);
        grants.replenish(32, 0);
        assert!(granted(&mut grants, 0) >= 32);
        // The second begins without any, as at a lane that is not home.
        grants.demand(ShardIndex(1), &demand(50), false);
        grants.replenish(32, 0);
        assert!(granted(&mut grants, 1) >= 1);
    }

    #[test]
    fn credits_of_a_shard_that_has_gone_quiet_are_no_longer_counted() {
        let mut grants = Grants::default();
        grants.demand(ShardIndex(0), &demand(100), true);
        grants.replenish(32, 0);
        granted(&mut grants, 0);
        grants.arrived(ShardIndex(0), true);
        grants.demand(ShardIndex(0), &demand(0), true);
        grants.cool();
        grants.demand(ShardIndex(1), &demand(20), true);
        grants.replenish(32, 0);
        assert!(granted(&mut grants, 1) >= 20, "as if the first had none");
    }

    #[test]
    fn a_shard_with_credits_enough_gets_no_more_for_being_asked_again() {
        let mut grants = Grants::default();
        grants.demand(ShardIndex(0), &demand(5), true);
        grants.replenish(32, 0);
        let first = granted(&mut grants, 0);
        for _ in 0..100 {
            grants.replenish(32, 0);
        }
        assert_eq!(granted(&mut grants, 0), 0, "after {first}");
    }
}
