//! Makes Prometheus text of the roles' snapshots, the resolver's counters and the process's own figures.
//!
//! Totals are summed over roles; what differs by shard or worker has it as a label, so that a lopsided relay shows. A role
//! that did not answer in time counts with its last snapshot: a sum that fell would look like a restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::TextEncoder;
use prometheus::proto::MetricType;

use super::disk_profile::DiskProfile;
use super::page::{Labels, MICROSECOND, Page, merged, sum, sums};
use super::process::Process;
use super::resolver::ResolverCounters;
use crate::config::{Config, Wiring};
use crate::metrics::{
    AttemptStage, BounceClass, ConnectionResult, DamageKind, DeliveryResult, EnhancedClass, Label,
    LegStateLabel, LimitKind, LoginResult, Measure, RejectReason, ReplyClass, RoleSnapshot, ShardMetrics,
    ShardSnapshot, SourceFigures, WorkerMetrics, WorkerSnapshot,
};

/// The last snapshot of each role, and what else is shown.
pub struct Exposition {
    shards: BTreeMap<u16, ShardSnapshot>,
    workers: BTreeMap<u16, WorkerSnapshot>,
    resolver: Arc<ResolverCounters>,
    disk: Option<DiskProfile>,
    info: Vec<(&'static str, String)>,
}

impl Exposition {
    /// Shows zeroes for all roles of a completed `config` until they have answered; `disk` is what commits are compared with.
    pub fn new(config: &Config, resolver: Arc<ResolverCounters>, disk: Option<DiskProfile>) -> Self {
        let threads = &config.threads;
        let wiring = match threads.wiring {
            Wiring::Auto => "auto",
            Wiring::Shared => "shared",
            Wiring::Split => "split",
        };
        let info = vec![
            ("hostname", config.smtp.hostname.clone()),
            ("shards", threads.shards.to_string()),
            ("wiring", wiring.to_owned()),
            ("workers", threads.workers.to_string()),
        ];
        let (shard, worker) = (ShardMetrics::default().snapshot(), WorkerMetrics::default().snapshot());
        Self {
            shards: (0..threads.shards).map(|index| (index, shard.clone())).collect(),
            workers: (0..threads.workers).map(|index| (index, worker.clone())).collect(),
            resolver,
            disk,
            info,
        }
    }

    /// How many roles there are.
    pub fn roles(&self) -> usize {
        self.shards.len() + self.workers.len()
    }

    /// Takes a role's answer in.
    pub fn update(&mut self, snapshot: RoleSnapshot) {
        match snapshot {
            RoleSnapshot::Shard(index, snapshot) => drop(self.shards.insert(index.0, *snapshot)),
            RoleSnapshot::Worker(index, snapshot) => drop(self.workers.insert(index.0, *snapshot)),
        }
    }

    /// The text for a scrape at which `missing` roles did not answer in time.
    pub fn text(&self, missing: usize, process: &Process) -> String {
        let mut page = Page::default();
        page.info(
            "ringpost_build_info",
            "Version of the program.",
            &[("version", env!("CARGO_PKG_VERSION").into())],
        );
        page.info("ringpost_config_info", "Settings that need a restart.", &self.info);
        page.gauge(
            "ringpost_scrape_incomplete",
            "Roles that did not answer this scrape in time.",
            missing as f64,
        );
        self.receiving(&mut page);
        self.spool(&mut page);
        self.queue(&mut page);
        self.delivery(&mut page);
        self.executors(&mut page);
        self.dns(&mut page);
        process_figures(&mut page, process);
        // Encoding fails only for families without samples, and those are left out.
        TextEncoder::new().encode_to_string(&page.0).unwrap_or_default()
    }

