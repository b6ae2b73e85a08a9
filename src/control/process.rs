//! The process's own figures, from `/proc/self`.

use std::fs;

/// What could be read; the rest is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Memory resident, bytes.
    pub resident_bytes: Option<f64>,
    /// CPU time of all threads, user and system.
    pub cpu_seconds: Option<f64>,
    /// Descriptors open.
    pub open_descriptors: Option<f64>,
    /// Soft limit of descriptors.
    pub descriptors_max: Option<f64>,
    /// Threads.
    pub threads: Option<f64>,
    /// When it started, seconds since 1970.
    pub start_seconds: Option<f64>,
}

impl Process {
    /// Reads them now: four small reads and one directory.
    pub fn read() -> Self {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as f64;
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let stat = text("/proc/self/stat");
        let boot =
            text("/proc/stat").lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok());
        let started = field(&stat, 22).map(|after_boot| after_boot / ticks);
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self {
            resident_bytes: field(&stat, 24).map(|pages| pages * page),
            cpu_seconds: field(&stat, 14).zip(field(&stat, 15)).map(|(user, system)| (user + system) / ticks),
            open_descriptors: fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64),
            descriptors_max: descriptors.map(|most| most as f64),
            threads: field(&stat, 20),
            start_seconds: boot.zip(started).map(|(boot, started)| boot + started),
        }
    }
}

/// Field `number` of `/proc/PID/stat`, from 1 as in proc(5). The second is the program's name in parentheses, which may
/// hold spaces and parentheses itself.
fn field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_a_name_with_spaces_and_parentheses() {
        let stat = "17 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 140 150";
        assert_eq!((field(stat, 4), field(stat, 14), field(stat, 15)), (Some(1.0), Some(140.0), Some(150.0)));
        assert_eq!((field(stat, 40), field("", 4), field(stat, 1)), (None, None, None));
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let process = Process::read();
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 0.0), "{process:?}");
        assert!(process.open_descriptors.is_some_and(|count| count > 2.0), "{process:?}");
    }
}
