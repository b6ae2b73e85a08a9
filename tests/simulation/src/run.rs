//! A run: lets a plan happen to a relay, looks again and again at what a crash would leave, and drains at the end.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use ringpost::clock::Moment;
use ringpost::endpoint::Endpoint;
use ringpost::event::Event;
use ringpost::net::simulated::{Death, Host, Weather, World};
use ringpost::relay::{HURRY_LIMIT, STOP_LIMIT};
use ringpost::spool::storage::memory::{Call, Fault, FaultPlan, Rule};

use crate::client::{self, Habits};
use crate::inspect::{self, Records};
use crate::ledger::{Ledger, Totals, Violation};
use crate::mail::{DOMAINS, Mail, Recipient, SENDERS};
use crate::plan::{Incident, Plan};
use crate::relay::{self, AGENT, DISK_BYTES, Relay, Shape, Spool, remote_of};
use crate::remote::{Mood, Remote};

/// Time from healing until everything must have been delivered or bounced: mail for a dead domain lives for two hours, and
/// a jump of the clock back by a day makes it live for one more.
const DRAIN_MAX: Duration = Duration::from_secs(40 * 3600);
/// Time within which a relay must have recovered from a spool of some megabytes.
const RECOVERY_MAX: Duration = Duration::from_secs(3600);
/// Longest time that one call of a slow disk takes, and some more.
const SLOWEST_CALL: Duration = Duration::from_secs(60);
/// Looks at what a crash would leave, during the troubled part of a run.
const LOOKS: u32 = 8;

/// How to break the relay on purpose: each must be found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sabotage {
    /// The disk says that writes are durable when they have only begun.
    pub disk_lies: bool,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Recipients.
    pub totals: Totals,
    /// Ends of the relay without a clean stop.
    pub crashes: u32,
    /// Clean stops.
    pub stops: u32,
    /// What there was to see on the way.
    pub seen: Seen,
    /// The same for two runs only if they went the same way.
    pub trace: u64,
}

/// Things that many runs together must have been through, or they prove little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Fences that stood after a failed write.
    pub fences: u32,
    /// Parts that were drained and removed.
    pub drained: u32,
    /// Records found by the looks at what a crash would leave; one may be seen in each.
    pub records: Records,
}

/// Runs `seed` to its end.
///
/// # Errors
/// With the first violation of the law.
pub fn run(seed: u64, sabotage: Sabotage) -> Result<Report, Violation> {
    let world = World::new(seed);
    let entered = world.enter();
    let result = Run::new(&world, seed, sabotage).play();
    // What is left of the world ends while it is still there.
    drop(entered);
    result
}

/// What the relay is at.
enum State {
    /// Down until then; comes back in this shape.
    Down(Moment, Shape),
    Recovering(Relay, Moment),
    Up(Relay),
    /// Stopping since then; hurried and shut in steps. Comes back after the pause.
    Stopping(Relay, Moment, u8, Duration, Shape),
}

struct Run {
    world: World,
    plan: Plan,
    began: Moment,
    spool: Spool,
    sabotage: Sabotage,
    state: State,
    shape: Shape,
    mood: Rc<Cell<Mood>>,
    dns_works: Rc<Cell<bool>>,
    ledger: Rc<RefCell<Ledger>>,
    clients: Host,
    remotes: Host,
    incidents: VecDeque<(Duration, Incident)>,
    crashes: u32,
    stops: u32,
    seen: Seen,
}

fn wrong<T>(what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation(what.into()))
}

impl Run {
    fn new(world: &World, seed: u64, sabotage: Sabotage) -> Self {
        let plan = Plan::new(seed);
        let began = world.now().mono;
        let mut run = Self {
            world: world.clone(),
            began,
            spool: Spool::new(),
            sabotage,
            state: State::Down(began, plan.shape),
            shape: plan.shape,
            mood: Rc::new(Cell::new(Mood::CALM)),
            dns_works: Rc::new(Cell::new(true)),
            ledger: Rc::default(),
            clients: world.host(),
            remotes: world.host(),
            incidents: plan.incidents.clone().into(),
            crashes: 0,
            stops: 0,
            seen: Seen::default(),
            plan,
        };
        // A tick, so that time goes on while the relay is down and nobody sends.
        let clock = world.clone();
        world.spawn_on(world.host(), async move {
            loop {
                clock.sleep(Duration::from_secs(1)).await;
            }
        });
        run.set_faults(FaultPlan::default());
        run.start_remotes();
        run.start_clients();
        run
    }

