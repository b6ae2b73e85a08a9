//! PURE. What of a path is due to each shard, so that tenants get their parts of it whatever shards they wait in.
//!
//! A tenant's weight is divided by the shards that it waits in, and a shard is due the sum of its tenants' parts: a tenant on
//! one shard gets as much as one on all. Inside a shard the queue takes turns by the same parts, which are told to it as the
//! *spread* of its tenants.

use std::sync::Arc;

use crate::id::{TenantKey, TenantShare};

/// A weight of 1, in the units of [`due`].
const ONE: u64 = 1 << 16;

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

/// At how many of `all` shards the tenant waits.
fn shards_of<'a>(tenant: TenantKey, all: impl Iterator<Item = &'a Waiting>) -> u16 {
    let waits = |waiting: &&Waiting| waiting.tenants.iter().any(|share| share.tenant == tenant);
    u16::try_from(all.filter(waits).count()).unwrap_or(u16::MAX)
}

/// What is due to a shard, against the others; `all` are the shards where somebody waits, this one among them.
pub fn due<'a>(of: &Waiting, all: impl Iterator<Item = &'a Waiting> + Clone) -> u64 {
    let part = |share: &TenantShare| {
        u64::from(share.weight) * ONE / u64::from(shards_of(share.tenant, all.clone()).max(1))
    };
    let sum = of.tenants.iter().map(part).sum::<u64>() + u64::from(of.others) * ONE;
    // Who has said nothing of tenants counts as one.
    if sum == 0 { ONE } else { sum }
}

/// What a shard's queue must know of its tenants. Nothing while they all wait at as many shards: only the proportions count.
pub fn spread<'a>(of: &Waiting, all: impl Iterator<Item = &'a Waiting> + Clone) -> Spread {
    let spread: Spread =
        of.tenants.iter().map(|share| (share.tenant, shards_of(share.tenant, all.clone()))).collect();
    match spread.first() {
        Some((_, first)) if spread.iter().any(|(_, shards)| shards != first) => spread,
        _ => Spread::new(),
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
        let due: Vec<_> = all.iter().map(|shard| due(shard, all.iter())).collect();
        // The first shard is due the whole part of tenant 2, and a quarter of tenant 1's.
        assert_eq!(due, [ONE + ONE / 4, ONE / 4, ONE / 4, ONE / 4]);
        assert_eq!(spread(&all[0], all.iter()), [(TenantKey(1), 4), (TenantKey(2), 1)]);
        assert_eq!(spread(&all[1], all.iter()), []);
    }

    #[test]
    fn weights_count_and_shards_that_list_nobody_are_due_something() {
        let many = Waiting { others: 40, ..Waiting::default() };
        let all = [waiting(&[(1, 3)]), many, Waiting::default()];
        let due: Vec<_> = all.iter().map(|shard| due(shard, all.iter())).collect();
        assert_eq!(due, [3 * ONE, 40 * ONE, ONE]);
    }
}
