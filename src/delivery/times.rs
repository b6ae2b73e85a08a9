//! What a pool does because time has passed. Only paths that set an alarm, or to which something has happened of late, are
//! looked at: a worker may know a hundred thousand.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::path::PathState;
use super::pool::Pool;
use super::wakes::Wakes;
use crate::clock::Moment;
use crate::id::PathId;
use crate::spool::storage::Storage;

/// Period after which shards that sent nothing get no credits in advance.
pub(super) const COOLING: Duration = Duration::from_secs(2);

/// Paths that time means something to.
#[derive(Debug, Default)]
pub(super) struct Times {
    wakes: RefCell<Wakes>,
    /// Those to which something has happened in this period, each once.
    warm: RefCell<Vec<PathId>>,
}

impl<S: Storage> Pool<S> {
    /// Something has happened to the path.
    pub(super) fn note_changed(&self, id: PathId, path: &PathState<S>) {
        self.times.wakes.borrow_mut().set(id, path.next_wake());
        if !path.is_warm.replace(true) {
            self.times.warm.borrow_mut().push(id);
        }
    }

    /// Does what has become due at homes: the end of a rest, a permit that a lane waits for.
    pub(super) fn wake_due(self: &Rc<Self>, now: Moment) {
        let due: Vec<_> = std::iter::from_fn(|| self.times.wakes.borrow_mut().take_due(now)).collect();
        for id in due {
            self.with_home(id, |home| home.tick(now));
            self.upkeep(id);
        }
    }

    /// How long the worker may sleep if nothing comes.
    pub(super) fn next_wake(&self, now: Moment, cooled: Moment) -> Option<Duration> {
        let home = self.times.wakes.borrow().next();
        let retry = (!self.unsaid.borrow().is_empty()).then(|| now + Duration::from_millis(10));
        let cooling =
            (!self.times.warm.borrow().is_empty() || self.has_sources_out()).then(|| cooled + COOLING);
        let stop = self.is_stopping().then(|| now + Duration::from_millis(5));
        [home, retry, cooling, stop].into_iter().flatten().min().map(|at| at.since(now))
    }

    /// Ends a period of activity.
    pub(super) fn cool(self: &Rc<Self>) {
        self.take_sources_back();
        for id in self.times.warm.take() {
            let Some(path) = self.paths.borrow().get(&id).cloned() else { continue };
            path.is_warm.set(false);
            path.invited.borrow_mut().clear();
            let changed = {
                let mut lane = path.lane.borrow_mut();
                let before = lane.grants().is_idle();
                lane.grants().cool();
                before != lane.grants().is_idle()
            };
            if changed {
                self.upkeep(id);
            } else if path.lane.borrow().rest_until().is_none() && !path.lane.borrow_mut().grants().is_idle()
            {
                // Demand that stands: others may be invited to it in the next period.
                self.note_changed(id, &path);
            }
        }
    }
}
