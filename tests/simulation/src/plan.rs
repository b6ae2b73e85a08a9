//! PURE. What happens in a run: drawn from the seed before it begins.

use std::time::Duration;

use ringpost::net::simulated::{Death, Weather};
use ringpost::spool::storage::memory::{FaultPlan, Nature};

use crate::relay::{DISK_BYTES, Shape};
use crate::remote::Mood;

/// Something that happens to the relay or around it.
#[derive(Clone, Debug)]
pub enum Incident {
    /// Its process or its machine dies; it comes back after the pause, in another shape.
    Death(Death, Duration, Shape),
    /// It is stopped cleanly and started again.
    Restart(Duration, Shape),
    /// Calls of the disk go wrong.
    Disk(FaultPlan),
    /// The disk has so many bytes left.
    DiskFree(u64),
    /// A call of the disk takes up to this long.
    DiskPace(Duration),
    /// The wall clock jumps, milliseconds.
    Clock(i64),
    /// The network changes.
    Weather(Weather),
    /// The remotes change.
    Mood(Mood),
    /// The DNS answers or does not.
    Dns(bool),
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The relay's shape at first.
    pub shape: Shape,
    /// Messages to be sent.
    pub messages: u32,
    /// Clients that send them.
    pub clients: u32,
    /// Age at which mail bounces. `None` if the clock jumps: then it is so long that nothing may.
    pub expiry: Option<Duration>,
    /// Nothing goes wrong: everything must arrive exactly once.
    pub calm: bool,
    /// When what happens, from the start.
    pub incidents: Vec<(Duration, Incident)>,
    /// When everything heals.
    pub heals: Duration,
    /// A third of the domains is behind a delivery agent on a unix socket.
    pub lmtp: bool,
}

impl Plan {
    /// The plan of `seed`.
    pub fn new(seed: u64) -> Self {
        let random = &mut fastrand::Rng::with_seed(seed ^ 0xA11_F00D);
        let calm = random.u8(..6) == 0;
        let heals = Duration::from_secs(random.u64(60..1800));
        let count = if calm { 0 } else { random.usize(1..14) };
        let mut incidents: Vec<_> =
            (0..count).map(|_| (heals.mul_f64(random.f64() * 0.95), incident(random))).collect();
        incidents.sort_by_key(|(at, _)| *at);
        let jumps = incidents.iter().any(|(_, incident)| matches!(incident, Incident::Clock(_)));
        Self {
            // Of the number itself, so that all others go the way that they always went.
            lmtp: seed % 4 == 2,
            shape: shape(random),
            messages: random.u32(5..120),
            clients: random.u32(1..8),
            expiry: (!jumps).then_some(Duration::from_secs(2 * 3600)),
            calm,
            incidents,
            heals,
        }
    }
}

fn shape(random: &mut fastrand::Rng) -> Shape {
    let rate = random.bool().then(|| random.u32(20..2000));
    Shape { shards: random.u16(1..4), workers: random.u16(1..4), split: random.bool(), rate }
}

fn incident(random: &mut fastrand::Rng) -> Incident {
    let pause = Duration::from_millis(random.u64(..60_000));
    match random.u8(..20) {
        0..=3 => Incident::Death(Death::PowerCut, pause, shape(random)),
        4..=5 => Incident::Death(Death::Killed, pause, shape(random)),
        6..=8 => Incident::Restart(pause, shape(random)),
        9..=10 => Incident::Disk(FaultPlan::random(random.u64(..), &[Nature::Fails], 40)),
        11 => Incident::DiskFree(random.u64(..3 << 20)),
        12 => Incident::DiskFree(DISK_BYTES),
        13 => Incident::DiskPace(Duration::from_millis(random.u64(..60))),
        14 => Incident::DiskPace(Duration::from_secs(random.u64(1..50))),
        15 => Incident::Clock(random.i64(-86_400_000..86_400_000)),
        16..=17 => Incident::Weather(Weather {
            latency_max: Duration::from_millis(random.u64(1..2_000)),
            lost: random.f64() * 0.3,
            breaks: random.f64() * 0.5,
            stalls: random.f64() * 0.2,
        }),
        18 => Incident::Dns(random.bool()),
        _ => Incident::Mood(Mood {
            busy: random.f64() * 0.5,
            defers: random.f64() * 0.5,
            hangs_up: random.f64() * 0.1,
            forgets: random.f64() * 0.2,
            slowest: Duration::from_millis(random.u64(1..400_000)),
        }),
    }
}