    fn start_remotes(&mut self) {
        let mut addresses: Vec<_> =
            DOMAINS.iter().chain([&SENDERS]).map(|domain| remote_of(domain)).collect();
        addresses.sort();
        addresses.dedup();
        for address in addresses {
            self.start_remote(Endpoint::Ip(address));
        }
        if self.plan.lmtp {
            self.start_remote(Endpoint::Unix(Path::new(AGENT).into()));
        }
    }

    fn start_remote(&self, at: Endpoint) {
        let (mood, ledger) = (self.mood.clone(), self.ledger.clone());
        let lmtp = at.ip().is_none();
        let remote = Remote { world: self.world.clone(), mood, ledger, lmtp };
        self.world.spawn_on(self.remotes, remote.run(self.world.listen(self.remotes, at)));
    }

    fn start_clients(&mut self) {
        let mut numbers = 0..self.plan.messages;
        let share = self.plan.messages.div_ceil(self.plan.clients) as usize;
        let breaks_off = !self.plan.calm;
        loop {
            let mails: Vec<Mail> = numbers
                .by_ref()
                .take(share)
                .map(|number| {
                    self.world.random(|random| Mail::new(number, self.plan.expiry.is_some(), random))
                })
                .collect();
            if mails.is_empty() {
                return;
            }
            let habits = self.world.random(|random| Habits::by_chance(random, breaks_off));
            let client = client::run(self.world.clone(), relay::ADDRESS, habits, mails, self.ledger.clone());
            self.world.spawn_on(self.clients, client);
        }
    }

    fn play(mut self) -> Result<Report, Violation> {
        let step = self.plan.heals / LOOKS;
        let mut next_look = step;
        while self.since_start() < self.plan.heals {
            self.step()?;
            if self.since_start() >= next_look {
                next_look += step;
                self.check_law()?;
            }
        }
        self.heal();
        self.drain()?;
        let unexpected = self.ledger.borrow().bounced_without_reason();
        if !unexpected.is_empty() {
            return wrong(format!("{unexpected:?} bounced without a reason"));
        }
        self.world.kill(self.clients, Death::Killed);
        self.world.kill(self.remotes, Death::Killed);
        self.finish()
    }

    fn since_start(&self) -> Duration {
        self.world.now().mono.since(self.began)
    }

    /// One step of the world, then whatever is due in the plan.
    fn step(&mut self) -> Result<(), Violation> {
        let moved = self.world.step();
        assert!(moved, "the clock of the plan ticks for ever");
        while self.incidents.front().is_some_and(|(at, _)| *at <= self.since_start()) {
            let (_, incident) = self.incidents.pop_front().expect("looked at");
            self.happen(incident);
        }
        self.tend()?;
        match self.ledger.borrow().violation() {
            Some(violation) => Err(violation.clone()),
            None => Ok(()),
        }
    }

    fn happen(&mut self, incident: Incident) {
        match incident {
            Incident::Death(death, pause, shape) => self.die(death, pause, shape),
            Incident::Restart(pause, shape) => self.stop(pause, shape),
            Incident::Disk(faults) => self.set_faults(faults),
            Incident::DiskFree(bytes) => self.spool.disk.set_free(bytes),
            Incident::DiskPace(slowest) => self.spool.manner.slowest.set(slowest),
            Incident::Clock(milliseconds) => self.world.shift_wall(milliseconds),
            Incident::Weather(weather) => self.world.set_weather(weather),
            Incident::Mood(mood) => self.mood.set(mood),
            Incident::Dns(works) => self.dns_works.set(works),
        }
    }

    /// The disk goes wrong by `faults` from now on, and by what the run is sabotaged with.
    fn set_faults(&self, faults: FaultPlan) {
        let lie = Rule::new(Fault::Cached).on(Call::Write).sticky();
        self.spool.disk.set_faults(if self.sabotage.disk_lies { faults.with(lie) } else { faults });
    }

