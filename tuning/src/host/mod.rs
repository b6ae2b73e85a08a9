//! What this host is and allows. Changes nothing but this process's own soft limits.
//!
//! Files are read through a [`Tree`] alone, so each part is a function of a directory that looks like `/`; what no file
//! tells (whether a ring can be made, how much space is free) is asked in [`look`] and nowhere else.

pub mod cgroup;
pub mod cpu;
pub mod disk;
pub mod kernel;
mod mount;
pub mod network;
mod seen;
#[cfg(test)]
pub mod shapes;
mod text;
mod tree;

use std::io;
use std::path::{Path, PathBuf};

use ringpost::net::executor;
use rustix::fs::Access;
use serde::Serialize;

pub use cgroup::Limit;
pub use seen::Seen;
pub use text::text;
pub use tree::Tree;

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// Kernel and limits.
    pub kernel: kernel::Kernel,
    /// Processors.
    pub cpus: cpu::Cpus,
    /// Limits of the control group.
    pub cgroup: cgroup::Cgroup,
    /// Network.
    pub network: network::Network,
    /// The disk under the spool.
    pub disk: disk::Disk,
}

/// What no file tells.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The directory, absolute and without links.
    pub directory: String,
    /// Whether a ring can be made.
    pub io_uring: Seen<String>,
    /// Bytes free below the directory.
    pub free: Seen<u64>,
    /// Whether files can be made there: `yes`, or why not.
    pub writable: Seen<String>,
}

impl Host {
    /// From files, and from what was tried.
    pub fn of(tree: &Tree, tried: Tried) -> Self {
        Self {
            kernel: kernel::look(tree, tried.io_uring),
            cpus: cpu::look(tree),
            cgroup: cgroup::look(tree),
            network: network::look(tree),
            disk: disk::look(tree, &tried.directory, tried.free, tried.writable),
        }
    }

    /// CPUs' worth of time that this process can get: by affinity, cpuset and quota.
    pub fn usable_cpus(&self) -> Seen<f64> {
        let all = self.cpus.allowed.clone().or_else(|| self.cpus.online.clone());
        all.map(|cpus| match self.cgroup.cpu_max {
            Seen::Value(Limit::Of(quota)) => quota.min(cpus.len() as f64),
            _ => cpus.len() as f64,
        })
    }
}

/// Looks at this host, and at the file system that holds `directory` or would.
pub fn look(directory: &Path) -> Host {
    let place = existing(directory).and_then(|path| path.canonicalize().ok());
    let room = place.as_ref().and_then(|path| rustix::fs::statvfs(path).ok());
    let free = match room {
        Some(room) => Seen::Value(room.f_bavail.saturating_mul(room.f_frsize)),
        None => Seen::hidden(format!("{} cannot be looked at", directory.display())),
    };
    let io_uring = match executor::check_host(0) {
        Ok(()) => Seen::Value("allowed".to_owned()),
        Err(error) => Seen::hidden(error.to_string()),
    };
    let writable =
        match place.as_ref().map(|path| rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK)) {
            Some(Ok(())) => Seen::Value("yes".to_owned()),
            Some(Err(error)) => Seen::hidden(io::Error::from(error).to_string()),
            None => Seen::hidden("no directory above it exists"),
        };
    let directory = place.unwrap_or_else(|| directory.to_owned()).display().to_string();
    Host::of(&Tree::host(), Tried { directory, io_uring, free, writable })
}

/// The path itself, or the nearest directory above it that exists.
pub fn existing(path: &Path) -> Option<PathBuf> {
    let mut path = path;
    loop {
        if path.as_os_str().is_empty() {
            return Some(PathBuf::from("."));
        }
        if path.exists() {
            return Some(path.to_owned());
        }
        path = path.parent()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_yet_is_judged_by_the_one_that_will_hold_it() {
        assert_eq!(existing(Path::new("/proc/nothing/at/all")), Some(PathBuf::from("/proc")));
        assert_eq!(existing(Path::new("nothing-here/at-all")), Some(PathBuf::from(".")));
        assert_eq!(existing(Path::new("./nothing-here")), Some(PathBuf::from(".")));
    }

    #[test]
    fn this_very_host_is_seen() {
        let host = look(Path::new("/"));
        let release = host.kernel.release.value().expect("a kernel").clone();
        assert_eq!(release, rustix::system::uname().release().to_string_lossy());
        let cpus = host.cpus.allowed.value().expect("CPUs").len();
        assert_eq!(cpus, executor::online_cpus().len());
    }
}
