//! PURE. What of a path is due to each shard, so that tenants get their parts of it whatever shards they wait in.
//!
//! A tenant's weight is divided by the shards that it waits in, and a shard is due the sum of its tenants' parts: a tenant on
//! one shard gets as much as one on all. Inside a shard the queue takes turns by the same parts, which are told to it as the
//! *spread* of its tenants.

use std::collections::HashMap;
use std::sync::Arc;

use crate::hash::HashState;
use crate::id::{TenantKey, TenantShare};

/// A weight of 1, in the units of [`Shards::due`].
pub(super) const ONE: u64 = 1 << 16;

/// Who waits at a shard for a path.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    /// Tenants with ready legs; none where there are too many to list.
    pub tenants: Arc<[TenantShare]>,
    /// Weights of those that are not listed.
    pub others: u32,
}

/// Tenants who wait at several shards, and at how many.
pub type Spread = Vec<(TenantKey, u16)>;

/// At how many shards each tenant waits.
#[derive(Debug, Default)]
pub struct Shards(HashMap<TenantKey, u16, HashState>);

impl Shards {
    /// Of those where somebody waits.
    pub fn of<'a>(all: impl Iterator<Item = &'a Waiting>) -> Self {
        let mut shards = Self::default();
        for share in all.flat_map(|waiting| waiting.tenants.iter()) {
            *shards.0.entry(share.tenant).or_default() += 1;
        }
        shards
    }

    fn count(&self, tenant: TenantKey) -> u16 {
        self.0.get(&tenant).copied().unwrap_or(1)
    }

    /// What is due to a shard, against the others.
    pub fn due(&self, of: &Waiting) -> u64 {
        let part = |share: &TenantShare| u64::from(share.weight) * ONE / u64::from(self.count(share.tenant));
        let sum = of.tenants.iter().map(part).sum::<u64>() + u64::from(of.others) * ONE;
        // Who has said nothing of tenants counts as one.
        if sum == 0 { ONE } else { sum }
    }

    /// What a shard's queue must know of its tenants. Nothing while they all wait at as many shards: only the proportions count.
    pub fn spread(&self, of: &Waiting) -> Spread {
        let count = |share: &TenantShare| (share.tenant, self.count(share.tenant));
        let spread: Spread = of.tenants.iter().map(count).collect();
        match spread.first() {
            Some((_, first)) if spread.iter().any(|(_, shards)| shards != first) => spread,
            _ => Spread::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(tenants: &[(u64, u32)]) -> Waiting {
        let share =
            |(tenant, weight): &(u64, u32)| TenantShare { tenant: TenantKey(*tenant), weight: *weight };
        Waiting { tenants: tenants.iter().map(share).collect(), others: 0 }
    }

    #[test]
    fn a_tenant_on_one_shard_is_due_as_much_as_one_on_all() {
        let all = [waiting(&[(1, 1), (2, 1)]), waiting(&[(1, 1)]), waiting(&[(1, 1)]), waiting(&[(1, 1)])];
        let shards = Shards::of(all.iter());
        let due: Vec<_> = all.iter().map(|shard| shards.due(shard)).collect();
        // The first shard is due the whole part of tenant 2, and a quarter of tenant 1's.
        assert_eq!(due, [ONE + ONE / 4, ONE / 4, ONE / 4, ONE / 4]);
        assert_eq!(shards.spread(&all[0]), [(TenantKey(1), 4), (TenantKey(2), 1)]);
        assert_eq!(shards.spread(&all[1]), []);
    }

    #[test]
    fn weights_count_and_shards_that_list_nobody_are_due_something() {
        let many = Waiting { others: 40, ..Waiting::default() };
        let all = [waiting(&[(1, 3)]), many, Waiting::default()];
        let shards = Shards::of(all.iter());
        let due: Vec<_> = all.iter().map(|shard| shards.due(shard)).collect();
        assert_eq!(due, [3 * ONE, 40 * ONE, ONE]);
    }
}
