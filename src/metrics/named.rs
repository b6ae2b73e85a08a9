//! PURE. Figures by names of the configuration, of which there are few.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::measure::Measure;

/// A figure for each name that was met.
#[derive(Debug, Default)]
pub struct ByName<T>(RefCell<BTreeMap<Box<str>, T>>);

impl<T: Default> ByName<T> {
    /// Changes the figure of a name.
    pub fn update(&self, name: &str, change: impl FnOnce(&mut T)) {
        let mut figures = self.0.borrow_mut();
        if let Some(figure) = figures.get_mut(name) {
            return change(figure);
        }
        change(figures.entry(name.into()).or_default());
    }
}

impl<T: Clone + Send> Measure for ByName<T> {
    type Snapshot = BTreeMap<Box<str>, T>;
    fn snapshot(&self) -> Self::Snapshot {
        self.0.borrow().clone()
    }
}

/// What a worker counts of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceFigures {
    /// Connections that were opened from it.
    pub opened: u64,
    /// Those open now.
    pub open: u64,
    /// How often it was taken out because it could not bind.
    pub unbound: u64,
    /// Likewise because a remote blocks it.
    pub blocked: u64,
    /// Paths that it is out for now; being out for all counts as one.
    pub out: u64,
}

/// Adds the figures of another worker.
impl std::ops::AddAssign for SourceFigures {
    fn add_assign(&mut self, other: Self) {
        self.opened += other.opened;
        self.open += other.open;
        self.unbound += other.unbound;
        self.blocked += other.blocked;
        self.out += other.out;
    }
}
