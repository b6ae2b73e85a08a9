//! PURE over a [`Tree`]. The kernel, its limits for this process, and its memory.

use serde::Serialize;

use super::cgroup::Limit;
use super::seen::Seen;
use super::tree::Tree;

/// The kernel and what it allows.
#[derive(Clone, Debug, Serialize)]
pub struct Kernel {
    /// `uname -r`.
    pub release: Seen<String>,
    /// Whether a ring could be made: `allowed`, or why not. A captured tree cannot tell.
    pub io_uring: Seen<String>,
    /// `kernel.io_uring_disabled`: 0 all may, 1 a group may, 2 nobody may. Before 6.6 there is no such switch.
    pub io_uring_disabled: Seen<u64>,
    /// Bytes that may be locked, soft and hard limit. `serve` raises its soft limits itself.
    pub memlock: Seen<(Limit<u64>, Limit<u64>)>,
    /// Descriptors that may be open, soft and hard limit.
    pub nofile: Seen<(Limit<u64>, Limit<u64>)>,
    /// The container this runs in.
    pub container: Seen<String>,
    /// Memory, KiB.
    pub memory_kib: Seen<u64>,
    /// Memory that could be had, KiB.
    pub available_kib: Seen<u64>,
    /// Huge pages set aside.
    pub huge_pages: Seen<u64>,
    /// When the kernel makes huge pages by itself: `always`, `madvise` or `never`.
    pub transparent_huge_pages: Seen<String>,
    /// `kernel.numa_balancing`: whether it moves memory between nodes.
    pub numa_balancing: Seen<u64>,
}

/// Looks at the kernel. `io_uring` is what a try has shown.
pub fn look(tree: &Tree, io_uring: Seen<String>) -> Kernel {
    let memory = |name: &str| {
        tree.text("/proc/meminfo").and_then(|text| match memory_line(&text, name) {
            Some(number) => Seen::Value(number),
            None => Seen::hidden(format!("/proc/meminfo has no {name}")),
        })
    };
    Kernel {
        release: tree.text("/proc/sys/kernel/osrelease"),
        io_uring,
        io_uring_disabled: tree.number("/proc/sys/kernel/io_uring_disabled"),
        memlock: limits(tree, "Max locked memory"),
        nofile: limits(tree, "Max open files"),
        container: container(tree),
        memory_kib: memory("MemTotal"),
        available_kib: memory("MemAvailable"),
        huge_pages: memory("HugePages_Total"),
        transparent_huge_pages: tree
            .text("/sys/kernel/mm/transparent_hugepage/enabled")
            .map(|text| text.split(['[', ']']).nth(1).unwrap_or(&text).to_owned()),
        numa_balancing: tree.number("/proc/sys/kernel/numa_balancing"),
    }
}

fn memory_line(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Soft and hard limit of a line of `/proc/self/limits`.
fn limits(tree: &Tree, name: &str) -> Seen<(Limit<u64>, Limit<u64>)> {
    tree.text("/proc/self/limits").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let mut words = line.unwrap_or_default().split_whitespace().map(|word| match word {
            "unlimited" => Some(Limit::None),
            word => word.parse().ok().map(Limit::Of),
        });
        match (words.next().flatten(), words.next().flatten()) {
            (Some(soft), Some(hard)) => Seen::Value((soft, hard)),
            _ => Seen::hidden(format!("/proc/self/limits has no line {name}")),
        }
    })
}

/// The marks that container engines leave.
fn container(tree: &Tree) -> Seen<String> {
    for (mark, engine) in [("/.dockerenv", "Docker"), ("/run/.containerenv", "Podman")] {
        if tree.has(mark) {
            return Seen::Value(engine.to_owned());
        }
    }
    tree.text("/run/systemd/container")
        .or_else(|| Seen::hidden("no mark of Docker, Podman or systemd; this may be the host itself"))
}
