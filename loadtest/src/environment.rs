//! Where and with what a run was measured: without it a figure cannot be compared with another.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The machine, the software, and what the user said about the relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// Version of this program.
    pub generator: String,
    /// Seconds since 1970 at the start.
    pub started: u64,
    /// Kernel name, release and machine.
    pub kernel: String,
    /// Model of the first CPU.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Device and file system below `--disk`.
    pub disk: String,
    /// Seed of bodies and choices.
    pub seed: Option<u64>,
    /// `--note KEY=VALUE`: what only the user knows, such as the relay's version and durability.
    pub notes: Vec<(String, String)>,
}

impl Environment {
    /// Reads what the system says.
    pub fn read(disk: &Path, seed: Option<u64>, notes: &[String]) -> Self {
        let uname = rustix::system::uname();
        let part = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let pair = |note: &String| {
            let (key, value) = note.split_once('=').unwrap_or(("note", note));
            (key.trim().to_owned(), value.trim().to_owned())
        };
        Self {
            generator: format!("ringpost-load {}", env!("CARGO_PKG_VERSION")),
            started: crate::clock::wall().as_secs(),
            kernel: format!("{} {} {}", part(uname.sysname()), part(uname.release()), part(uname.machine())),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(0, |count| count.get() as u64),
            memory: field(&read("/proc/meminfo"), "MemTotal")
                .and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok())
                .map_or(0, |kibibytes| kibibytes * 1024),
            disk: fs::canonicalize(disk)
                .ok()
                .and_then(|path| mount(&read("/proc/self/mountinfo"), &path.to_string_lossy()))
                .map(|(device, kind)| describe(&device, &kind))
                .unwrap_or_default(),
            seed,
            notes: notes.iter().map(pair).collect(),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Device and type of the file system that holds `path`: the longest mount point that is a prefix (proc(5)).
fn mount(table: &str, path: &str) -> Option<(String, String)> {
    let inside = |point: &str| {
        point == "/" || path.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let found = table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?;
        let mut words = right.split(' ');
        let (kind, device) = (words.next()?, words.next()?);
        inside(point).then(|| (point.len(), device.to_owned(), kind.to_owned()))
    });
    // The last of several mounts on one place is the visible one.
    found.max_by_key(|(length, _, _)| *length).map(|(_, device, kind)| (device, kind))
}

fn describe(device: &str, kind: &str) -> String {
    let name = device.rsplit('/').next().unwrap_or_default();
    // A partition's disk is its directory's parent in sysfs.
    let disk = fs::canonicalize(format!("/sys/class/block/{name}")).ok();
    let disk = disk.map(|path| match path.join("partition").exists() {
        true => path.parent().map(Path::to_path_buf).unwrap_or(path),
        false => path,
    });
    let attribute = |name: &str| {
        let path = disk.as_ref()?.join(name);
        Some(fs::read_to_string(path).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let mut text = format!("{kind} on {device}");
    if let Some(model) = attribute("device/model") {
        text += &format!(", {model}");
    }
    if let Some(cache) = attribute("queue/write_cache") {
        text += &format!(", {cache} cache");
    }
    if attribute("queue/rotational").as_deref() == Some("1") {
        text += ", said to be rotational";
    }
    text
}

/// Busy and all CPU time since boot, in ticks (proc(5), /proc/stat).
pub fn cpu_ticks() -> Option<(u64, u64)> {
    ticks(&read("/proc/stat"))
}

fn ticks(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let values: Vec<u64> =
        line.split_ascii_whitespace().take(8).map_while(|word| word.parse().ok()).collect();
    let all: u64 = values.iter().sum();
    // Idle and waiting for I/O.
    let idle = values.get(3)? + values.get(4)?;
    Some((all - idle, all))
}

/// The share of the machine's CPU time used between two readings.
pub fn busy_between(before: Option<(u64, u64)>, after: Option<(u64, u64)>) -> Option<f64> {
    let ((busy, all), (busy_after, all_after)) = (before?, after?);
    let passed = all_after.checked_sub(all).filter(|passed| *passed > 0)?;
    Some(busy_after.saturating_sub(busy) as f64 / passed as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mount_point_holds_a_path() {
        let table = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     2 1 8:2 / /var rw shared:1 - xfs /dev/sdb1 rw\n\
                     3 1 0:5 / /variable rw - tmpfs tmpfs rw\n";
        let kind = |path| mount(table, path).map(|(_, kind)| kind);
        assert_eq!(kind("/var/spool"), Some("xfs".into()));
        assert_eq!(kind("/var"), Some("xfs".into()));
        assert_eq!(kind("/variants"), Some("ext4".into()));
        assert_eq!(mount("", "/"), None);
    }

    #[test]
    fn busy_time_is_all_but_idle_and_waiting() {
        assert_eq!(ticks("cpu  10 0 20 60 10 0 0 0 0 0\ncpu0 1"), Some((30, 100)));
        assert_eq!(ticks("intr 5"), None);
        assert_eq!(busy_between(Some((30, 100)), Some((80, 200))), Some(0.5));
        assert_eq!(busy_between(Some((30, 100)), Some((30, 100))), None);
    }

    #[test]
    fn notes_are_kept_and_the_machine_has_a_kernel() {
        let notes = ["durability = fdatasync".to_owned(), "quiet machine".to_owned()];
        let environment = Environment::read(Path::new("/"), Some(1), &notes);
        assert!(environment.cpus > 0 && !environment.kernel.is_empty());
        assert_eq!(environment.notes[0], ("durability".into(), "fdatasync".into()));
        assert_eq!(environment.notes[1].0, "note");
    }
}
