//! The spool directory: its format file, the lock that keeps a second instance out, and the parts. Blocking, for
//! start-up, before any executor runs, and for looking into a stopped relay's spool.
//!
//! ```text
//! spool/format        format version and the next part's number; replaced whole, never changed in place
//! spool/lock          held (flock) while a relay runs; says which (`lock`)
//! spool/part-00000/   segments of part 0
//! spool/gone-00001/   what is left of part 1, which was drained and is being removed; never read
//! spool/damaged/      bytes that were set aside, for people to look at; the relay never reads or removes them
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, StatVfsMountFlags, access, statvfs, syncfs};

use super::error::SpoolError;
use super::lock;
use crate::id::PartId;

/// Version of the directory's layout. A higher one is refused.
pub const FORMAT: u32 = 1;
/// The file that is locked while a relay runs.
pub const LOCK: &str = "lock";
const FIRST_LINE: &str = "ringpost spool";

/// An open, locked spool directory.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
    next_part: u32,
    /// Held for its lock.
    _lock: File,
}

/// How the directory of a part begins that is being removed.
const GONE: &str = "gone-";

/// Directory of a part within the spool.
pub fn part_dir(part: PartId) -> String {
    format!("part-{:05}", part.0)
}

impl Layout {
    /// Opens the spool in `root`, or makes one if the directory is empty. Each error is one line that names the path and
    /// what to do; then nothing has been changed.
    pub fn open(root: &Path) -> Result<Self, SpoolError> {
        let refuse = |reason: String| SpoolError::Layout(format!("spool {}: {reason}", root.display()));
        let stat =
            fs::metadata(root).map_err(|error| refuse(format!("{error}; create the directory first")))?;
        if !stat.is_dir() {
            return Err(refuse("is no directory: choose another place with --spool".to_owned()));
        }
        let user = rustix::process::geteuid().as_raw();
        if stat.uid() != user {
            return Err(refuse(format!("belongs to user {}, but the relay runs as user {user}", stat.uid())));
        }
        if stat.mode() & 0o022 != 0 {
            return Err(refuse(format!("mode {:o} lets others write; use 700", stat.mode() & 0o777)));
        }
        let mounted = statvfs(root).map_err(|error| refuse(error.to_string()))?;
        if mounted.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(refuse("is on a file system mounted read-only".to_owned()));
        }
        access(root, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| refuse(format!("cannot be read and written: {error}")))?;
        let next_part = read_format(root).map_err(&refuse)?;
        let lock = lock::take(root).map_err(&refuse)?;
        // Again, now that nobody else can be making one.
        let next_part = match next_part {
            Some(_) => read_format(root).map_err(&refuse)?,
            None => None,
        };
        let layout = Self { root: root.to_owned(), next_part: next_part.unwrap_or(0), _lock: lock };
        let made = (|| {
            layout.make_dir("damaged")?;
            layout.remove_gone()?;
            if next_part.is_none() {
                layout.sync_parent()?;
                layout.write_format()?;
            }
            Ok::<(), io::Error>(())
        })();
        made.map_err(|error| refuse(error.to_string()))?;
        Ok(layout)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Parts that exist, in order.
    pub fn parts(&self) -> io::Result<Vec<PartId>> {
        parts(&self.root)
    }

    /// Makes a part with a number that was never used before.
    pub fn create_part(&mut self) -> io::Result<PartId> {
        // A damaged `format` must not make two shards share a part.
        let after_all = self.parts()?.last().map_or(0, |part| u32::from(part.0) + 1);
        self.next_part = self.next_part.max(after_all);
        let number = u16::try_from(self.next_part)
            .map_err(|_| io::Error::other("all 65,536 part numbers of this spool have been used"))?;
        self.next_part += 1;
        // First the number is gone for good, then it is used.
        self.write_format()?;
        self.make_dir(&part_dir(PartId(number)))?;
        Ok(PartId(number))
    }

    /// Removes a drained part with the segments in it. The caller has closed its log and knows that nothing is live.
    pub fn remove_part(&self, part: PartId) -> io::Result<()> {
        let gone = self.root.join(format!("{GONE}{:05}", part.0));
        // The part goes whole: a crash that leaves messages of it without their settlements would bring them back to life.
        fs::rename(self.root.join(part_dir(part)), &gone)?;
        self.sync_root()?;
        fs::remove_dir_all(gone)
    }