    fn receiving(&self, page: &mut Page) {
        let all = &self.shards;
        page.by_label::<ConnectionResult>(
            "ringpost_connections_total",
            "Inbound connections, by how they began.",
            "result",
            &[("listener", "smtp")],
            sums(all, |shard| &shard.connections),
        );
        page.by_shard("ringpost_connections_open", "Inbound connections open now.", all, |s| {
            s.connections_open
        });
        page.by_label::<ReplyClass>(
            "ringpost_replies_total",
            "Replies given to clients.",
            "class",
            &[],
            sums(all, |shard| &shard.replies),
        );
        page.by_label::<RejectReason>(
            "ringpost_rejects_total",
            "Commands and transactions refused.",
            "reason",
            &[],
            sums(all, |shard| &shard.rejects),
        );
        page.by_label::<LoginResult>(
            "ringpost_logins_total",
            "Logins, by what became of them.",
            "result",
            &[],
            sums(all, |shard| &shard.logins),
        );
        page.by_label::<LimitKind>(
            "ringpost_limits_total",
            "Limits that clients met, by limit.",
            "limit",
            &[],
            sums(all, |shard| &shard.limits),
        );
        page.total("ringpost_messages_accepted_total", "Messages answered 250.", all, |s| {
            s.messages_accepted
        });
        page.total("ringpost_accepted_bytes_total", "Bytes of accepted messages.", all, |s| s.accepted_bytes);
        page.total("ringpost_recipients_accepted_total", "Recipients of accepted messages.", all, |s| {
            s.recipients_accepted
        });
        page.total(
            "ringpost_acceptances_ambiguous_total",
            "Messages durable whose 250 could not be written: the client may send them again.",
            all,
            |s| s.ambiguous,
        );
        page.latency("ringpost_end_of_data_to_250_seconds", "From the end of data to the 250.", all, |s| {
            &s.end_of_data_to_250
        });
        page.latency(
            "ringpost_transaction_seconds",
            "From MAIL to the reply to the end of data.",
            all,
            |s| &s.transaction,
        );
        page.by_shard("ringpost_in_flight_bytes", "Messages being received.", all, |s| s.in_flight_bytes);
        page.by_shard(
            "ringpost_resident_bytes",
            "Accepted messages kept in memory for delivery.",
            all,
            |s| s.resident_bytes,
        );
    }

    fn disk(&self, page: &mut Page) {
        if let Some(DiskProfile { relay_commit, .. }) = &self.disk {
            let quantile =
                |label: &str, micros: f64| (vec![("quantile", label.to_owned())], micros * MICROSECOND);
            page.family(
                "ringpost_spool_commit_profile_seconds",
                "A commit of 4 KiB when the disk was measured, one at a time.",
                MetricType::GAUGE,
                vec![quantile("0.5", relay_commit.p50_micros), quantile("0.99", relay_commit.p99_micros)],
            );
        }
    }

    fn spool(&self, page: &mut Page) {
        let all = &self.shards;
        page.latency("ringpost_spool_commit_seconds", "Write and sync of a batch.", all, |s| &s.commit);
        self.disk(page);
        page.histogram(
            "ringpost_spool_commit_records",
            "Records that share a commit.",
            &[(Vec::new(), merged(all, |s| &s.commit_records))],
            1.0,
        );
        page.total(
            "ringpost_spool_written_bytes_total",
            "Bytes written to the log, padding included.",
            all,
            |s| s.spool_written_bytes,
        );
        page.total("ringpost_spool_moved_bytes_total", "Bytes moved out of the oldest segments.", all, |s| {
            s.spool_moved_bytes
        });
        page.total("ringpost_spool_errors_total", "Errors of the log's files.", all, |s| s.spool_errors);
        page.by_label::<DamageKind>(
            "ringpost_spool_damage_total",
            "Places of the spool that were not as they were written; all but torn had been acknowledged.",
            "kind",
            &[],
            sums(all, |shard| &shard.spool_damage),
        );
        page.total(
            "ringpost_spool_set_aside_bytes_total",
            "Damaged bytes copied to the spool's damaged/.",
            all,
            |s| s.spool_set_aside_bytes,
        );
        page.by_shard("ringpost_spool_segments", "Segments of the ring, free ones included.", all, |s| {
            s.spool_segments
        });
        page.by_shard("ringpost_spool_live_bytes", "Bytes of records still needed.", all, |s| {
            s.spool_live_bytes
        });
        page.by_shard("ringpost_spool_used_bytes", "Bytes from the oldest record to the head.", all, |s| {
            s.spool_used_bytes
        });
        page.by_shard("ringpost_spool_free_bytes", "Bytes free on the spool's file system.", all, |s| {
            s.spool_free_bytes
        });
        page.by_shard(
            "ringpost_spool_fenced",
            "1 once a failure of the disk has stopped commits.",
            all,
            |s| s.spool_fenced,
        );
        page.by_shard("ringpost_spool_full", "1 while new mail is refused for want of space.", all, |s| {
            s.spool_full
        });
        page.by_shard_scaled(
            "ringpost_recovery_seconds",
            "Time that recovery took.",
            all,
            MICROSECOND,
            |s| s.recovery_micros,
        );
    }

