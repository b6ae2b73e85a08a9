//! PURE. Which paths of a worker want to be looked at, and when: the work of a round goes by what has changed, not by how
//! many paths there are.

use std::collections::{BTreeSet, HashMap};

use crate::clock::Moment;
use crate::hash::HashState;
use crate::id::PathId;

/// One alarm for each path that has set one.
#[derive(Debug, Default)]
pub struct Wakes {
    by_time: BTreeSet<(Moment, PathId)>,
    by_path: HashMap<PathId, Moment, HashState>,
}

impl Wakes {
    /// The path wants to be looked at then, or not at all; in place of what it said before.
    pub fn set(&mut self, path: PathId, at: Option<Moment>) {
        if self.by_path.get(&path).copied() == at {
            return;
        }
        let before = match at {
            Some(at) => {
                self.by_time.insert((at, path));
                self.by_path.insert(path, at)
            }
            None => self.by_path.remove(&path),
        };
        if let Some(before) = before {
            self.by_time.remove(&(before, path));
        }
    }

    /// When the next path is due.
    pub fn next(&self) -> Option<Moment> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// A path that is due; its alarm is off.
    pub fn take_due(&mut self, now: Moment) -> Option<PathId> {
        let (at, path) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.by_time.pop_first();
        self.by_path.remove(&path);
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wakes: &mut Wakes, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| wakes.take_due(Moment(now))).map(|path| path.0).collect()
    }

    #[test]
    fn the_last_word_of_each_path_counts() {
        let mut wakes = Wakes::default();
        for (path, at) in [(1, Some(30)), (2, Some(10)), (3, Some(20)), (1, Some(5)), (3, None), (4, None)] {
            wakes.set(PathId(path), at.map(Moment));
        }
        assert_eq!(wakes.next(), Some(Moment(5)));
        assert!(due(&mut wakes, 4).is_empty());
        assert_eq!(due(&mut wakes, 30), [1, 2]);
        assert_eq!(wakes.next(), None);
        wakes.set(PathId(1), Some(Moment(5)));
        assert_eq!(due(&mut wakes, 5), [1], "set again after it was due");
    }
}
