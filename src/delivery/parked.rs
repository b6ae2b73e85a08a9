//! PURE. Jobs that wait for a connection. Tenants take turns, job by job, so that one job of one tenant does not wait behind
//! all that another had parked. How much of each gets here at all is the queues' and the credits' matter.

use std::collections::VecDeque;

use crate::id::TenantKey;

/// Parked jobs of a lane.
#[derive(Debug)]
pub struct Parked<J> {
    /// Tenants with jobs, the next one first.
    turns: VecDeque<(TenantKey, VecDeque<J>)>,
    len: u32,
    /// Room of the last tenant that went, for the next that comes.
    spare: VecDeque<J>,
}

impl<J> Default for Parked<J> {
    fn default() -> Self {
        Self { turns: VecDeque::new(), len: 0, spare: VecDeque::new() }
    }
}

impl<J> Parked<J> {
    /// Parks a job behind those of its tenant.
    pub fn push(&mut self, tenant: TenantKey, job: J) {
        self.len += 1;
        match self.turns.iter_mut().find(|(other, _)| *other == tenant) {
            Some((_, jobs)) => jobs.push_back(job),
            None => {
                let mut jobs = std::mem::take(&mut self.spare);
                jobs.push_back(job);
                self.turns.push_back((tenant, jobs));
            }
        }
    }

    /// The next job that `fits`: the first of the tenant whose turn it is, or of the next one that has any.
    pub fn pop(&mut self, fits: impl Fn(&J) -> bool) -> Option<J> {
        let mut places = self.turns.iter().map(|(_, jobs)| jobs.iter().position(&fits));
        let (turn, place) = places.by_ref().enumerate().find_map(|(turn, place)| Some((turn, place?)))?;
        let (tenant, mut jobs) = self.turns.remove(turn)?;
        let job = jobs.remove(place);
        if jobs.is_empty() {
            self.spare = jobs;
        } else {
            self.turns.push_back((tenant, jobs));
        }
        self.len -= u32::from(job.is_some());
        job
    }

    /// The job before which `nth` others go, if all fit.
    pub fn nth(&self, nth: usize) -> Option<&J> {
        let rounds = self.turns.iter().map(|(_, jobs)| jobs.len()).max().unwrap_or(0);
        let mut order =
            (0..rounds).flat_map(|round| self.turns.iter().filter_map(move |(_, jobs)| jobs.get(round)));
        order.nth(nth)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &J> {
        self.turns.iter().flat_map(|(_, jobs)| jobs)
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_take_turns_and_each_keeps_its_order() {
        let mut parked = Parked::default();
        for (tenant, job) in [(1, "a1"), (1, "a2"), (1, "a3"), (2, "b1"), (3, "c1"), (2, "b2")] {
            parked.push(TenantKey(tenant), job);
        }
        let order: Vec<_> = (0..7).map_while(|nth| parked.nth(nth).copied()).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3"]);
        let jobs: Vec<_> = std::iter::from_fn(|| parked.pop(|_| true)).collect();
        assert_eq!(jobs, order);
        assert!(parked.is_empty());
    }

    #[test]
    fn a_job_that_fits_goes_before_its_turn_and_the_others_keep_theirs() {
        let mut parked = Parked::default();
        for (tenant, job) in [(1, "a1"), (1, "x1"), (2, "b1"), (2, "x2")] {
            parked.push(TenantKey(tenant), job);
        }
        let fitting = |job: &&str| job.starts_with('x');
        assert_eq!(
            (parked.pop(fitting), parked.pop(fitting), parked.pop(fitting)),
            (Some("x1"), Some("x2"), None)
        );
        assert_eq!((parked.pop(|_| true), parked.pop(|_| true), parked.len()), (Some("a1"), Some("b1"), 0));
    }
}