    /// Ends removals that a crash has cut short.
    fn remove_gone(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(GONE) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn make_dir(&self, name: &str) -> io::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(self.root.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.sync_root(),
        }
    }

    fn write_format(&self) -> io::Result<()> {
        let new = self.root.join("format.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        write!(file, "{FIRST_LINE}\nformat {FORMAT}\nnext-part {}\n", self.next_part)?;
        file.sync_all()?;
        fs::rename(&new, self.root.join("format"))?;
        self.sync_root()
    }

    fn sync_root(&self) -> io::Result<()> {
        File::open(&self.root)?.sync_all()
    }

    /// Makes the spool's own name durable: without it a power cut takes everything that is synced below.
    fn sync_parent(&self) -> io::Result<()> {
        match File::open(self.root.join("..")) {
            Ok(parent) => parent.sync_all(),
            // Not ours to look into; its file system, which is that of the name, can still be synced.
            Err(_) => Ok(syncfs(File::open(&self.root)?)?),
        }
    }
}

/// A stopped relay's spool, kept from being started while this lives. Nothing in it is changed, nor could be.
#[derive(Debug)]
pub struct StoppedSpool {
    /// Its parts, in order.
    pub parts: Vec<PartId>,
    /// Files in `damaged/`.
    pub set_aside: usize,
    /// Held for its lock; a copy of a spool may have none.
    _lock: Option<File>,
}

impl StoppedSpool {
    /// Looks into the spool in `root`, which may be read-only, a copy, or another user's.
    ///
    /// # Errors
    /// One line that names the path: it is no spool, it cannot be read, or a relay works on it.
    pub fn open(root: &Path) -> Result<Self, SpoolError> {
        let refuse = |reason: String| SpoolError::Layout(format!("spool {}: {reason}", root.display()));
        let failed = |error: io::Error| refuse(error.to_string());
        if !fs::metadata(root).map_err(failed)?.is_dir() {
            return Err(refuse("is no directory".to_owned()));
        }
        let lock = lock::share(root).map_err(refuse)?;
        if read_format(root).map_err(refuse)?.is_none() {
            return Err(refuse("is no spool: there is no file `format` in it".to_owned()));
        }
        let parts = parts(root).map_err(failed)?;
        let set_aside = fs::read_dir(root.join("damaged")).map_or(0, |entries| entries.count());
        Ok(Self { parts, set_aside, _lock: lock })
    }
}

fn parts(root: &Path) -> io::Result<Vec<PartId>> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("part-")?.parse().ok());
        parts.extend(number.map(PartId));
    }
    parts.sort_unstable();
    Ok(parts)
}

