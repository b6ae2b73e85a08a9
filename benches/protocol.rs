//! SMTP without sockets: what a message costs the session that takes it and the one that sends it.

mod work;

use criterion::{Criterion, Throughput};
use ringpost::protocol::extension::Extensions;
use ringpost::protocol::line::LineScanner;
use work::{COMMANDS, Data, Remote, Server};

fn lines(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("protocol");
    group.throughput(Throughput::Bytes(COMMANDS.len() as u64));
    group.bench_function("scan three lines", |bencher| {
        let mut scanner = LineScanner::default();
        bencher.iter(|| work::scan(&mut scanner));
    });
    group.bench_function("parse three commands", |bencher| {
        let offered = Extensions::default();
        bencher.iter(|| work::parse(&offered));
    });
    let mut data = Data::new();
    group.throughput(Throughput::Bytes(data.input.len() as u64));
    group.bench_function("decode a body of 4 KiB", |bencher| bencher.iter(|| data.once()));
    group.finish();
}

fn server(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("server");
    group.throughput(Throughput::Elements(1));
    for (name, mut server) in
        [("message of 4 KiB by DATA", Server::by_data()), ("message of 4 KiB by BDAT", Server::by_bdat())]
    {
        group.bench_function(name, |bencher| bencher.iter(|| server.once()));
    }
    group.finish();
}

fn client(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("client");
    group.throughput(Throughput::Elements(1));
    for (name, mut remote) in
        [("message of 4 KiB by DATA", Remote::by_data()), ("message of 4 KiB by BDAT", Remote::by_bdat())]
    {
        group.bench_function(name, |bencher| bencher.iter(|| remote.once()));
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    lines(&mut criterion);
    server(&mut criterion);
    client(&mut criterion);
    criterion.final_summary();
}
