//! PURE. Judges a host against what the relay wants.
//!
//! What stops the relay is not judged here: `ringpost::net::executor` does that when it starts, and is asked. What merely
//! holds it back is in [`advice`].

mod advice;
mod table;
#[cfg(test)]
mod tests;

use ringpost::config::Config;
use ringpost::net::executor;
use serde::Serialize;

use crate::disk::profile::Profile;
use crate::host::{Host, Limit, Seen};
use crate::units::{count, size};
pub use table::table;

/// Segments that a shard prepares before it takes mail.
const SEGMENTS_AT_START: u64 = 3;
/// Descriptors beside connections: listeners, rings, segments, DNS, admin.
const DESCRIPTORS_BESIDE: u64 = 1024;
/// Memory beside the budgets, bytes: the program, and an executor's buffers and queue when idle.
const MEMORY_BESIDE: u64 = 64 << 20;
const MEMORY_PER_EXECUTOR: u64 = 16 << 20;

/// What a configuration asks of its host.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Executors.
    pub executors: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Free bytes for the spool.
    pub spool_free: u64,
    /// Bytes of memory under full load.
    pub memory: u64,
    /// Messages that one outbound connection carries.
    pub messages_per_connection: u64,
}

impl Wanted {
    /// Of a completed configuration.
    pub fn of(config: &Config) -> Self {
        let shards = u64::from(config.threads.shards);
        let executors = u64::from(ringpost::relay::executors(config));
        let limits = &config.limits;
        Self {
            executors,
            // As many outbound as inbound: paths come and go, this is where their sum usually lies below.
            descriptors: 2 * u64::from(limits.connections_max) + DESCRIPTORS_BESIDE,
            spool_free: config.spool.reserve_bytes + shards * SEGMENTS_AT_START * config.spool.segment_bytes,
            memory: limits.in_flight_bytes_max
                + limits.resident_bytes_max
                + MEMORY_BESIDE
                + executors * MEMORY_PER_EXECUTOR,
            messages_per_connection: u64::from(config.delivery.messages_per_connection_max),
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As wanted.
    Green,
    /// The relay runs, with a limit that load may reach.
    Yellow,
    /// The relay does not run, or cannot keep its promises.
    Red,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// How it is.
    pub now: String,
    /// How it should be.
    pub wanted: String,
    /// What it is for, and what it costs as it is.
    pub why: String,
    /// What to do about it.
    pub how: String,
    /// Verdict.
    pub state: State,
}

/// All findings, in the order in which they matter. `disk` is what was measured on the spool's disk, if anything was.
pub fn findings(host: &Host, wanted: &Wanted, disk: Option<&Profile>) -> Vec<Finding> {
    let mut found = vec![
        kernel(host),
        io_uring(host),
        memlock(host, wanted),
        spool_disk(host),
        spool_directory(host),
        spool_space(host, wanted),
        nofile(host, wanted),
    ];
    found.extend(advice::findings(host, wanted));
    found.extend(disk.map(advice::measured_disk));
    found
}

fn verdict(is_good: bool, otherwise: State) -> State {
    if is_good { State::Green } else { otherwise }
}

/// A finding that `serve` itself would stop at: the error says what to do.
fn fatal(what: &'static str, now: String, wanted: &str, why: &str, error: Option<String>) -> Finding {
    let state = verdict(error.is_none(), State::Red);
    Finding { what, now, wanted: wanted.into(), why: why.into(), how: error.unwrap_or_default(), state }
}

fn kernel(host: &Host) -> Finding {
    let release = host.kernel.release.show(String::clone);
    let (major, minor) = executor::KERNEL_MIN;
    let error = executor::check_kernel(&release).err().map(|error| error.to_string());
    let wanted = format!("{major}.{minor} or later");
    fatal(
        "kernel",
        release,
        &wanted,
        "io_uring as the relay uses it; on an older one it does not start",
        error,
    )
}

fn io_uring(host: &Host) -> Finding {
    let error = match &host.kernel.io_uring {
        Seen::Value(_) => None,
        Seen::Hidden { not_visible } => Some(not_visible.clone()),
    };
    let now = if error.is_none() { "allowed" } else { "denied" };
    let why = "every socket and file of the relay goes through it; without it there is no relay";
    fatal("io_uring", now.into(), "allowed", why, error)
}

fn memlock(host: &Host, wanted: &Wanted) -> Finding {
    // `serve` raises its soft limit to the hard one.
    let hard = host.kernel.memlock.clone().map(|(_, hard)| hard);
    let limit = match hard {
        Seen::Value(Limit::Of(bytes)) => Some(bytes),
        Seen::Value(Limit::None) => None,
        // Not seen is not enough.
        Seen::Hidden { .. } => Some(0),
    };
    let error =
        executor::check_memlock(wanted.executors as usize, limit).err().map(|error| error.to_string());
    let need = wanted.executors * executor::MEMLOCK_PER_EXECUTOR;
    let now = hard.show(|_| size(limit.unwrap_or(u64::MAX)));
    fatal(
        "memlock",
        now,
        &size(need),
        "rings of each executor are locked in memory; with less, none can be made",
        error,
    )
}

/// File systems in memory, and options that turn barriers off.
fn spool_disk(host: &Host) -> Finding {
    let disk = &host.disk;
    let kind = disk.file_system.value().map(String::as_str);
    let options = disk.options.value().map_or("", String::as_str);
    let unsafe_option = options.split(',').find(|option| ["nobarrier", "barrier=0"].contains(option));
    let in_memory = matches!(kind, Some("tmpfs" | "ramfs"));
    let how = match unsafe_option {
        Some(option) => format!("mount {} without {option}", disk.mounted_at.show(String::clone)),
        None => "put spool.directory on a disk (ext4 or XFS)".into(),
    };
    Finding {
        what: "spool disk",
        now: match unsafe_option {
            Some(option) => format!("{} with {option}", disk.file_system.show(String::clone)),
            None => disk.file_system.show(String::clone),
        },
        wanted: "a file system on disk".into(),
        why: "250 means that a message survives a power cut; in memory, or without barriers, it does not"
            .into(),
        how,
        state: verdict(kind.is_some() && !in_memory && unsafe_option.is_none(), State::Red),
    }
}

fn spool_directory(host: &Host) -> Finding {
    Finding {
        what: "spool directory",
        now: host.disk.writable.show(|_| format!("{} can be written", host.disk.directory)),
        wanted: "writable".into(),
        why: "the spool is made in it; without it the relay does not start".into(),
        how: format!("chown {} to the relay's user, or mount it writable", host.disk.directory),
        state: verdict(host.disk.writable.value().is_some(), State::Red),
    }
}

fn spool_space(host: &Host, wanted: &Wanted) -> Finding {
    let free = host.disk.free.value().copied();
    Finding {
        what: "spool space",
        now: host.disk.free.show(|free| size(*free)),
        wanted: size(wanted.spool_free),
        why: "the first segments of each shard, and the reserve that new mail may not use; below it mail gets 452".into(),
        how: "free some, or lower spool.segment_bytes and spool.reserve_bytes".into(),
        state: verdict(free.is_some_and(|free| free >= wanted.spool_free), State::Red),
    }
}

fn nofile(host: &Host, wanted: &Wanted) -> Finding {
    let need = wanted.descriptors;
    let hard = host.kernel.nofile.clone().map(|(_, hard)| match hard {
        Limit::Of(count) => count,
        Limit::None => u64::MAX,
    });
    Finding {
        what: "nofile",
        now: hard.show(|now| count(*now)),
        wanted: count(need),
        why: "a descriptor for each connection: limits.connections_max, and as many outbound; beyond it accepts fail and clients wait"
            .into(),
        how: format!(
            "ulimit -H -n {need} as root, LimitNOFILE={need} in the systemd unit, or lower limits.connections_max"
        ),
        state: verdict(hard.value().is_some_and(|now| *now >= need), State::Yellow),
    }
}
