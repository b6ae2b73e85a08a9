//! What the system says about the relay: CPU time and memory of a process and its descendants, from /proc.

use std::fs;
use std::time::Duration;

use serde::Serialize;

/// A process tree at one moment.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    /// User and system time of all threads, of living descendants, and of children already waited for.
    pub cpu: Duration,
    /// Sum of the peak resident sizes, in bytes.
    pub resident_peak: u64,
    /// Sum of the resident sizes, in bytes.
    pub resident: u64,
    /// Processes counted.
    pub processes: u32,
}

/// What `/proc/PID/stat` says, as far as it is used. Times in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    pid: u32,
    parent: u32,
    group: u32,
    ticks: u64,
}

/// Reads the tree below `pid`; `None` if it is not running.
pub fn usage(pid: u32) -> Option<Usage> {
    let all = all()?;
    let root = all.iter().position(|stat| stat.pid == pid)?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let mut usage = Usage::default();
    for stat in tree(&all, root) {
        usage.cpu += Duration::from_micros(stat.ticks * 1_000_000 / per_second);
        usage.processes += 1;
        if let Ok(status) = fs::read_to_string(format!("/proc/{}/status", stat.pid)) {
            usage.resident_peak += status_bytes(&status, "VmHWM:");
            usage.resident += status_bytes(&status, "VmRSS:");
        }
    }
    Some(usage)
}

/// The process groups that `pid` and its descendants lead: some servers leave the group they were started in.
pub fn groups(pid: u32) -> Vec<u32> {
    let all = all().unwrap_or_default();
    let Some(root) = all.iter().position(|stat| stat.pid == pid) else { return Vec::new() };
    // Only leaders in the tree: a group led by somebody else is somebody else's.
    tree(&all, root).iter().filter(|stat| stat.group == stat.pid).map(|stat| stat.pid).collect()
}

fn all() -> Option<Vec<Stat>> {
    let read = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    };
    Some(fs::read_dir("/proc").ok()?.flatten().filter_map(read).collect())
}

fn tree(all: &[Stat], root: usize) -> Vec<Stat> {
    let mut tree = vec![all[root]];
    let mut next = 0;
    while let Some(parent) = tree.get(next).map(|stat| stat.pid) {
        tree.extend(all.iter().filter(|stat| stat.parent == parent && stat.pid != parent));
        next += 1;
    }
    tree
}

fn parse_stat(pid: u32, text: &str) -> Option<Stat> {
    // The name stands in parentheses and may hold blanks and parentheses itself.
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // proc(5): field 4 is the parent, 5 the process group, 14 to 17 are utime, stime, cutime, cstime; field 3 is our index 0.
    let ticks = (11..=14).map(number).sum::<Option<u64>>()?;
    let id = |index: usize| u32::try_from(number(index)?).ok();
    Some(Stat { pid, parent: id(1)?, group: id(2)?, ticks })
}

fn status_bytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let text = "42 (a) b (c)) S 7 1 1 0 -1 0 0 0 0 0 100 20 3 4 20 0 1 0";
        assert_eq!(parse_stat(42, text), Some(Stat { pid: 42, parent: 7, group: 1, ticks: 127 }));
        assert_eq!(parse_stat(42, "42 (x) S 7"), None);
        assert_eq!(parse_stat(42, ""), None);
    }

    #[test]
    fn a_tree_holds_descendants_and_nobody_else() {
        let stat = |pid, parent| Stat { pid, parent, group: pid, ticks: 1 };
        let all = [stat(1, 0), stat(5, 1), stat(6, 5), stat(7, 6), stat(8, 1)];
        let pids: Vec<u32> = tree(&all, 1).iter().map(|stat| stat.pid).collect();
        assert_eq!(pids, [5, 6, 7]);
    }

    #[test]
    fn this_process_can_be_read() {
        let usage = usage(std::process::id()).unwrap_or_default();
        assert!(usage.processes >= 1 && usage.resident_peak > 0);
        assert!(super::usage(u32::MAX).is_none());
    }
}
