//! The families of one scrape, as the prometheus crate encodes them, and sums over roles.

use std::collections::BTreeMap;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::metrics::{HistogramSnapshot, Label, ShardSnapshot, WorkerSnapshot};

/// Seconds in the unit of latency snapshots.
pub(super) const MICROSECOND: f64 = 1e-6;

/// Label names and values of a sample.
pub(super) type Labels = Vec<(&'static str, String)>;

pub(super) fn sum<S>(roles: &BTreeMap<u16, S>, field: impl Fn(&S) -> u64) -> f64 {
    roles.values().map(field).sum::<u64>() as f64
}

pub(super) fn sums<S>(roles: &BTreeMap<u16, S>, field: impl Fn(&S) -> &Vec<u64>) -> Vec<u64> {
    let mut total = Vec::new();
    for role in roles.values() {
        let counts = field(role);
        total.resize(counts.len(), 0);
        total.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    total
}

pub(super) fn merged<S>(
    roles: &BTreeMap<u16, S>,
    field: impl Fn(&S) -> &HistogramSnapshot,
) -> Option<HistogramSnapshot> {
    let mut all = roles.values().map(field);
    let mut total = all.next()?.clone();
    all.for_each(|other| total.merge(other));
    Some(total)
}

/// The families of one scrape.
#[derive(Default)]
pub(super) struct Page(pub Vec<MetricFamily>);

impl Page {
    pub(super) fn family(&mut self, name: &str, help: &str, kind: MetricType, samples: Vec<(Labels, f64)>) {
        let metric = |(labels, value): (Labels, f64)| {
            let mut metric = Metric::from_label(pairs(labels));
            if kind == MetricType::COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            metric
        };
        self.push(name, help, kind, samples.into_iter().map(metric).collect());
    }

    fn push(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, help, MetricType::GAUGE, vec![(Vec::new(), value)]);
    }

    pub(super) fn info(&mut self, name: &str, help: &str, labels: &[(&'static str, String)]) {
        self.family(name, help, MetricType::GAUGE, vec![(labels.to_vec(), 1.0)]);
    }

    pub(super) fn total<S>(
        &mut self,
        name: &str,
        help: &str,
        roles: &BTreeMap<u16, S>,
        field: impl Fn(&S) -> u64,
    ) {
        self.family(name, help, MetricType::COUNTER, vec![(Vec::new(), sum(roles, field))]);
    }

    pub(super) fn by_label<L: Label>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        fixed: &[(&'static str, &str)],
        counts: Vec<u64>,
    ) {
        let samples = counts.into_iter().enumerate().map(|(index, count)| {
            let mut labels: Labels = fixed.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            labels.push((label, L::name(index)));
            (labels, count as f64)
        });
        let samples = samples.collect();
        self.family(name, help, MetricType::COUNTER, samples);
    }

    pub(super) fn by_shard(
        &mut self,
        name: &str,
        help: &str,
        all: &BTreeMap<u16, ShardSnapshot>,
        field: fn(&ShardSnapshot) -> u64,
    ) {
        self.by_shard_scaled(name, help, all, 1.0, field);
    }

    pub(super) fn by_shard_scaled(
        &mut self,
        name: &str,
        help: &str,
        all: &BTreeMap<u16, ShardSnapshot>,
        scale: f64,
        field: fn(&ShardSnapshot) -> u64,
    ) {
        let sample = |(index, shard): (&u16, &ShardSnapshot)| {
            (vec![("shard", index.to_string())], field(shard) as f64 * scale)
        };
        self.family(name, help, MetricType::GAUGE, all.iter().map(sample).collect());
    }

    pub(super) fn by_worker(
        &mut self,
        name: &str,
        help: &str,
        all: &BTreeMap<u16, WorkerSnapshot>,
        field: fn(&WorkerSnapshot) -> u64,
    ) {
        let sample = |(index, worker): (&u16, &WorkerSnapshot)| {
            (vec![("worker", index.to_string())], field(worker) as f64)
        };
        self.family(name, help, MetricType::GAUGE, all.iter().map(sample).collect());
    }

    pub(super) fn latency<S>(
        &mut self,
        name: &str,
        help: &str,
        roles: &BTreeMap<u16, S>,
        field: impl Fn(&S) -> &HistogramSnapshot,
    ) {
        self.histogram(name, help, &[(Vec::new(), merged(roles, field))], MICROSECOND);
    }

    /// `scale` turns the unit of the snapshot into the unit of the name.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        series: &[(Labels, Option<HistogramSnapshot>)],
        scale: f64,
    ) {
        let metric = |(labels, snapshot): &(Labels, Option<HistogramSnapshot>)| {
            let snapshot = snapshot.as_ref()?;
            let mut below = 0;
            let bucket = |(bound, count): (&u64, &u64)| {
                below += count;
                let mut bucket = Bucket::default();
                // Division by 1e6 shows 0.00025 where a product would show 0.00024999999999999995.
                bucket.set_upper_bound(if scale == MICROSECOND {
                    *bound as f64 / 1e6
                } else {
                    *bound as f64 * scale
                });
                bucket.set_cumulative_count(below);
                bucket
            };
            let mut histogram = Histogram::default();
            histogram.set_bucket(snapshot.bounds.iter().zip(&snapshot.buckets).map(bucket).collect());
            histogram.set_sample_count(snapshot.count);
            histogram.set_sample_sum(snapshot.sum as f64 * scale);
            let mut metric = Metric::from_label(pairs(labels.clone()));
            metric.set_histogram(histogram);
            Some(metric)
        };
        self.push(name, help, MetricType::HISTOGRAM, series.iter().filter_map(metric).collect());
    }
}

fn pairs(labels: Labels) -> Vec<LabelPair> {
    let pair = |(name, value): (&str, String)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value);
        pair
    };
    labels.into_iter().map(pair).collect()
}
