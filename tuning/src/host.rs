//! Reads what the host allows. Opens nothing for writing and changes nothing but this process's own soft limits.

use std::fs;
use std::path::Path;

use ringpost::net::executor;
use rustix::process::{Resource, getrlimit};

/// `f_type` of a tmpfs (`statfs(2)`).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// What was found. `None`: it could not be read.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    /// Why io_uring cannot be used, if so.
    pub io_uring_error: Option<String>,
    /// Hard limit of locked memory, bytes; `u64::MAX` is unlimited.
    pub memlock: u64,
    /// Hard limit of open descriptors.
    pub nofile: u64,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u64>,
    /// Whether the spool is, or would be, in memory.
    pub spool_in_memory: Option<bool>,
    /// Bytes free for the spool.
    pub spool_free: Option<u64>,
}

/// Looks at the host, and at the file system that holds `spool` or would.
pub fn look(spool: &Path) -> Facts {
    // `serve` raises its soft limits to the hard ones.
    let hard = |resource| getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let (memlock, nofile) = (hard(Resource::Memlock), hard(Resource::Nofile));
    let place = existing(spool);
    let kind = place.and_then(|path| rustix::fs::statfs(path).ok());
    let room = place.and_then(|path| rustix::fs::statvfs(path).ok());
    Facts {
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        io_uring_error: executor::check_host(0).err().map(|error| error.to_string()),
        memlock,
        nofile,
        somaxconn: fs::read_to_string("/proc/sys/net/core/somaxconn").ok().and_then(|text| number(&text)),
        spool_in_memory: kind.map(|kind| kind.f_type as u64 == TMPFS_MAGIC),
        spool_free: room.map(|room| room.f_bavail.saturating_mul(room.f_frsize)),
    }
}

/// The path itself, or the nearest directory above it that exists.
fn existing(path: &Path) -> Option<&Path> {
    let mut path = path;
    loop {
        if path.as_os_str().is_empty() {
            return Some(Path::new("."));
        }
        if path.exists() {
            return Some(path);
        }
        path = path.parent()?;
    }
}

/// A file of `/proc/sys` with one number.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_proc_sys_are_read_and_nothing_else() {
        assert_eq!(number("4096\n"), Some(4096));
        for text in ["", "\n", "4096\t131072\n", "-1\n", "max"] {
            assert_eq!(number(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_spool_that_is_not_there_yet_is_judged_by_the_directory_that_will_hold_it() {
        assert_eq!(existing(Path::new("/proc/nothing/at/all")), Some(Path::new("/proc")));
        assert_eq!(existing(Path::new("nothing-here/at-all")), Some(Path::new(".")));
        assert_eq!(existing(Path::new("./nothing-here")), Some(Path::new(".")));
    }
}
