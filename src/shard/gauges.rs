//! What a scrape sees of a shard: levels are read when they are asked for, not kept up while mail flows.

use super::Shard;
use crate::inbound::session::Inbound;
use crate::metrics::LegStateLabel;
use crate::net;
use crate::spool::storage::Storage;

impl<S: Storage> Shard<S> {
    pub(super) fn update_gauges(&self, inbound: &Inbound<S>) {
        let metrics = &self.metrics;
        let depth = self.queue.borrow().depth();
        let legs = &metrics.queue_legs;
        legs[LegStateLabel::Unrouted].set(depth.unrouted as u64);
        legs[LegStateLabel::Ready].set((depth.ready - depth.held) as u64);
        legs[LegStateLabel::Held].set(depth.held as u64);
        legs[LegStateLabel::Sent].set(depth.in_flight as u64);
        legs[LegStateLabel::Deferred].set(depth.waiting as u64);
        legs[LegStateLabel::BounceOwed].set(depth.owed as u64);
        metrics.queue_messages.set(depth.messages as u64);
        let now = net::now();
        let oldest = self.queue.borrow().oldest();
        let age = oldest.map_or(0, |oldest| now.wall.since(oldest).as_millis());
        metrics.oldest_age_millis.set(u64::try_from(age).unwrap_or(u64::MAX));
        metrics.in_flight_bytes.set(inbound.admission.in_flight_bytes());
        metrics.resident_bytes.set(self.resident.borrow().bytes() as u64);
        let ledger = self.ledger.borrow();
        metrics.jobs_in_flight.set(ledger.jobs_out());
        metrics.credits.set(ledger.credits());
        let waiting: usize = self.wiring.from_workers.iter().map(|receiver| receiver.len()).sum();
        metrics.channel_depth.set(waiting as u64);
        let tasks = net::task::stats();
        metrics.executor_stalls.set_total(tasks.stalls);
        metrics.panics.set_total(tasks.panics);
        metrics.log_dropped.set_total(self.wiring.events.dropped());
        self.update_spool_gauges();
    }

    fn update_spool_gauges(&self) {
        let metrics = &self.metrics;
        let stats: Vec<_> = self.parts.iter().map(|part| part.log.stats()).collect();
        let total = |of: fn(&crate::spool::LogStats) -> u64| stats.iter().map(of).sum::<u64>();
        metrics.spool_written_bytes.set_total(total(|stats| stats.written_bytes));
        metrics.spool_moved_bytes.set_total(total(|stats| stats.moved_bytes));
        metrics.spool_segments.set(total(|stats| stats.segments + stats.spares));
        metrics.spool_live_bytes.set(total(|stats| stats.live_bytes));
        metrics.spool_used_bytes.set(total(|stats| stats.disk_bytes));
        metrics.spool_full.set(u64::from(stats.iter().any(|stats| stats.full || stats.stuck)));
        metrics.spool_fenced.set(u64::from(self.active_log().fence().reason().is_some()));
        metrics.outcomes_not_durable.set(total(|stats| stats.notes_pending));
    }
}
