//! PURE. The other form of `net`: executors, timers, sockets and bells of a world that lives in one thread and in virtual time.
//!
//! While a [`World`] is entered, `net` asks it instead of glommio and the clocks. All hosts of a world, the relay's
//! executors among them, run here, one task at a time in an order that a seed decides; so does what the network does to
//! their bytes. The same seed gives the same run. A host can be killed: its tasks are gone between two steps, and so
//! are its sockets.
//!
//! * [`World`] has tasks, timers, the clocks and the seed.
//! * `network` has listeners and connections.

pub(super) mod network;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::event::Event;
use super::listener::Bound;
use crate::clock::{Moment, Now, WallTime};
use crate::endpoint::Endpoint;
pub use network::Weather;
use network::{Network, SocketId};

/// Wall time at which every world begins: a day in 2026, milliseconds.
const BEGIN_WALL_MS: u64 = 1_780_000_000_000;
/// Longest time that one turn of a task takes.
const TURN_MAX: Duration = Duration::from_micros(20);

thread_local! {
    static CURRENT: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Something with tasks and sockets that can be killed: the relay, its clients, a remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host(u32);

/// What a killed host's peers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// kill -9: the kernel still delivers what had been written, and then ends each connection.
    Killed,
    /// A power cut: what had not arrived never does, and peers hear nothing but time-outs.
    PowerCut,
}

/// Tasks to be polled; wakers may be anywhere, so this alone is shared for real.
type Ready = Arc<Mutex<Vec<u64>>>;

struct TaskWaker {
    task: u64,
    ready: Ready,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if !ready.contains(&self.task) {
            ready.push(self.task);
        }
    }
}

struct Task {
    host: Host,
    future: Pin<Box<dyn Future<Output = ()>>>,
    waker: Waker,
}

struct Inner {
    now: Cell<Moment>,
    wall_ms: Cell<i64>,
    random: RefCell<fastrand::Rng>,
    /// The host whose task is being polled.
    host: Cell<Host>,
    hosts: Cell<u32>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    next_task: Cell<u64>,
    ready: Ready,
    timers: RefCell<BTreeMap<(Moment, u64), Waker>>,
    next_timer: Cell<u64>,
    bells: RefCell<BTreeMap<u64, Event>>,
    next_bell: Cell<u64>,
    network: RefCell<Network>,
    /// Folds every step: two runs of a seed are the same if this is.
    trace: Cell<u64>,
}

/// A world; clones are the same one.
#[derive(Clone)]
pub struct World(Rc<Inner>);

/// The world is entered while this lives.
#[must_use = "the world is left when this is dropped"]
pub struct Entered(());

impl Drop for Entered {
    fn drop(&mut self) {
        // Dropped outside the borrow: what goes with the world looks for it.
        let world = CURRENT.with_borrow_mut(Option::take);
        drop(world);
    }
}

