//! PURE. A relay of any size as queues: cores that serve, logs that commit in groups, clients that wait for their 250.
//!
//! Each client sends its next message when the last one is answered, always to the same shard. A core serves one task after the other, in
//! the order of arrival: receiving (then the message waits for its shard's commit) and sending (on the same core, or on any other as often
//! as messages cross over). A shard has one commit under way, of all that waited when it began; it takes what the disk's profile says for
//! so many records, the longer the more logs are writing at once. Service times are exponential: the real ones vary less, so waiting is
//! overstated a little. Not in it: the network, the peers, caches and memory, and threads beside the executors.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::disk::profile::Profile;

/// Simulated messages for each core, and of those the first, which are not counted.
const MESSAGES_PER_CORE: u64 = 3_000;
const WARM_UP_PER_CORE: u64 = 600;

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Plant<'a> {
    /// Cores, each with a shard and a worker.
    pub cores: usize,
    /// Clients in all.
    pub connections: usize,
    /// CPU to receive a message, microseconds.
    pub inbound: f64,
    /// CPU to send it, without crossing over.
    pub outbound: f64,
    /// In addition where it is sent on another core.
    pub crossing: f64,
    /// Commits; `None`: they take no time.
    pub disk: Option<&'a Profile>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Yield {
    /// Messages sent per second.
    pub rate: f64,
    /// From the end of data to the 250, microseconds: the mean.
    pub answer_mean: f64,
    /// 99 % are at most this.
    pub answer_p99: f64,
    /// Messages of a commit.
    pub batch: f64,
    /// Share of time that the cores were busy.
    pub busy: f64,
}

#[derive(Clone, Copy, Debug)]
enum Task {
    Receive { client: usize, since: f64 },
    Send { extra: f64 },
}

#[derive(Default)]
struct Core {
    waiting: VecDeque<Task>,
    at_work: Option<Task>,
    busy: f64,
    /// Received, not committed: client, and since when it waits for its answer.
    received: Vec<(usize, f64)>,
    under_way: Vec<(usize, f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Served(usize),
    Committed(usize),
}

struct Simulation<'a> {
    plant: Plant<'a>,
    cores: Vec<Core>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    /// Nanoseconds, and events so far: ties are kept in order.
    now: u64,
    count: u64,
    random: u64,
    committing: usize,
    sent: u64,
    answers: Vec<f64>,
    commits: u64,
    /// When counting began.
    begin: u64,
}

/// Runs it until enough messages were sent.
pub fn run(plant: Plant<'_>) -> Yield {
    let cores = (0..plant.cores).map(|_| Core::default()).collect();
    let mut simulation = Simulation {
        plant,
        cores,
        events: BinaryHeap::new(),
        now: 0,
        count: 0,
        random: 0x9E37_79B9_7F4A_7C15,
        committing: 0,
        sent: 0,
        answers: Vec::new(),
        commits: 0,
        begin: 0,
    };
    for client in 0..plant.connections {
        simulation.arrive(client % plant.cores, Task::Receive { client, since: 0.0 });
    }
    let (skip, all) = (WARM_UP_PER_CORE * plant.cores as u64, MESSAGES_PER_CORE * plant.cores as u64);
    while simulation.sent < all {
        let Some(Reverse((at, _, event))) = simulation.events.pop() else { break };
        simulation.now = at;
        match event {
            Event::Served(core) => simulation.served(core),
            Event::Committed(core) => simulation.committed(core),
        }
        if simulation.sent == skip && simulation.begin == 0 {
            simulation.count_from_here();
        }
    }
    simulation.result(all - skip)
}

