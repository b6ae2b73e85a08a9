//! Control: what well-kept libraries do best and no message waits for one by one.
//!
//! | file | what it does | thread |
//! | --- | --- | --- |
//! | `path_map` | DNS answers → paths. PURE | |
//! | `dns` | MX and address lookups | `dns` |
//! | `ourselves` | which mail hosts are this relay | `dns` |
//! | `resolver` | questions of shards → DNS → answers | `dns` |
//! | `auth` | checks passwords, counts failures | `auth` |
//! | `maildir` | writes Maildirs | `maildir-N` |
//! | `exposition`, `page` | snapshots → Prometheus text | `admin` |
//! | `process` | memory, CPU and descriptors of the process | `admin` |
//! | `admin` | HTTP: metrics, health, readiness | `admin` |
//! | `log` | events → log lines | `log` |
//!
//! tokio lives here and nowhere else; each thread has its own current-thread runtime. Nothing here can make a shard or a
//! worker wait: they send without waiting, and are told through channels that they own.

pub mod auth;
pub mod path_map;

#[cfg(feature = "runtime")]
pub mod admin;
#[cfg(feature = "runtime")]
pub mod disk_profile;
#[cfg(feature = "runtime")]
mod dns;
#[cfg(feature = "runtime")]
pub mod exposition;
#[cfg(feature = "runtime")]
pub mod log;
#[cfg(feature = "runtime")]
pub mod maildir;
#[cfg(feature = "runtime")]
mod ourselves;
#[cfg(feature = "runtime")]
mod page;
#[cfg(feature = "runtime")]
mod paths;
#[cfg(feature = "runtime")]
pub mod process;
#[cfg(feature = "runtime")]
pub mod resolver;

#[cfg(all(test, feature = "runtime"))]
mod dns_stub;