    fn queue(&self, page: &mut Page) {
        let all = &self.shards;
        let mut legs = Vec::new();
        for (index, shard) in all {
            for (state, count) in shard.queue_legs.iter().enumerate() {
                let labels = vec![("shard", index.to_string()), ("state", LegStateLabel::name(state))];
                legs.push((labels, *count as f64));
            }
        }
        page.family(
            "ringpost_queue_legs",
            "Waiting legs: one per message and domain.",
            MetricType::GAUGE,
            legs,
        );
        page.by_shard("ringpost_queue_messages", "Messages with an open leg.", all, |s| s.queue_messages);
        page.by_shard_scaled(
            "ringpost_oldest_age_seconds",
            "True age of the oldest open leg.",
            all,
            1e-3,
            |s| s.oldest_age_millis,
        );
        page.latency("ringpost_lateness_seconds", "How much later than due legs were sent.", all, |s| {
            &s.lateness
        });
        page.by_shard(
            "ringpost_outcomes_not_durable",
            "Outcomes not on disk yet: what a crash now would repeat.",
            all,
            |s| s.outcomes_not_durable,
        );
        page.by_label::<DeliveryResult>(
            "ringpost_deliveries_total",
            "Recipients tried, by result.",
            "result",
            &[],
            sums(all, |shard| &shard.deliveries),
        );
        page.latency(
            "ringpost_injection_to_delivery_seconds",
            "From acceptance to the remote's 250.",
            all,
            |s| &s.injection_to_delivery,
        );
        page.total("ringpost_retries_total", "Legs put off to a later time.", all, |s| s.retries);
        page.total("ringpost_expiries_total", "Recipients that became too old.", all, |s| s.expiries);
        page.by_label::<BounceClass>(
            "ringpost_bounces_total",
            "Recipients that failed, by class.",
            "class",
            &[],
            sums(all, |shard| &shard.bounces),
        );
        page.total("ringpost_notifications_total", "Status notifications queued.", all, |s| s.notifications);
        page.by_shard("ringpost_jobs_in_flight", "Jobs at the workers.", all, |s| s.jobs_in_flight);
    }

    fn delivery(&self, page: &mut Page) {
        let all = &self.workers;
        let opened = vec![
            (vec![("result", "opened".to_owned())], sum(all, |w| w.connections)),
            (vec![("result", "failed".to_owned())], sum(all, |w| w.connections_failed)),
        ];
        page.family(
            "ringpost_outbound_connections_total",
            "Outbound connections, by how they began.",
            MetricType::COUNTER,
            opened,
        );
        let tls = vec![
            (vec![("result", "encrypted".to_owned())], sum(all, |w| w.tls_encrypted)),
            (vec![("result", "failed".to_owned())], sum(all, |w| w.tls_failed)),
            (vec![("result", "lacking".to_owned())], sum(all, |w| w.tls_lacking)),
        ];
        page.family(
            "ringpost_outbound_tls_total",
            "Outbound connections that were encrypted, that failed to be, and that were left because the policy requires it.",
            MetricType::COUNTER,
            tls,
        );
        page.by_worker("ringpost_outbound_connections_open", "Outbound connections open now.", all, |w| {
            w.connections_open
        });
        page.total(
            "ringpost_outbound_connections_reused_total",
            "Transactions on a connection that had one before.",
            all,
            |w| w.connections_reused,
        );
        page.total("ringpost_outbound_transactions_total", "Transactions begun.", all, |w| w.transactions);
        page.total("ringpost_sent_bytes_total", "Bytes of message bodies sent.", all, |w| w.sent_bytes);
        let stages: Vec<_> = (0..AttemptStage::COUNT)
            .map(|stage| {
                (vec![("stage", AttemptStage::name(stage))], merged(all, |worker| &worker.attempt[stage]))
            })
            .collect();
        page.histogram(
            "ringpost_attempt_seconds",
            "Time of each part of a delivery attempt.",
            &stages,
            MICROSECOND,
        );
        page.by_label::<EnhancedClass>(
            "ringpost_remote_replies_total",
            "Remotes' replies, by class and subject of the enhanced code.",
            "enhanced",
            &[],
            sums(all, |worker| &worker.replies),
        );
        page.by_label::<DeliveryResult>(
            "ringpost_attempts_total",
            "Recipients as workers reported them.",
            "result",
            &[],
            sums(all, |worker| &worker.deliveries),
        );
        self.sources(page);
        page.by_worker("ringpost_jobs_waiting", "Jobs that wait for a connection.", all, |w| w.jobs_waiting);
        page.by_worker("ringpost_jobs_active", "Jobs on a connection.", all, |w| w.jobs_active);
        page.by_worker("ringpost_paths", "Paths known to the worker.", all, |w| w.paths);
        page.by_worker("ringpost_paths_backing_off", "Paths that wait because of failures.", all, |w| {
            w.paths_backing_off
        });
    }

