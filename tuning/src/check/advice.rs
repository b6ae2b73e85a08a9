//! PURE. What the relay runs without, at a cost: each finding says which.

use ringpost::net::listener::BACKLOG;

use super::{Finding, State, Wanted, verdict};
use crate::disk::profile::{CPU_WAIT_WORTH_TELLING, Profile};
use crate::host::disk::{Device, Kind};
use crate::host::network::Interface;
use crate::host::{Host, Limit, Seen};
use crate::units::{count, micros, size};

/// Messages per second to one next hop that its ports should carry.
const PORTS_RATE: u64 = 10_000;
/// Seconds for which the kernel keeps the port of a closed connection (TIME_WAIT).
const PORT_REST: u64 = 60;
/// A commit that takes longer in one of 100 cases is felt by clients that send one message at a time.
const SYNC_P99_MICROS: f64 = 20_000.0;

/// All of them. Those that look at something which cannot be seen are left out: `detect` shows it.
pub fn findings(host: &Host, wanted: &Wanted) -> Vec<Finding> {
    let mut found = vec![somaxconn(host)];
    found.extend(ports(host, wanted));
    found.extend(cpus(host, wanted));
    found.extend(memory(host, wanted));
    found.extend(file_system(host));
    for device in host.disk.devices.value().into_iter().flatten() {
        found.extend(scheduler(device));
        found.extend(turning(device));
    }
    found.extend(host.network.interfaces.value().into_iter().flatten().filter_map(interrupts));
    found
}

fn somaxconn(host: &Host) -> Finding {
    let need = u64::from(BACKLOG.unsigned_abs());
    let now = host.network.somaxconn.value().copied();
    Finding {
        what: "somaxconn",
        now: host.network.somaxconn.show(|now| count(*now)),
        wanted: count(need),
        why: "connections that wait to be accepted; beyond it a burst of clients waits a second for its second try".into(),
        how: format!("sysctl -w net.core.somaxconn={need}, and the same line in /etc/sysctl.d"),
        state: verdict(now.is_some_and(|now| now >= need), State::Yellow),
    }
}

fn ports(host: &Host, wanted: &Wanted) -> Option<Finding> {
    let (first, last) = *host.network.port_range.value()?;
    let ports = last - first + 1;
    let rate = ports.saturating_mul(wanted.messages_per_connection) / PORT_REST;
    Some(Finding {
        what: "outbound ports",
        now: format!("{ports}"),
        wanted: format!("{}", (PORTS_RATE * PORT_REST).div_ceil(wanted.messages_per_connection.max(1))),
        why: format!(
            "a closed connection keeps its port for {PORT_REST} s: these carry {rate} messages/s to one next hop at {} a connection",
            wanted.messages_per_connection
        ),
        how: "sysctl -w net.ipv4.ip_local_port_range='10240 65535', or raise delivery.messages_per_connection_max".into(),
        state: verdict(rate >= PORTS_RATE, State::Yellow),
    })
}

fn cpus(host: &Host, wanted: &Wanted) -> Option<Finding> {
    let usable = *host.usable_cpus().value()?;
    let executors = wanted.executors;
    Some(Finding {
        what: "CPUs",
        now: format!("{usable:.1}"),
        wanted: executors.to_string(),
        why: "one for each executor; two executors on one CPU take turns, and a group's quota stops all of them for the rest of its period"
            .into(),
        how: format!("threads.shards and threads.workers of {:.0}, or allow more CPUs", usable.floor().max(1.0)),
        state: verdict(usable >= executors as f64, State::Yellow),
    })
}

fn memory(host: &Host, wanted: &Wanted) -> Option<Finding> {
    let group = match host.cgroup.memory_max {
        Seen::Value(Limit::Of(bytes)) => Some(bytes),
        _ => None,
    };
    let all = host.kernel.memory_kib.value().map(|kib| kib.saturating_mul(1024));
    let now = [group, all].into_iter().flatten().min()?;
    Some(Finding {
        what: "memory",
        now: size(now),
        wanted: size(wanted.memory),
        why: "the budgets of messages under way and kept for delivery, and the program; beyond it the kernel ends the relay".into(),
        how: "lower limits.in_flight_bytes_max and limits.resident_bytes_max, or allow more".into(),
        state: verdict(now >= wanted.memory, State::Yellow),
    })
}

