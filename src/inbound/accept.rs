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
pub struct Loads(Arc<[AtomicU32]>);

impl Loads {
    /// For `shards` shards without connections.
    pub fn new(shards: u16) -> Self {
        Self((0..shards).map(|_| AtomicU32::new(0)).collect())
    }

    /// Reserves a place on the shard with the fewest connections; `own` wins a tie.
    pub fn reserve(&self, own: ShardIndex) -> ShardIndex {
        loop {
            let mut best = (self.load(own), own);
            for index in (0..self.0.len() as u16).map(ShardIndex) {
                let load = self.load(index);
                if load < best.0 {
                    best = (load, index);
                }
            }
            // Another shard may have given it a connection since: then look again, or a burst would pile up on one.
            let (load, shard) = (&self.0[usize::from(best.1.0)], best.1);
            if load.compare_exchange(best.0, best.0 + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return shard;
            }
        }
    }

    /// Moves a reservation: the other shard could not take the connection.
    pub fn move_place(&self, from: ShardIndex, to: ShardIndex) {
        self.release(from);
        self.0[usize::from(to.0)].fetch_add(1, Ordering::Relaxed);
    }

    /// Gives a place back.
    pub fn release(&self, shard: ShardIndex) {
        self.0[usize::from(shard.0)].fetch_sub(1, Ordering::Relaxed);
    }

    fn load(&self, shard: ShardIndex) -> u32 {
        self.0[usize::from(shard.0)].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_spread_evenly_whoever_accepts_them() {
        let loads = Loads::new(4);
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
    fn connections_that_all_shards_accept_at_once_spread_evenly() {
        for round in 0..300 {
            let loads = Loads::new(4);
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