    fn sources(&self, page: &mut Page) {
        let mut sources = BTreeMap::<&str, SourceFigures>::new();
        for (name, figures) in self.workers.values().flat_map(|worker| &worker.sources) {
            *sources.entry(name).or_default() += *figures;
        }
        let each = |figure: fn(&SourceFigures) -> u64| {
            let sample = |(name, figures): (&&str, &SourceFigures)| {
                (vec![("source", (*name).to_owned())], figure(figures) as f64)
            };
            sources.iter().map(sample).collect::<Vec<_>>()
        };
        let because = |reason: &str, figure| {
            let with = |(mut labels, value): (Labels, f64)| {
                labels.push(("reason", reason.to_owned()));
                (labels, value)
            };
            each(figure).into_iter().map(with).collect::<Vec<_>>()
        };
        page.family(
            "ringpost_source_connections_total",
            "Outbound connections opened, by source.",
            MetricType::COUNTER,
            each(|source| source.opened),
        );
        page.family(
            "ringpost_source_connections_open",
            "Outbound connections open now, by source.",
            MetricType::GAUGE,
            each(|source| source.open),
        );
        page.family(
            "ringpost_source_removals_total",
            "How often a source was taken out: it could not bind, or a remote blocks it.",
            MetricType::COUNTER,
            [because("unbound", |source| source.unbound), because("blocked", |source| source.blocked)]
                .concat(),
        );
        page.family(
            "ringpost_source_out",
            "Paths that a source is out for now; out for all counts as one.",
            MetricType::GAUGE,
            each(|source| source.out),
        );
    }

    /// What both roles have: a label says which.
    fn executors(&self, page: &mut Page) {
        let both = |of_shard: fn(&ShardSnapshot) -> u64, of_worker: fn(&WorkerSnapshot) -> u64| {
            let shards =
                self.shards.iter().map(|(index, shard)| (named("shard", *index), of_shard(shard) as f64));
            let workers =
                self.workers.iter().map(|(index, w)| (named("worker", *index), of_worker(w) as f64));
            shards.chain(workers).collect::<Vec<_>>()
        };
        let (gauge, counter) = (MetricType::GAUGE, MetricType::COUNTER);
        let depth = both(|s| s.channel_depth, |w| w.channel_depth);
        page.family("ringpost_channel_depth", "Entries waiting in the channels into a role.", gauge, depth);
        let credits = both(|s| s.credits, |w| w.credits);
        page.family("ringpost_credits", "Credits given and not yet used.", gauge, credits);
        let stalls = both(|s| s.executor_stalls, |w| w.executor_stalls);
        page.family(
            "ringpost_executor_stalls_total",
            "Turns of an executor that took too long.",
            counter,
            stalls,
        );
        let dropped = both(|s| s.log_dropped, |w| w.log_dropped);
        page.family("ringpost_log_dropped_total", "Log lines dropped: the log was behind.", counter, dropped);
        let panics = both(|s| s.panics, |w| w.panics);
        page.family("ringpost_panics_total", "Sessions and attempts ended by a bug.", counter, panics);
    }

