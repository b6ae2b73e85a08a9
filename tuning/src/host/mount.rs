//! PURE over a [`Tree`]. `/proc/self/mountinfo`: what is mounted where (`proc_pid_mountinfo(5)`).

use super::seen::Seen;
use super::tree::Tree;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor` of the file system's device; major 0 is none of a disk.
    pub device: String,
    /// Directory of the file system that is mounted.
    pub root: String,
    /// Where.
    pub point: String,
    /// Options of the mount.
    pub options: String,
    /// Type of file system.
    pub kind: String,
    /// What was mounted: a device, or a word.
    pub source: String,
    /// Options of the file system.
    pub super_options: String,
}

/// All mounts, in the order in which they were made.
pub fn mounts(tree: &Tree) -> Seen<Vec<Mount>> {
    tree.text("/proc/self/mountinfo").map(|text| text.lines().filter_map(line).collect())
}

fn line(line: &str) -> Option<Mount> {
    // A number of optional fields end at a dash that stands alone.
    let (before, after) = line.split_once(" - ")?;
    let mut left = before.split(' ').skip(2);
    let mut right = after.split(' ');
    let mut next = || left.next().map(unescaped);
    let (device, root, point, options) = (next()?, next()?, next()?, next()?);
    let mut next = || right.next().map(unescaped);
    Some(Mount {
        device,
        root,
        point,
        options,
        kind: next()?,
        source: next()?,
        super_options: next().unwrap_or_default(),
    })
}

/// Space, tab, line end and backslash are written as three octal digits.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => plain.extend([char::from(byte)].into_iter().chain(part[3..].chars())),
            None => plain.extend(['\\'].into_iter().chain(part.chars())),
        }
    }
    plain
}

/// The mount that holds `path`, which is absolute and without links: the last one made at the longest fitting point.
pub fn holding<'a>(mounts: &'a [Mount], path: &str) -> Option<&'a Mount> {
    let holds = |mount: &&Mount| {
        let inside = path.strip_prefix(mount.point.trim_end_matches('/'));
        inside.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    mounts.iter().filter(holds).max_by_key(|mount| mount.point.len())
}
