//! The spool's lock: an `flock` on the file `lock`, exclusive for a relay and shared for those who look into a stopped one's
//! spool. The kernel takes it back when its holder ends, however that comes; what stands in the file only says who it
//! was, so that a refusal can name it:
//!
//! ```text
//! pid 1234
//! host mx1.example.com
//! since 2026-11-25T14:00:00Z
//! version 0.1.0
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Longest text that is looked at, bytes.
const TEXT_BYTES_MAX: u64 = 1024;

/// Takes the lock for a relay and writes down whose it is; else says who has it and what to do.
pub(super) fn take(root: &Path) -> Result<File, String> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(root.join("lock")).map_err(|error| format!("lock: {error}"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(refusal(&file)),
        Err(error) => return Err(format!("lock: {error}")),
    }
    // Best effort: the lock holds without it, and a full disk must not keep a relay from delivering.
    let _ = file.set_len(0).and_then(|()| file.write_all_at(owner().as_bytes(), 0));
    Ok(file)
}

/// Keeps relays away from a spool that is only read; `None` where there is no lock to take, as in a copy.
pub(super) fn share(root: &Path) -> Result<Option<File>, String> {
    let file = match File::open(root.join("lock")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("lock: {error}")),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => {
            let holder = holder(&file);
            Err(format!("a relay works on it{holder}: stop that one first, or look into a copy"))
        }
        Err(error) => Err(format!("lock: {error}")),
    }
}

fn refusal(file: &File) -> String {
    // Only another reader shares; what stands in the file is then of a relay that has ended.
    if flock(file, FlockOperation::NonBlockingLockShared).is_ok() {
        return "is being looked into by `ringpost spool`: wait until that has ended".to_owned();
    }
    let holder = holder(file);
    format!("is in use by another relay{holder}: stop that one, or choose another place with --spool")
}

fn owner() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let since = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let (pid, version) = (std::process::id(), env!("CARGO_PKG_VERSION"));
    format!("pid {pid}\nhost {host}\nsince {since}\nversion {version}\n")
}

/// ` (pid 1234 on mx1, since …, version …)`, or nothing if the file does not say.
fn holder(mut file: &File) -> String {
    let mut text = String::new();
    let _ = file.by_ref().take(TEXT_BYTES_MAX).read_to_string(&mut text);
    let word = |name: &str| {
        let word = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        word.filter(|word| !word.chars().any(char::is_control))
    };
    match (word("pid"), word("host"), word("since"), word("version")) {
        (Some(pid), Some(host), Some(since), Some(version)) => {
            format!(" (pid {pid} on {host}, since {since}, version {version})")
        }
        (Some(pid), ..) => format!(" (pid {pid})"),
        _ => String::new(),
    }
}
