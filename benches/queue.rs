//! The queue: what a message costs it from acceptance to its outcome, empty and with a hundred thousand waiting.

mod work;

use criterion::{Criterion, Throughput};
use work::Queued;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("queue");
    group.throughput(Throughput::Elements(1));
    for depth in [0, 100_000] {
        let mut queued = Queued::behind(depth);
        group.bench_function(format!("accepted to settled with {depth} waiting"), |bencher| {
            bencher.iter(|| queued.once());
        });
    }
    group.finish();
    criterion.final_summary();
}
