//! Drives the real binary as its users do: a configuration file, a spool on disk, signals, and the text it prints.
//!
//! | file | what it gives |
//! | --- | --- |
//! | `relay` | a laboratory directory, and a relay running in it |
//! | `client` | an SMTP client that shows every reply |
//! | `sink` | a remote that follows a script and keeps what it takes |
//! | `gate` | holds a sink's sessions up |
//! | `dns` | a DNS server with a table |
//! | `metrics` | a strict reader of the metrics page |
//! | `report` | a reader of delivery status notifications |
//!
//! Nothing here sleeps for a fixed time and hopes: [`eventually`] waits for a condition and says what did not come.

pub mod client;
// The same stub that the resolver's own tests use, who use more of it.
#[allow(dead_code)]
#[path = "../../src/control/dns_stub.rs"]
pub mod dns;
pub mod gate;
pub mod metrics;
pub mod relay;
pub mod report;
pub mod sink;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Longest wait for something that should happen soon. Generous: the machine may be busy with other tests.
pub const SOON: Duration = Duration::from_secs(30);
/// Time between two looks at a condition.
const LOOK: Duration = Duration::from_millis(5);

/// Says on standard error, past the test runner's capture, that the running test is skipped.
pub fn skip(reason: impl Display) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = std::io::stderr().write_all(format!("SKIP: {test}: {reason}\n").as_bytes());
}

/// Whether this host runs executors; says SKIP and why if it does not.
pub fn host_is_able() -> bool {
    match ringpost::net::executor::check_host(6) {
        Ok(()) => true,
        Err(error) => {
            skip(error);
            false
        }
    }
}

/// Waits until `probe` gives something; panics after [`SOON`] with what was awaited.
pub fn eventually<T>(awaited: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(SOON, awaited, probe)
}

/// Likewise with another limit.
pub fn within<T>(limit: Duration, awaited: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain for: {awaited}");
        std::thread::sleep(LOOK);
    }
}

/// A port that is free on all addresses, is given once, and lies below the system's ephemeral ports, so that no outgoing
/// connection takes it while the relay or the remote that belongs there is away.
pub fn quiet_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..1000 {
        let port = 20_000 + (getrandom::u32().expect("random") % 12_000) as u16;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() && GIVEN.lock().expect("unpoisoned").insert(port) {
            return port;
        }
    }
    panic!("no free port below 32000");
}

/// Whether a program is there to be run.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}