    fn heal(&mut self) {
        self.set_faults(FaultPlan::default());
        self.spool.disk.set_free(DISK_BYTES);
        self.spool.manner.slowest.set(Duration::from_millis(2));
        self.world.set_weather(Weather::FAIR);
        self.mood.set(Mood::CALM);
        self.dns_works.set(true);
    }

    fn die(&mut self, death: Death, pause: Duration, shape: Shape) {
        let back = self.world.now().mono + pause;
        let state = std::mem::replace(&mut self.state, State::Down(back, shape));
        let relay = match state {
            State::Down(..) => return,
            State::Recovering(relay, _) | State::Up(relay) | State::Stopping(relay, ..) => relay,
        };
        self.crashes += 1;
        self.ledger.borrow_mut().crashed();
        let world = self.world.clone();
        // A killed process leaves what the kernel has begun, which it ends; a power cut leaves any of it.
        let mut coin = || death == Death::Killed || world.random(fastrand::Rng::bool);
        let disk = self.spool.disk.cut_now(&mut coin);
        relay.kill(&self.world, death);
        self.spool.disk = disk;
        self.set_faults(FaultPlan::default());
    }

    fn stop(&mut self, pause: Duration, shape: Shape) {
        let state = std::mem::replace(&mut self.state, State::Down(self.began, shape));
        self.state = match state {
            State::Up(relay) => {
                relay.orders().stop();
                State::Stopping(relay, self.world.now().mono, 0, pause, shape)
            }
            other => other,
        };
    }

    /// Moves the relay on: starts it when it is time, and does what an operator does.
    fn tend(&mut self) -> Result<(), Violation> {
        let now = self.world.now().mono;
        let state = std::mem::replace(&mut self.state, State::Down(now, self.shape));
        self.state = match state {
            State::Down(until, shape) if until <= now => {
                self.shape = shape;
                let expiry = self.plan.expiry;
                let relay = Relay::start(
                    &self.world,
                    &mut self.spool,
                    shape,
                    expiry,
                    self.plan.lmtp,
                    &self.dns_works,
                );
                State::Recovering(relay, now)
            }
            State::Recovering(mut relay, since) => match relay.is_recovered() {
                Ok(true) => State::Up(relay),
                Ok(false) if now.since(since) > RECOVERY_MAX => return wrong("recovery does not end"),
                Ok(false) => State::Recovering(relay, since),
                Err(error) => return self.recovery_failed(relay, &error),
            },
            State::Up(relay) => {
                self.note_events(&relay);
                if relay.fence.reason().is_some() {
                    self.seen.fences += 1;
                    // The operator has seen the alarm, and restarts when the disk is well again.
                    self.state = State::Up(relay);
                    self.die(Death::Killed, Duration::from_secs(30), self.shape);
                    return Ok(());
                }
                State::Up(relay)
            }
            State::Stopping(relay, since, step, pause, shape) => {
                self.note_events(&relay);
                return self.stopping(relay, since, step, pause, shape);
            }
            down => down,
        };
        Ok(())
    }

    fn recovery_failed(&mut self, relay: Relay, error: &str) -> Result<(), Violation> {
        let excused = ["os error", "write zero", "failed"].iter().any(|word| error.contains(word));
        let was_well = self.since_start() > self.plan.heals + SLOWEST_CALL;
        if was_well || !excused {
            return wrong(format!("recovery failed: {error}"));
        }
        self.state = State::Up(relay);
        self.die(Death::Killed, Duration::from_secs(30), self.shape);
        Ok(())
    }

