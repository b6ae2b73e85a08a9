//! Takes connections and places each on the shard that has the fewest.
//!
//! Few long-lived connections spread badly over SO_REUSEPORT listeners: the kernel hashes, and of 16 connections on 16
//! shards a third of the shards get none. So an accept looks at how many connections each shard has, and hands the fresh
//! descriptor, before the banner, to the least loaded one if that is another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::id::ShardIndex;

/// Connections of every shard, shared by all of them. Touched when connections come and go, never while mail flows.
#[derive(Clone, Debug)]
pub struct Loads {
    counts: Arc<[AtomicU32]>,
    /// Connections were steered to where their packets come in: they stay there while it has at most an eighth more than the
    /// least loaded shard. Strict balance would hand half of them over again.
    steered: bool,
}

impl Loads {
    /// For `shards` shards without connections.
    pub fn new(shards: u16, steered: bool) -> Self {
        Self { counts: (0..shards).map(|_| AtomicU32::new(0)).collect(), steered }
    }

    /// Reserves a place on the shard with the fewest connections; `own` wins a tie, and a near one if connections are steered.
    pub fn reserve(&self, own: ShardIndex) -> ShardIndex {
        loop {
            let mut best = (self.load(own), own);
            let near = best.0;
            for index in (0..self.counts.len() as u16).map(ShardIndex) {
                let load = self.load(index);
                if load < best.0 {
                    best = (load, index);
                }
            }
            if self.steered && near <= best.0 + best.0 / 8 {
                best = (near, own);
            }
            // Another shard may have given it a connection since: then look again, or a burst would pile up on one.
            let (load, shard) = (&self.counts[usize::from(best.1.0)], best.1);
            if load.compare_exchange(best.0, best.0 + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return shard;
            }
        }
    }

    /// Moves a reservation: the other shard could not take the connection.
    pub fn move_place(&self, from: ShardIndex, to: ShardIndex) {
        self.release(from);
        self.counts[usize::from(to.0)].fetch_add(1, Ordering::Relaxed);
    }

    /// Gives a place back.
    pub fn release(&self, shard: ShardIndex) {
        self.counts[usize::from(shard.0)].fetch_sub(1, Ordering::Relaxed);
    }

    fn load(&self, shard: ShardIndex) -> u32 {
        self.counts[usize::from(shard.0)].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_spread_evenly_whoever_accepts_them() {
        let loads = Loads::new(4, false);
        let mut counts = [0; 4];
        for _ in 0..16 {
            counts[usize::from(loads.reserve(ShardIndex(0)).0)] += 1;
        }
        assert_eq!(counts, [4; 4]);
        loads.release(ShardIndex(2));
        assert_eq!(loads.reserve(ShardIndex(1)), ShardIndex(2));
        loads.move_place(ShardIndex(3), ShardIndex(1));
        assert_eq!(loads.reserve(ShardIndex(0)), ShardIndex(3));
    }

    #[test]
    fn steered_connections_stay_until_their_shard_has_an_eighth_more_than_another() {
        let loads = Loads::new(2, true);
        assert_eq!(loads.reserve(ShardIndex(0)), ShardIndex(0));
        assert_eq!(loads.reserve(ShardIndex(0)), ShardIndex(1), "few connections are balanced strictly");
        for _ in 1..16 {
            loads.reserve(ShardIndex(0));
            loads.reserve(ShardIndex(1));
        }
        let stayed = (0..).take_while(|_| loads.reserve(ShardIndex(0)) == ShardIndex(0)).count();
        assert_eq!(stayed, 3, "16 and 16: up to 2 more may be there when the next one comes");
    }

    #[test]
    fn connections_that_all_shards_accept_at_once_spread_evenly() {
        for round in 0..300 {
            let loads = Loads::new(4, false);
            let (waiting, place) = (AtomicU32::new(4), &loads);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        waiting.fetch_sub(1, Ordering::Relaxed);
                        while waiting.load(Ordering::Relaxed) > 0 {
                            std::thread::yield_now();
                        }
                        // As if the kernel gave all connections to one listener and its neighbours.
                        for _ in 0..50 {
                            place.reserve(ShardIndex(0));
                        }
                    });
                }
            });
            let counts = [0, 1, 2, 3].map(|shard| loads.load(ShardIndex(shard)));
            assert_eq!(counts, [50; 4], "round {round}");
        }
    }
}