impl World {
    /// A world without hosts. Everything that it decides comes from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(Inner {
            now: Cell::new(Moment(1_000_000)),
            wall_ms: Cell::new(BEGIN_WALL_MS as i64),
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            host: Cell::new(Host(0)),
            hosts: Cell::new(0),
            tasks: RefCell::default(),
            next_task: Cell::new(0),
            ready: Ready::default(),
            timers: RefCell::default(),
            next_timer: Cell::new(0),
            bells: RefCell::default(),
            next_bell: Cell::new(0),
            network: RefCell::default(),
            trace: Cell::new(seed),
        }))
    }

    /// The world that this thread is in.
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Enters the world: until the result is dropped `net` means this one.
    pub fn enter(&self) -> Entered {
        CURRENT.with_borrow_mut(|current| {
            assert!(current.is_none(), "a thread is in one world at a time");
            *current = Some(self.clone());
        });
        Entered(())
    }

    /// A new host without tasks.
    pub fn host(&self) -> Host {
        self.0.hosts.set(self.0.hosts.get() + 1);
        Host(self.0.hosts.get())
    }

    /// Starts a task on `host`.
    pub fn spawn_on(&self, host: Host, future: impl Future<Output = ()> + 'static) {
        let task = next(&self.0.next_task);
        let waker = Waker::from(Arc::new(TaskWaker { task, ready: self.0.ready.clone() }));
        waker.wake_by_ref();
        self.0.tasks.borrow_mut().insert(task, Task { host, future: Box::pin(future), waker });
    }

    /// Starts a task on the host whose task is running.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.spawn_on(self.0.host.get(), future);
    }

    /// Polls one task that is ready, any of them; when none is, time goes on to the next timer. `false` when nothing
    /// will ever happen any more. A panic of a task comes out here: in a simulation every panic is a finding.
    pub fn step(&self) -> bool {
        let task = {
            let mut ready = self.0.ready.lock().unwrap_or_else(PoisonError::into_inner);
            let count = ready.len();
            (count > 0).then(|| ready.swap_remove(self.random(|random| random.usize(..count))))
        };
        match task {
            Some(task) => self.poll(task),
            None => return self.fire_timers(),
        }
        true
    }

    fn poll(&self, id: u64) {
        // Taken out: the task may start others.
        let Some(mut task) = self.0.tasks.borrow_mut().remove(&id) else { return };
        self.0.host.set(task.host);
        let turn = self.random(|random| random.u64(..TURN_MAX.as_micros() as u64));
        self.0.now.set(self.now_mono() + Duration::from_micros(turn));
        self.note(id ^ (self.now_mono().0 << 20));
        let waker = task.waker.clone();
        if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            self.0.tasks.borrow_mut().insert(id, task);
        }
    }

    fn fire_timers(&self) -> bool {
        let due = {
            let mut timers = self.0.timers.borrow_mut();
            let Some(((at, _), waker)) = timers.pop_first() else { return false };
            self.0.now.set(self.now_mono().max(at));
            waker
        };
        due.wake();
        true
    }

    /// Ends `host`: its tasks are dropped where they stand, and its sockets end as `death` has it.
    pub fn kill(&self, host: Host, death: Death) {
        self.network(|network| network.kill(host, death, self.now_mono()));
        let dead: Vec<Task> = {
            let mut tasks = self.0.tasks.borrow_mut();
            let ids: Vec<u64> =
                tasks.iter().filter(|(_, task)| task.host == host).map(|(id, _)| *id).collect();
            ids.into_iter().filter_map(|id| tasks.remove(&id)).collect()
        };
        // Outside the borrow: destructors wake others. None may begin anything.
        self.0.host.set(host);
        drop(dead);
        assert_eq!(self.tasks_of(host), 0, "a destructor has started a task");
        self.wake_network();
    }

    /// Tasks of `host` that have not ended.
    pub fn tasks_of(&self, host: Host) -> usize {
        self.0.tasks.borrow().values().filter(|task| task.host == host).count()
    }

    /// A socket that listens on `address`, for `host`; several on one address take turns at random.
    pub fn listen(&self, host: Host, address: impl Into<Endpoint>) -> Bound {
        Bound::Simulated(self.network(|network| network.listen(host, address.into())))
    }

    /// What the network does to connections from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.network(|network| network.weather = weather);
    }

    /// Moves the wall clock against everything else, milliseconds.
    pub fn shift_wall(&self, milliseconds: i64) {
        self.0.wall_ms.set(self.0.wall_ms.get() + milliseconds);
    }

    /// Both clocks.
    pub fn now(&self) -> Now {
        let mono = self.now_mono();
        let wall = self.0.wall_ms.get() + (mono.0 / 1000) as i64;
        Now { wall: WallTime(wall.max(0) as u64), mono }
    }

    fn now_mono(&self) -> Moment {
        self.0.now.get()
    }

    /// Something by chance.
    pub fn random<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.0.random.borrow_mut())
    }

    /// Folds `what` into the trace.
    pub fn note(&self, what: u64) {
        self.0.trace.set((self.0.trace.get() ^ what).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23));
    }

    /// What has happened so far, in a number: the same for two runs only if they went the same way.
    pub fn trace(&self) -> u64 {
        self.0.trace.get()
    }

    /// Waits in virtual time.
    pub fn sleep(&self, wait: Duration) -> Sleep {
        Sleep { world: self.clone(), until: self.now_mono() + wait, timer: None }
    }

    /// The future's value, or `None` when `limit` is over before.
    pub(super) async fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        let (mut timer, mut future) = (std::pin::pin!(self.sleep(limit)), std::pin::pin!(future));
        std::future::poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => timer.as_mut().poll(context).map(|()| None),
        })
        .await
    }

    fn set_timer(&self, at: Moment, waker: &Waker) -> (Moment, u64) {
        let key = (at, next(&self.0.next_timer));
        self.0.timers.borrow_mut().insert(key, waker.clone());
        key
    }

    fn clear_timer(&self, key: Option<(Moment, u64)>) {
        if let Some(key) = key {
            self.0.timers.borrow_mut().remove(&key);
        }
    }

    /// A bell without an eventfd.
    pub(super) fn make_bell(&self) -> u64 {
        next(&self.0.next_bell)
    }

    /// Has `event` notified when the bell rings.
    pub(super) fn answer_bell(&self, bell: u64, event: Event) {
        self.0.bells.borrow_mut().insert(bell, event);
    }

    /// Rings a bell.
    pub(super) fn ring_bell(&self, bell: u64) {
        let event = self.0.bells.borrow().get(&bell).cloned();
        if let Some(event) = event {
            event.notify();
        }
    }

    /// Looks into the network, and then wakes whom that concerns.
    pub(super) fn network<T>(&self, look: impl FnOnce(&mut Network) -> T) -> T {
        let value = look(&mut self.0.network.borrow_mut());
        self.wake_network();
        value
    }

    fn wake_network(&self) {
        let wakers = std::mem::take(&mut self.0.network.borrow_mut().wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Connects the host whose task is running to `remote`.
    pub(super) async fn connect(&self, remote: Endpoint, limit: Duration) -> std::io::Result<SocketId> {
        let fate = self.random(|random| self.network(|network| network.fate_of_connect(&remote, random)));
        match fate {
            network::Fate::Lost => {
                self.sleep(limit).await;
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            network::Fate::After(latency) => self.sleep(latency.min(limit)).await,
        }
        let host = self.0.host.get();
        self.random(|random| self.network(|network| network.connect(host, &remote, random)))
    }
}

fn next(counter: &Cell<u64>) -> u64 {
    counter.set(counter.get() + 1);
    counter.get()
}

/// Ends when its moment has come. Dropped before, its timer goes with it.
pub struct Sleep {
    world: World,
    until: Moment,
    timer: Option<(Moment, u64)>,
}

impl Sleep {
    fn disarm(&mut self) {
        let timer = self.timer.take();
        self.world.clear_timer(timer);
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.disarm();
        if self.world.now_mono() >= self.until {
            return Poll::Ready(());
        }
        self.timer = Some(self.world.set_timer(self.until, context.waker()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64) -> (u64, Vec<u32>) {
        let world = World::new(seed);
        let _entered = world.enter();
        let (host, order) = (world.host(), Rc::new(RefCell::new(Vec::new())));
        for number in 0..8 {
            let order = order.clone();
            world.spawn_on(host, async move {
                crate::net::sleep(Duration::from_secs(1)).await;
                crate::net::yield_now().await;
                order.borrow_mut().push(number);
            });
        }
        while world.step() {}
        (world.trace(), order.take())
    }

    #[test]
    fn a_seed_decides_the_order_of_tasks_and_another_one_changes_it() {
        let first = run(1);
        assert_eq!(first, run(1));
        assert_eq!(first.1.len(), 8);
        assert!((2..20).any(|seed| run(seed).1 != first.1), "tasks always run in the same order");
    }

    #[test]
    fn time_passes_only_when_nothing_is_ready_and_an_abandoned_timer_is_gone() {
        let world = World::new(3);
        let _entered = world.enter();
        let host = world.host();
        let began = world.now().mono;
        world.spawn_on(host, async {
            let never = std::future::pending::<()>();
            assert!(crate::net::task::within(Duration::from_secs(5), never).await.is_none());
            let at_once = crate::net::task::within(Duration::from_secs(3600), async {}).await;
            assert!(at_once.is_some());
        });
        while world.step() {}
        let passed = world.now().mono.since(began);
        assert!(passed >= Duration::from_secs(5) && passed < Duration::from_secs(6), "{passed:?}");
    }

    #[test]
    fn a_killed_host_does_nothing_any_more() {
        let world = World::new(4);
        let _entered = world.enter();
        let (host, count) = (world.host(), Rc::new(Cell::new(0)));
        let counter = count.clone();
        world.spawn_on(host, async move {
            loop {
                crate::net::sleep(Duration::from_secs(1)).await;
                counter.set(counter.get() + 1);
            }
        });
        (0..100).for_each(|_| assert!(world.step()));
        let before = count.get();
        world.kill(host, Death::Killed);
        while world.step() {}
        assert!(before > 0 && count.get() == before && world.tasks_of(host) == 0);
    }
}