    fn stopping(
        &mut self,
        relay: Relay,
        since: Moment,
        step: u8,
        pause: Duration,
        shape: Shape,
    ) -> Result<(), Violation> {
        let now = self.world.now().mono;
        if relay.has_ended() {
            if relay.fence.reason().is_none() {
                self.stops += 1;
            } else {
                self.ledger.borrow_mut().crashed();
            }
            let parts = self.spool.parts.len();
            relay.bury(&self.world, &mut self.spool);
            self.seen.drained += (parts - self.spool.parts.len()) as u32;
            self.set_faults(FaultPlan::default());
            self.state = State::Down(now + pause, shape);
            return Ok(());
        }
        let waited = now.since(since);
        let step = match step {
            0 if waited >= STOP_LIMIT => {
                relay.orders().hurry();
                1
            }
            1 if waited >= STOP_LIMIT + HURRY_LIMIT => {
                relay.orders().shut();
                2
            }
            step => step,
        };
        self.state = State::Stopping(relay, since, step, pause, shape);
        if waited >= STOP_LIMIT + 2 * HURRY_LIMIT {
            // What `serve` does: it ends as it is, and recovery has the rest. Only a slow or failing disk may need that.
            if self.since_start() > self.plan.heals + SLOWEST_CALL || self.plan.calm {
                return wrong("a stop does not end though nothing is wrong");
            }
            self.die(Death::Killed, pause, shape);
        }
        Ok(())
    }

    fn note_events(&self, relay: &Relay) {
        for event in relay.events() {
            if let Event::Trouble { what, .. } = event
                && self.plan.calm
            {
                panic!("trouble, though nothing is wrong: {what}");
            }
        }
    }

    /// The law, for a power cut at this instant.
    fn check_law(&mut self) -> Result<(), Violation> {
        let world = &self.world;
        let disk = self.spool.disk.cut_now(&mut || world.random(fastrand::Rng::bool));
        let found = match inspect::look(&disk, &self.spool.parts) {
            Ok(found) => found,
            Err(error) => return wrong(format!("a crash here could not be recovered from: {error}")),
        };
        let Records { moved, bounced, aborted } = found.records;
        let seen = &mut self.seen.records;
        (seen.moved, seen.bounced, seen.aborted) =
            (seen.moved + moved, seen.bounced + bounced, seen.aborted + aborted);
        let ledger = self.ledger.borrow();
        let lost: Vec<Recipient> =
            ledger.owed().filter(|recipient| !found.kept.contains(recipient)).collect();
        if lost.is_empty() { Ok(()) } else { wrong(format!("a crash here loses {lost:?}")) }
    }

    /// Until everything has been delivered or bounced, and the queue is empty.
    fn drain(&mut self) -> Result<(), Violation> {
        let deadline = self.since_start() + DRAIN_MAX;
        let mut next_look = self.since_start();
        loop {
            self.step()?;
            if self.since_start() < next_look {
                continue;
            }
            next_look = self.since_start() + Duration::from_secs(600);
            if !matches!(self.state, State::Up(_)) || self.world.tasks_of(self.clients) > 0 {
                continue;
            }
            let found = self.look()?;
            if found.messages.is_empty() && self.ledger.borrow().owed().next().is_none() {
                return Ok(());
            }
            if self.since_start() > deadline {
                let owed: Vec<_> = self.ledger.borrow().owed().collect();
                let (now, left) = (self.world.now().wall, found.messages);
                return wrong(format!("it is {now:?}; stuck: {left:#?}, for {owed:?}"));
            }
        }
    }

    fn look(&self) -> Result<inspect::Found, Violation> {
        let disk = self.spool.disk.cut_now(&mut || true);
        inspect::look(&disk, &self.spool.parts).or_else(wrong)
    }

    fn finish(mut self) -> Result<Report, Violation> {
        // Calls that a slow disk had begun before it healed are over by then.
        while self.since_start() < self.plan.heals + SLOWEST_CALL {
            self.step()?;
        }
        self.stop(Duration::from_secs(3600), self.shape);
        while matches!(self.state, State::Stopping(..)) {
            self.step()?;
        }
        let found = self.look()?;
        if !found.messages.is_empty() {
            return wrong(format!("after a clean stop there were again {:#?}", found.messages));
        }
        let mut ledger = self.ledger.borrow_mut();
        ledger.check_repeats();
        if let Some(violation) = ledger.violation() {
            return Err(violation.clone());
        }
        let totals = ledger.totals();
        if self.plan.calm {
            let sent_well = totals.refused == 0 && totals.unknown == 0 && totals.repeated == 0;
            if !sent_well {
                return wrong(format!("nothing went wrong, and yet: {totals:?}"));
            }
        }
        let trace = self.world.trace();
        Ok(Report { totals, crashes: self.crashes, stops: self.stops, seen: self.seen, trace })
    }
}