fn file_system(host: &Host) -> Option<Finding> {
    let kind = host.disk.file_system.value()?;
    let (cost, is_good) = match kind.as_str() {
        "ext4" | "xfs" | "tmpfs" | "ramfs" => {
            ("writes into a prepared segment change no metadata, so a commit is one write", true)
        }
        "btrfs" | "zfs" | "bcachefs" => (
            "it writes every block to a new place, so preparing segments gains nothing and a commit is several writes",
            false,
        ),
        "overlay" => ("the first write to a file copies it, and a volume would be the disk itself", false),
        "nfs" | "nfs4" | "cifs" | "fuse" | "9p" | "virtiofs" => {
            ("each commit goes to another host, and direct I/O may not be what it says", false)
        }
        _ => ("the relay has not been measured on it", false),
    };
    Some(Finding {
        what: "file system",
        now: kind.clone(),
        wanted: "ext4 or xfs".into(),
        why: cost.into(),
        how: "put spool.directory on an ext4 or XFS of its own".into(),
        state: verdict(is_good, State::Yellow),
    })
}

fn scheduler(device: &Device) -> Option<Finding> {
    let now = device.scheduler.value()?;
    let wanted = if device.kind == Kind::Nvme { "none" } else { "none or mq-deadline" };
    Some(Finding {
        what: "I/O scheduler",
        now: format!("{now} ({})", device.name),
        wanted: wanted.into(),
        why: "the relay writes in order already; a scheduler that sorts or shares adds CPU and waiting to every commit".into(),
        how: format!("echo none > /sys/block/{}/queue/scheduler, and a udev rule", device.name),
        state: verdict(wanted.split(" or ").any(|good| good == now), State::Yellow),
    })
}

/// Hypervisors say of their disks that they turn: only those of a bus of their own are believed.
fn turning(device: &Device) -> Option<Finding> {
    let turns = *device.rotational.value()?;
    (turns && device.kind == Kind::Scsi).then(|| Finding {
        what: "disk",
        now: format!("{} turns", device.name),
        wanted: "solid state".into(),
        why: "a commit waits for the platter, some 8 ms: about 120 commits a second in all".into(),
        how: "measure it (ringpost-tune disk DIR); an SSD, or a controller with a battery, is the remedy"
            .into(),
        state: State::Yellow,
    })
}

/// Several receive queues are worth nothing when their interrupts all go to one CPU.
fn interrupts(interface: &Interface) -> Option<Finding> {
    let queues = *interface.receive_queues.value()?;
    let interrupts = interface.interrupts.value()?;
    let mut cpus: Vec<usize> = Vec::new();
    for interrupt in interrupts {
        cpus.extend(&interrupt.effective.value().or(interrupt.affinity.value())?.0);
    }
    cpus.sort_unstable();
    cpus.dedup();
    let steered = interface.steering.value().map_or(0, |cpus| cpus.len());
    (queues > 1).then(|| Finding {
        what: "interrupts",
        now: format!(
            "{queues} queues of {} on {} CPU{}",
            interface.name,
            cpus.len(),
            if cpus.len() == 1 { "" } else { "s" }
        ),
        wanted: "spread".into(),
        why: "one CPU that takes every packet is full long before the others are".into(),
        how: format!(
            "ringpost-tune apply writes a script that gives each queue of {} a CPU; or start irqbalance",
            interface.name
        ),
        state: verdict(cpus.len() > 1 || steered > 1, State::Yellow),
    })
}

/// What `disk` has measured, and what it bounds.
pub fn measured_disk(profile: &Profile) -> Finding {
    let sync = &profile.relay_commit;
    let alone = if sync.p50_micros > 0.0 { 1e6 / sync.p50_micros } else { 0.0 };
    Finding {
        what: "disk, measured",
        now: format!(
            "commit p50 {}, p99 {}{}",
            micros(sync.p50_micros),
            micros(sync.p99_micros),
            if profile.cpu_wait_share > CPU_WAIT_WORTH_TELLING { ", on a busy host" } else { "" }
        ),
        wanted: format!("p99 below {}", micros(SYNC_P99_MICROS)),
        why: format!(
            "a 250 waits for one: a client that sends message after message gets at most {alone:.0} a second, whatever the CPUs do"
        ),
        how: "a disk with a protected write cache; more connections at once hide the wait and share commits"
            .into(),
        state: verdict(sync.p99_micros <= SYNC_P99_MICROS, State::Yellow),
    }
}
