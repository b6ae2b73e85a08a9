//! PURE. What a measured disk does with batches and with logs that were not measured.

use super::profile::{Profile, Way};

impl Profile {
    /// Mean time of a commit of `records` records the relay's way; between the batches that were measured it is a line.
    pub fn commit_micros(&self, records: f64) -> f64 {
        let points: Vec<(f64, f64)> = self
            .cells
            .iter()
            .filter(|cell| cell.way == Way::DirectZeroed)
            .map(|cell| (cell.batch as f64, cell.latency.mean_micros))
            .collect();
        let Some(first) = points.first() else { return self.relay_commit.mean_micros };
        if records <= first.0 {
            return first.1;
        }
        for pair in points.windows(2) {
            let ((left, low), (right, high)) = (pair[0], pair[1]);
            if records <= right {
                return low + (high - low) * (records - left) / (right - left);
            }
        }
        // Larger batches than were measured: bytes alone count.
        let last = points[points.len() - 1];
        last.1 * records / last.0
    }

    /// How many times faster `logs` logs are than one; between the counts that were measured it is a line, beyond them it stays.
    pub fn speed_up(&self, logs: f64) -> f64 {
        let Some(one) = self.parallel.first().filter(|one| one.records_per_second > 0.0) else { return 1.0 };
        let mut before = (1.0, 1.0);
        for row in &self.parallel {
            let here = (row.logs as f64, row.records_per_second / one.records_per_second);
            if logs <= here.0 {
                let width: f64 = here.0 - before.0;
                let share = if width > 0.0 { (logs - before.0) / width } else { 1.0 };
                return before.1 + (here.1 - before.1) * share;
            }
            before = here;
        }
        before.1
    }

    /// Records per second that `logs` logs make durable for so many clients each, who wait for their commit before they send again.
    ///
    /// A commit begins with the first record that has come and does not wait for company, so after each one the clients' next
    /// records take two: the first of them alone, then all others.
    pub fn durable_rate(&self, logs: f64, clients: f64) -> f64 {
        let rest = if clients > 1.0 { self.commit_micros(clients - 1.0) } else { 0.0 };
        self.speed_up(logs).min(logs) * clients * 1e6 / (self.commit_micros(1.0) + rest).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::disk::profile::tests::profile;

    #[test]
    fn between_and_beyond_what_was_measured_it_is_a_line() {
        let profile = profile();
        for (records, want) in [(0.5, 110.0), (1.0, 110.0), (3.0, 130.0), (256.0, 2_660.0), (512.0, 5_320.0)]
        {
            assert!((profile.commit_micros(records) - want).abs() < 1e-6, "{records}");
        }
        for (logs, want) in [(1.0, 1.0), (3.0, 3.0), (4.0, 4.0), (8.0, 4.0), (64.0, 4.0)] {
            assert!((profile.speed_up(logs) - want).abs() < 1e-9, "{logs}");
        }
    }

    #[test]
    fn clients_share_commits_but_for_the_first_of_them() {
        let profile = profile();
        assert!((profile.durable_rate(1.0, 1.0) - 1e6 / 110.0).abs() < 1e-6);
        assert!((profile.durable_rate(2.0, 9.0) - 2.0 * 9.0 * 1e6 / (110.0 + 180.0)).abs() < 1e-6);
    }
}