    fn dns(&self, page: &mut Page) {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let dns = &self.resolver;
        let results = [("path", &dns.found), ("refused", &dns.refused), ("delayed", &dns.delayed)];
        let results = results.map(|(result, counter)| (vec![("result", result.to_owned())], value(counter)));
        let counter = MetricType::COUNTER;
        page.family(
            "ringpost_dns_lookups_total",
            "Domains looked up, by what came of it.",
            counter,
            results.into(),
        );
        let one = |counter: &AtomicU64, scale: f64| vec![(Vec::new(), value(counter) * scale)];
        let seconds = one(&dns.lookup_micros, MICROSECOND);
        page.family("ringpost_dns_lookup_seconds_total", "Time of all lookups.", counter, seconds);
        page.family(
            "ringpost_dns_questions_total",
            "Questions of shards.",
            counter,
            one(&dns.questions, 1.0),
        );
        page.family(
            "ringpost_dns_cached_total",
            "Questions answered from memory.",
            counter,
            one(&dns.cached, 1.0),
        );
        page.family("ringpost_dns_paths", "Paths made.", MetricType::GAUGE, one(&dns.paths, 1.0));
    }
}

fn process_figures(page: &mut Page, process: &Process) {
    let (gauge, counter) = (MetricType::GAUGE, MetricType::COUNTER);
    let rows = [
        ("process_resident_memory_bytes", "Memory resident.", gauge, process.resident_bytes),
        ("process_cpu_seconds_total", "CPU time, user and system.", counter, process.cpu_seconds),
        ("process_open_fds", "Descriptors open.", gauge, process.open_descriptors),
        ("process_max_fds", "Most descriptors allowed.", gauge, process.descriptors_max),
        ("process_threads", "Threads.", gauge, process.threads),
        ("process_start_time_seconds", "Start, seconds since 1970.", gauge, process.start_seconds),
    ];
    for (name, help, kind, value) in rows {
        // What the system does not tell is left out, not shown as 0.
        page.family(name, help, kind, value.map(|value| (Vec::new(), value)).into_iter().collect());
    }
}

fn named(role: &str, index: u16) -> Labels {
    vec![("role", format!("{role}-{index}"))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ShardIndex, WorkerIndex};
    use std::time::Duration;

    fn exposition() -> Exposition {
        let mut config = Config::default();
        (config.threads.shards, config.threads.workers) = (2, 1);
        Exposition::new(&config, Arc::default(), None)
    }

    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|other| other == line), "`{line}` is missing:\n{text}");
    }

    #[test]
    fn every_series_is_there_as_zero_before_anything_happened() {
        let text = exposition().text(0, &Process::default());
        for line in [
            "ringpost_connections_total{listener=\"smtp\",result=\"accepted\"} 0",
            "ringpost_replies_total{class=\"5xx\"} 0",
            "ringpost_queue_legs{shard=\"1\",state=\"deferred\"} 0",
            "ringpost_deliveries_total{result=\"delivered\"} 0",
            "ringpost_remote_replies_total{enhanced=\"5.7\"} 0",
            "ringpost_attempt_seconds_count{stage=\"connect\"} 0",
            "ringpost_end_of_data_to_250_seconds_bucket{le=\"0.000025\"} 0",
            "ringpost_end_of_data_to_250_seconds_bucket{le=\"60\"} 0",
            "ringpost_spool_commit_records_bucket{le=\"2048\"} 0",
            "ringpost_executor_stalls_total{role=\"worker-0\"} 0",
            "ringpost_config_info{hostname=\"\",shards=\"2\",wiring=\"auto\",workers=\"1\"} 1",
        ] {
            has(&text, line);
        }
    }

    #[test]
    fn names_carry_prefix_and_unit_and_counters_end_in_total() {
        let text = exposition().text(0, &Process::default());
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').expect("name and type");
            assert!(name.starts_with("ringpost_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
        }
    }

    #[test]
    fn roles_are_summed_and_a_missing_one_counts_with_its_last_answer() {
        let mut exposition = exposition();
        let shard = ShardMetrics::default();
        shard.messages_accepted.add(3);
        shard.commit.observe(Duration::from_micros(300));
        shard.oldest_age_millis.set(1500);
        exposition.update(shard.role_snapshot(ShardIndex(0)));
        exposition.update(shard.role_snapshot(ShardIndex(1)));
        shard.messages_accepted.add(1);
        exposition.update(shard.role_snapshot(ShardIndex(1)));
        exposition.update(WorkerMetrics::default().role_snapshot(WorkerIndex(0)));
        let text = exposition.text(1, &Process::default());
        has(&text, "ringpost_messages_accepted_total 7");
        has(&text, "ringpost_scrape_incomplete 1");
        has(&text, "ringpost_spool_commit_seconds_bucket{le=\"0.00025\"} 0");
        has(&text, "ringpost_spool_commit_seconds_bucket{le=\"0.0005\"} 2");
        has(&text, "ringpost_spool_commit_seconds_bucket{le=\"+Inf\"} 2");
        has(&text, "ringpost_oldest_age_seconds{shard=\"1\"} 1.5");
    }
}
