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

    /// The next job.
    pub fn pop(&mut self) -> Option<J> {
        let (tenant, mut jobs) = self.turns.pop_front()?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.spare = jobs;
        } else {
            self.turns.push_back((tenant, jobs));
        }
        self.len -= u32::from(job.is_some());
        job
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
        let jobs: Vec<_> = std::iter::from_fn(|| parked.pop()).collect();
        assert_eq!(jobs, ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert!(parked.is_empty());
    }
}
