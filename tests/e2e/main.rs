//! End to end: the real binary, its spool on a real disk, over real sockets. Every promise of the README that needs no root
//! and no hours is tried here as its user would meet it.
//!
//! | file | what it tries |
//! | --- | --- |
//! | `path` | what goes in comes out, byte for byte |
//! | `retries` | what remotes refuse: retried, bounced, re-delivered |
//! | `kills` | kill -9 under load |
//! | `lanes` | one busy remote, all workers |
//! | `shaping` | rates, neighbours, why a path is slow |
//! | `stops` | SIGTERM and SIGINT under load; other numbers of shards |
//! | `exchanges` | routing by MX |
//! | `sources` | where mail is sent from |
//! | `tls` | STARTTLS, both ways |
//! | `door` | listeners of several kinds |
//! | `local` | domains of our own: LMTP agents, Maildirs, aliases |
//! | `policy` | who may send what, and how much |
//! | `limits` | limits of addresses, slow and early clients, proxies, balance between shards |
//! | `proxies` | clients that proxies speak for: logins, rights, listeners with proxies of their own |
//! | `host` | hosts and files that will not do |
//! | `sockets` | listening sockets that are passed, as by systemd |
//! | `stopped` | a stopped relay's spool: listed, exported, verified, damaged |
//! | `damage` | messages that are damaged when they are wanted |
//! | `format` | the spool on disk, read by a program that knows the documented format alone |
//! | `fixture` | a spool of version 1, kept for ever |
//! | `seeing` | metrics, health, and that idleness costs nothing |
//!
//! Where the host denies io_uring each test says SKIP on standard error and passes.

#![allow(missing_docs, reason = "tests and their harness are read, not linked against")]

#[path = "../harness/mod.rs"]
mod harness;

mod damage;
mod cuts;
mod door;
mod exchanges;
mod fixture;
mod format;
mod host;
mod kills;
mod lanes;
mod limits;
mod load;
mod local;
mod path;
mod policy;
mod proxies;
mod reports;
mod retries;
mod seeing;
mod shaping;
mod sockets;
mod sources;
mod stopped;
mod stops;
mod tls;
mod tls_out;