impl Simulation<'_> {
    fn micros(&self) -> f64 {
        self.now as f64 / 1e3
    }

    fn after(&mut self, micros: f64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((self.now + (micros * 1e3) as u64, self.count, event)));
    }

    /// 0 to 1, neither of them.
    fn uniform(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    fn arrive(&mut self, core: usize, task: Task) {
        self.cores[core].waiting.push_back(task);
        self.work(core);
    }

    fn work(&mut self, core: usize) {
        if self.cores[core].at_work.is_some() {
            return;
        }
        let Some(task) = self.cores[core].waiting.pop_front() else { return };
        let mean = match task {
            Task::Receive { .. } => self.plant.inbound,
            Task::Send { extra } => self.plant.outbound + extra,
        };
        let time = -mean * self.uniform().ln();
        self.cores[core].at_work = Some(task);
        self.cores[core].busy += time;
        self.after(time, Event::Served(core));
    }

    fn served(&mut self, core: usize) {
        match self.cores[core].at_work.take() {
            Some(Task::Receive { client, since }) => {
                self.cores[core].received.push((client, since));
                self.commit(core);
            }
            Some(Task::Send { .. }) => self.sent += 1,
            None => {}
        }
        self.work(core);
    }

    fn commit(&mut self, core: usize) {
        if !self.cores[core].under_way.is_empty() || self.cores[core].received.is_empty() {
            return;
        }
        self.cores[core].under_way = std::mem::take(&mut self.cores[core].received);
        self.committing += 1;
        self.commits += 1;
        let (logs, records) = (self.committing as f64, self.cores[core].under_way.len() as f64);
        let time = self
            .plant
            .disk
            .map_or(0.0, |disk| disk.commit_micros(records) * logs / disk.speed_up(logs).min(logs));
        self.after(time, Event::Committed(core));
    }

    fn committed(&mut self, core: usize) {
        self.committing -= 1;
        let now = self.micros();
        for (client, since) in std::mem::take(&mut self.cores[core].under_way) {
            self.answers.push(now - since);
            self.arrive(core, Task::Receive { client, since: now });
            let to = (self.uniform() * self.plant.cores as f64) as usize;
            let extra = if to == core { 0.0 } else { self.plant.crossing };
            self.arrive(to, Task::Send { extra });
        }
        self.commit(core);
    }

    fn count_from_here(&mut self) {
        self.begin = self.now.max(1);
        self.answers.clear();
        self.commits = 0;
        self.cores.iter_mut().for_each(|core| core.busy = 0.0);
    }

    fn result(mut self, counted: u64) -> Yield {
        let seconds = (self.now - self.begin).max(1) as f64 / 1e9;
        self.answers.sort_by(f64::total_cmp);
        let answers = self.answers.len().max(1) as f64;
        Yield {
            rate: counted as f64 / seconds,
            answer_mean: self.answers.iter().sum::<f64>() / answers,
            answer_p99: self.answers.get((answers * 0.99) as usize).copied().unwrap_or(0.0),
            batch: answers / self.commits.max(1) as f64,
            busy: self.cores.iter().map(|core| core.busy).sum::<f64>()
                / 1e6
                / seconds
                / self.plant.cores as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::profile::tests::profile;

    fn plant(cores: usize, connections: usize) -> Plant<'static> {
        Plant { cores, connections, inbound: 30.0, outbound: 20.0, crossing: 10.0, disk: None }
    }

    fn near(value: f64, want: f64, share: f64) -> bool {
        (value / want - 1.0).abs() < share
    }

    #[test]
    fn one_core_without_a_disk_does_what_its_time_allows() {
        let made = run(plant(1, 32));
        assert!(near(made.rate, 1e6 / 50.0, 0.05) && made.busy > 0.99, "{made:?}");
    }

    #[test]
    fn more_cores_do_more_by_what_crossing_over_leaves() {
        let made = run(plant(8, 8 * 64));
        let cost = 50.0 + 10.0 * 7.0 / 8.0;
        assert!(near(made.rate, 8e6 / cost, 0.06), "{made:?}");
    }

    #[test]
    fn one_client_waits_for_the_disk_and_many_share_its_commits() {
        let disk = profile();
        let with = |connections| run(Plant { disk: Some(&disk), ..plant(1, connections) });
        let one = with(1);
        // 30 µs and 110 µs; the last one is sent meanwhile.
        assert!(near(one.rate, 1e6 / 140.0, 0.03), "{one:?}");
        let many = with(256);
        // Without sharing 9,000 a second: the CPU is the bound, and clients wait for it rather than for the disk.
        assert!(many.batch > 2.0 && near(many.rate, 1e6 / 50.0, 0.1), "{many:?}");
    }

    #[test]
    fn a_disk_that_takes_four_logs_bounds_sixty_four() {
        let mut disk = profile();
        disk.cells.iter_mut().for_each(|cell| cell.latency.mean_micros *= 100.0);
        let made = run(Plant { disk: Some(&disk), ..plant(64, 64) });
        // Each commit has one message and takes 11 ms, 16 times as long with 64 logs on a disk for 4.
        assert!(near(made.rate, 64.0 / (11e-3 * 16.0), 0.1), "{made:?}");
    }
}
