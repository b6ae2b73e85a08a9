//! PURE. The counters of each role, one struct each; the snapshot struct beside it has the same fields.

use super::labels::{
    AttemptStage, BounceClass, By, ConnectionResult, DamageKind, DeliveryResult, EnhancedClass, Label,
    LegStateLabel, LimitKind, LoginResult, RejectReason, ReplyClass,
};
use super::measure::{Counter, Gauge, Latency, Measure, Sizes};
use super::named::{ByName, SourceFigures};
use crate::id::{ShardIndex, WorkerIndex};

/// Makes the struct that counts and the one that travels of one list of fields.
macro_rules! role_metrics {
    ($(#[$doc:meta])* $metrics:ident => $(#[$snapshot_doc:meta])* $snapshot:ident {
        $($(#[$field_doc:meta])* $field:ident: $measure:ty,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $metrics { $($(#[$field_doc])* pub $field: $measure,)* }

        $(#[$snapshot_doc])*
        #[derive(Clone, Debug)]
        pub struct $snapshot { $($(#[$field_doc])* pub $field: <$measure as Measure>::Snapshot,)* }

        impl Measure for $metrics {
            type Snapshot = $snapshot;
            fn snapshot(&self) -> $snapshot {
                $snapshot { $($field: self.$field.snapshot(),)* }
            }
        }
    };
}

role_metrics! {
    /// What a shard counts.
    ShardMetrics =>
    /// What a shard counted.
    ShardSnapshot {
        /// Inbound connections, by how they began.
        connections: By<ConnectionResult, Counter, { ConnectionResult::COUNT }>,
        /// Inbound connections open now.
        connections_open: Gauge,
        /// Replies given to clients.
        replies: By<ReplyClass, Counter, { ReplyClass::COUNT }>,
        /// Commands and transactions refused.
        rejects: By<RejectReason, Counter, { RejectReason::COUNT }>,
        /// Logins that came to a claim.
        logins: By<LoginResult, Counter, { LoginResult::COUNT }>,
        /// Limits that clients met.
        limits: By<LimitKind, Counter, { LimitKind::COUNT }>,
        /// Messages answered 250.
        messages_accepted: Counter,
        /// Their bytes, trace header included.
        accepted_bytes: Counter,
        /// Recipients of these messages.
        recipients_accepted: Counter,
        /// Messages durable whose 250 could not be written: the client may send again.
        ambiguous: Counter,
        /// From the end of data to the 250 handed to the socket.
        end_of_data_to_250: Latency,
        /// From MAIL to the end-of-data reply.
        transaction: Latency,
        /// Bytes of messages being received.
        in_flight_bytes: Gauge,
        /// Bytes of accepted messages kept for delivery.
        resident_bytes: Gauge,

        /// Write and sync of a batch.
        commit: Latency,
        /// Records of a batch.
        commit_records: Sizes,
        /// Bytes written to the log, padding included.
        spool_written_bytes: Counter,
        /// Bytes moved from old segments to the head.
        spool_moved_bytes: Counter,
        /// Errors of the log's files.
        spool_errors: Counter,
        /// Places of the spool that were found not to be as they were written.
        spool_damage: By<DamageKind, Counter, { DamageKind::COUNT }>,
        /// Damaged bytes copied to `damaged/`.
        spool_set_aside_bytes: Counter,
        /// Segments of the ring, free ones included.
        spool_segments: Gauge,
        /// Bytes of records still needed.
        spool_live_bytes: Gauge,
        /// Bytes from the oldest segment in use to the head.
        spool_used_bytes: Gauge,
        /// Bytes free on the file system.
        spool_free_bytes: Gauge,
        /// 1 once a failure has stopped commits.
        spool_fenced: Gauge,
        /// 1 while new mail gets 452 for want of space.
        spool_full: Gauge,
        /// Time that recovery took, microseconds.
        recovery_micros: Gauge,

        /// Legs waiting, by state.
        queue_legs: By<LegStateLabel, Gauge, { LegStateLabel::COUNT }>,
        /// Messages with an open leg.
        queue_messages: Gauge,
        /// Age of the oldest open leg, milliseconds since its acceptance.
        oldest_age_millis: Gauge,
        /// How much later than due legs were sent.
        lateness: Latency,
        /// Outcomes reported by workers and not yet durable: what a crash now would repeat.
        outcomes_not_durable: Gauge,
        /// Recipients settled, by result.
        deliveries: By<DeliveryResult, Counter, { DeliveryResult::COUNT }>,
        /// From acceptance to the remote's 250.
        injection_to_delivery: Latency,
        /// Legs put off to a later time.
        retries: Counter,
        /// Recipients that became too old.
        expiries: Counter,
        /// Recipients that failed, by class.
        bounces: By<BounceClass, Counter, { BounceClass::COUNT }>,
        /// Status notifications queued.
        notifications: Counter,

        /// Jobs sent and not yet answered.
        jobs_in_flight: Gauge,
        /// Credits not yet used, over all paths.
        credits: Gauge,
        /// Messages waiting in the channels into this shard.
        channel_depth: Gauge,
        /// Turns of this executor that took too long.
        executor_stalls: Counter,
        /// Log lines dropped because the log thread was behind.
        log_dropped: Counter,
        /// Sessions ended by a panic.
        panics: Counter,
    }
}

role_metrics! {
    /// What a worker counts.
    WorkerMetrics =>
    /// What a worker counted.
    WorkerSnapshot {
        /// Outbound connections that were opened.
        connections: Counter,
        /// Outbound connections that could not be opened.
        connections_failed: Counter,
        /// Outbound connections open now.
        connections_open: Gauge,
        /// Transactions on a connection that had one before.
        connections_reused: Counter,
        /// Handshakes with remotes that came to their end.
        tls_encrypted: Counter,
        /// Those that failed.
        tls_failed: Counter,
        /// Remotes without TLS that were left because the policy requires it.
        tls_lacking: Counter,
        /// Transactions begun.
        transactions: Counter,
        /// Bytes of message bodies sent.
        sent_bytes: Counter,
        /// Time of each part of an attempt.
        attempt: By<AttemptStage, Latency, { AttemptStage::COUNT }>,
        /// Recipients tried, by result.
        deliveries: By<DeliveryResult, Counter, { DeliveryResult::COUNT }>,
        /// Remotes' replies to recipients and messages, by enhanced class.
        replies: By<EnhancedClass, Counter, { EnhancedClass::COUNT }>,
        /// Jobs that wait for a connection.
        jobs_waiting: Gauge,
        /// Jobs on a connection.
        jobs_active: Gauge,
        /// Credits given to shards and not yet used.
        credits: Gauge,
        /// Sources that were used or taken out.
        sources: ByName<SourceFigures>,
        /// Paths known.
        paths: Gauge,
        /// Paths that wait because of failures.
        paths_backing_off: Gauge,
        /// Messages waiting in the channels into this worker.
        channel_depth: Gauge,
        /// Turns of this executor that took too long.
        executor_stalls: Counter,
        /// Log lines dropped because the log thread was behind.
        log_dropped: Counter,
        /// Attempts ended by a panic.
        panics: Counter,
    }
}

/// A role's answer to a request for its counters.
#[derive(Clone, Debug)]
pub enum RoleSnapshot {
    /// Of a shard.
    Shard(ShardIndex, Box<ShardSnapshot>),
    /// Of a worker.
    Worker(WorkerIndex, Box<WorkerSnapshot>),
}

impl ShardMetrics {
    /// A snapshot for control.
    pub fn role_snapshot(&self, shard: ShardIndex) -> RoleSnapshot {
        RoleSnapshot::Shard(shard, Box::new(self.snapshot()))
    }
}

impl WorkerMetrics {
    /// A snapshot for control.
    pub fn role_snapshot(&self, worker: WorkerIndex) -> RoleSnapshot {
        RoleSnapshot::Worker(worker, Box::new(self.snapshot()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_travel_between_threads_and_hold_what_was_counted() {
        fn travels<T: Send + 'static>(_: &T) {}
        let metrics = ShardMetrics::default();
        metrics.queue_legs[LegStateLabel::Deferred].set(9);
        metrics.commit.observe(std::time::Duration::from_micros(26));
        let RoleSnapshot::Shard(_, snapshot) = metrics.role_snapshot(ShardIndex(1)) else {
            panic!("not a shard's")
        };
        travels(&snapshot);
        assert_eq!(snapshot.queue_legs, [0, 0, 0, 9, 0, 0]);
        assert_eq!((snapshot.commit.count, snapshot.commit.sum, snapshot.commit.buckets[1]), (1, 26, 1));
    }
}
