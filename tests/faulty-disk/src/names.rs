//! PURE. Names on the disk: what directories hold now, and what they would hold after a power cut.
//!
//! A change is durable when one of its directories has been synced behind it. Of the others a power cut keeps any: a
//! journalling file system would keep the first ones, and who relies on that relies on one file system.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use crate::mercy::Mercy;

/// A file or directory, whatever its names.
pub type FileId = u64;
/// A place for a name: the directory and the name in it.
pub type Place = (FileId, OsString);
/// What stands where.
type Map = BTreeMap<Place, FileId>;

/// What directories hold.
#[derive(Debug, Default)]
pub struct Names {
    now: Map,
    durable: Map,
    /// Changes that are not durable yet, in order. The parts of one stand or fall together.
    unsynced: Vec<Vec<(Place, Option<FileId>)>>,
}

fn set(map: &mut Map, change: &[(Place, Option<FileId>)]) {
    for (place, file) in change {
        match file {
            Some(file) => map.insert(place.clone(), *file),
            None => map.remove(place),
        };
    }
}

impl Names {
    /// What stands at a name.
    pub fn get(&self, directory: FileId, name: &OsStr) -> Option<FileId> {
        self.now.get(&(directory, name.to_owned())).copied()
    }

    /// Everything in a directory.
    pub fn list(&self, directory: FileId) -> impl Iterator<Item = (&OsStr, FileId)> {
        let from = (directory, OsString::new());
        let entries = self.now.range(from..).take_while(move |((of, _), _)| *of == directory);
        entries.map(|((_, name), file)| (name.as_os_str(), *file))
    }

    /// Names appear, change and go, all at once.
    pub fn change(&mut self, change: Vec<(Place, Option<FileId>)>) {
        set(&mut self.now, &change);
        self.unsynced.push(change);
    }

    /// The directory's changes so far are durable.
    pub fn sync(&mut self, directory: FileId) {
        let durable = &mut self.durable;
        self.unsynced.retain(|change| {
            let covered = change.iter().any(|((of, _), _)| *of == directory);
            if covered {
                set(durable, change);
            }
            !covered
        });
    }

    /// The power fails. What stands after that stands durably.
    pub fn cut(&mut self, mercy: &mut Mercy) {
        for change in std::mem::take(&mut self.unsynced) {
            if mercy.keeps() {
                set(&mut self.durable, &change);
            }
        }
        self.now = self.durable.clone();
    }

    /// Whether a name for the file exists, and whether a power cut could leave one.
    pub fn mentions(&self, file: FileId) -> (bool, bool) {
        let named = self.now.values().any(|named| *named == file);
        let may_be = || {
            let unsynced = self.unsynced.iter().flatten().any(|(_, named)| *named == Some(file));
            unsynced || self.durable.values().any(|named| *named == file)
        };
        (named, named || may_be())
    }

    /// Changes that a power cut may lose.
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(directory: FileId, name: &str) -> Place {
        (directory, name.into())
    }

    fn names(names: &Names, directory: FileId) -> Vec<(String, FileId)> {
        names.list(directory).map(|(name, file)| (name.to_string_lossy().into_owned(), file)).collect()
    }

    #[test]
    fn a_name_survives_a_power_cut_only_if_its_directory_was_synced() {
        let mut disk = Names::default();
        disk.change(vec![(place(1, "synced"), Some(7))]);
        disk.sync(1);
        disk.change(vec![(place(1, "not"), Some(8))]);
        disk.change(vec![(place(2, "elsewhere"), Some(9))]);
        disk.sync(2);
        disk.cut(&mut Mercy::of(0));
        assert_eq!(
            (names(&disk, 1), names(&disk, 2)),
            (vec![("synced".to_owned(), 7)], vec![("elsewhere".to_owned(), 9)])
        );
    }

    #[test]
    fn a_rename_is_seen_whole_or_not_at_all() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let mut disk = Names::default();
            disk.change(vec![(place(1, "new"), Some(7))]);
            disk.change(vec![(place(1, "old"), Some(6))]);
            disk.sync(1);
            disk.change(vec![(place(1, "new"), None), (place(1, "old"), Some(7))]);
            disk.cut(&mut Mercy::of(seed));
            seen.insert(names(&disk, 1));
        }
        let before = vec![("new".to_owned(), 7), ("old".to_owned(), 6)];
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [before, vec![("old".to_owned(), 7)]]);
    }

    #[test]
    fn a_removed_file_may_come_back_until_the_removal_is_synced() {
        let mut disk = Names::default();
        disk.change(vec![(place(1, "a"), Some(7))]);
        disk.sync(1);
        disk.change(vec![(place(1, "a"), None)]);
        assert_eq!(disk.mentions(7), (false, true));
        disk.cut(&mut Mercy::of(0));
        assert_eq!(names(&disk, 1), [("a".to_owned(), 7)]);
        disk.change(vec![(place(1, "a"), None)]);
        disk.sync(1);
        assert_eq!((disk.mentions(7), disk.unsynced()), ((false, false), 0));
    }
}