/// The next part's number, or `None` for a directory that is empty but for what making a spool leaves first.
fn read_format(root: &Path) -> Result<Option<u32>, String> {
    let text = match fs::read_to_string(root.join("format")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let entries = fs::read_dir(root).map_err(|error| error.to_string())?;
            for entry in entries {
                let name = entry.map_err(|error| error.to_string())?.file_name();
                if !["lost+found", LOCK, "damaged", "format.new"].iter().any(|known| name == **known) {
                    return Err(format!("is no spool, and not empty: there is {}", name.display()));
                }
            }
            return Ok(None);
        }
        Err(error) => return Err(format!("format: {error}")),
    };
    let mut lines = text.lines();
    if lines.next() != Some(FIRST_LINE) {
        return Err("its file `format` is not Ringpost's".to_owned());
    }
    let mut number = |name: &str| -> Option<u32> { lines.next()?.strip_prefix(name)?.trim().parse().ok() };
    match number("format ") {
        Some(FORMAT) => {}
        Some(other) => {
            return Err(format!("has format {other}, this program knows {FORMAT}: use a newer version"));
        }
        None => return Err("its file `format` is damaged".to_owned()),
    }
    number("next-part ").map(Some).ok_or_else(|| "its file `format` is damaged".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).expect("ours");
        root
    }

    fn refusal(root: &Path) -> String {
        Layout::open(root).expect_err("it must be refused").to_string()
    }

    #[test]
    fn part_numbers_are_not_reused_after_removal_and_reopening() {
        let root = root();
        let mut layout = Layout::open(root.path()).unwrap();
        assert_eq!((layout.create_part().unwrap(), layout.create_part().unwrap()), (PartId(0), PartId(1)));
        layout.remove_part(PartId(1)).unwrap();
        drop(layout);
        let mut layout = Layout::open(root.path()).unwrap();
        assert_eq!(layout.parts().unwrap(), [PartId(0)]);
        assert_eq!(layout.create_part().unwrap(), PartId(2));
    }

    #[test]
    fn no_part_is_made_twice_however_damaged_the_next_number_is() {
        let root = root();
        let mut layout = Layout::open(root.path()).unwrap();
        layout.create_part().unwrap();
        layout.next_part = 0;
        layout.write_format().unwrap();
        drop(layout);
        assert_eq!(Layout::open(root.path()).unwrap().create_part().unwrap(), PartId(1));
    }

    #[test]
    fn a_removal_that_a_crash_has_cut_short_leaves_no_part_behind() {
        let root = root();
        let mut layout = Layout::open(root.path()).unwrap();
        let (kept, removed) = (layout.create_part().unwrap(), layout.create_part().unwrap());
        let directory = root.path().join(part_dir(removed));
        // A file in the way stops the removal before anything of the part is touched.
        let gone = root.path().join(format!("{GONE}{:05}", removed.0));
        fs::write(&gone, "").unwrap();
        fs::write(directory.join("segment-0000000001"), "").unwrap();
        layout.remove_part(removed).expect_err("something is in the way");
        assert!(directory.join("segment-0000000001").exists(), "all of it or nothing");
        fs::remove_file(&gone).unwrap();
        fs::rename(&directory, &gone).unwrap();
        drop(layout);
        let layout = Layout::open(root.path()).unwrap();
        assert_eq!(layout.parts().unwrap(), [kept]);
        let names: Vec<_> =
            fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!names.iter().any(|name| name.to_string_lossy().starts_with(GONE)), "{names:?}");
    }

    #[test]
    fn a_second_instance_is_kept_out_and_told_who_holds_the_spool() {
        let root = root();
        let first = Layout::open(root.path()).unwrap();
        let said = refusal(root.path());
        let holder = format!("is in use by another relay (pid {} on ", std::process::id());
        assert!(said.contains(&holder), "{said}");
        assert!(said.ends_with("stop that one, or choose another place with --spool"), "{said}");
        let looked = StoppedSpool::open(root.path()).expect_err("a relay has it").to_string();
        assert!(looked.contains(&format!("a relay works on it (pid {} on ", std::process::id())), "{looked}");
        drop(first);
        // Whoever looks keeps a relay from starting, but not others from looking.
        let looking = StoppedSpool::open(root.path()).expect("stopped");
        StoppedSpool::open(root.path()).expect("two may look");
        assert!(refusal(root.path()).contains("is being looked into"), "{}", refusal(root.path()));
        drop(looking);
        Layout::open(root.path()).expect("free again");
    }

    #[test]
    fn a_copy_without_a_lock_is_looked_into_and_gets_none() {
        let root = root();
        drop(Layout::open(root.path()).unwrap());
        fs::remove_file(root.path().join("lock")).expect("there was one");
        StoppedSpool::open(root.path()).expect("a copy");
        assert!(!root.path().join("lock").exists());
        let empty = tempfile::tempdir().expect("a temporary directory");
        let said = StoppedSpool::open(empty.path()).expect_err("empty").to_string();
        assert!(said.contains("is no spool"), "{said}");
    }

    #[test]
    fn what_is_no_usable_spool_is_refused_and_left_alone() {
        let foreign = root();
        fs::write(foreign.path().join("mail.mbox"), "x").unwrap();
        assert!(refusal(foreign.path()).contains("there is mail.mbox"));
        assert_eq!(fs::read_dir(foreign.path()).unwrap().count(), 1);
        let newer = root();
        fs::write(newer.path().join("format"), "ringpost spool\nformat 2\nnext-part 1\n").unwrap();
        assert!(refusal(newer.path()).contains("has format 2"));
        let open = root();
        fs::set_permissions(open.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refusal(open.path()).contains("lets others write"));
        assert!(refusal(Path::new("/nonexistent/spool")).contains("create the directory first"));
    }
}
