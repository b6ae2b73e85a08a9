//! A connection to a remote breaks at every byte of its dialogue, in either direction: nothing is lost, nothing bounces, and only
//! what the remote had taken whole comes twice.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::harness::client::content;
use crate::harness::relay::{Config, Lab};
use crate::harness::sink::{Act, Sink};
use crate::harness::{host_is_able, quiet_port};

/// Whose bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Relay = 1,
    Remote = 2,
}

/// Passes connections on to a remote. To each address of 127/8 belongs a cut: `127.SIDE.HIGH.LOW` breaks the first connection
/// behind that many bytes of that side, later ones pass; `127.9.0.0` breaks none and counts.
struct Cutter {
    port: u16,
    /// Bytes of the relay and of the remote on connections to `127.9.0.0`.
    counted: Arc<[AtomicUsize; 2]>,
}

impl Cutter {
    fn start(remote: SocketAddr) -> Self {
        let port = quiet_port();
        let listener = TcpListener::bind(("0.0.0.0", port)).expect("a free port");
        let counted: Arc<[AtomicUsize; 2]> = Arc::default();
        let counts = counted.clone();
        std::thread::spawn(move || {
            let mut met = HashSet::new();
            for near in listener.incoming().flatten() {
                let IpAddr::V4(address) = near.local_addr().expect("connected").ip() else { continue };
                let Ok(far) = TcpStream::connect(remote) else { continue };
                let limit = if met.insert(address) { limit(address) } else { [None; 2] };
                pass(near, far, limit, (address == COUNTING).then(|| counts.clone()));
            }
        });
        Self { port, counted }
    }

    /// A route that breaks behind `bytes` of `side`.
    fn route(&self, side: Side, bytes: usize) -> String {
        let [_, _, _, _, _, _, high, low] = (bytes as u64).to_be_bytes();
        format!("smtp://127.{}.{high}.{low}:{}", side as u8, self.port)
    }
}

const COUNTING: Ipv4Addr = Ipv4Addr::new(127, 9, 0, 0);

fn limit(address: Ipv4Addr) -> [Option<usize>; 2] {
    let [_, side, high, low] = address.octets();
    let bytes = Some(usize::from(u16::from_be_bytes([high, low])));
    match side {
        1 => [bytes, None],
        2 => [None, bytes],
        _ => [None; 2],
    }
}

/// Pumps both directions, each until it ends or has passed its limit; then the connection is broken.
fn pass(near: TcpStream, far: TcpStream, limit: [Option<usize>; 2], counted: Option<Arc<[AtomicUsize; 2]>>) {
    let ends = Arc::new(Mutex::new([near, far]));
    for (way, limit) in limit.into_iter().enumerate() {
        let (ends, counted) = (ends.clone(), counted.clone());
        let copy = |place: usize| ends.lock().expect("unpoisoned")[place].try_clone().expect("a descriptor");
        let (mut from, mut to) = (copy(way), copy(1 - way));
        std::thread::spawn(move || {
            let (mut passed, mut buffer) = (0, [0; 4096]);
            while limit.is_none_or(|limit| passed < limit) {
                let room = limit.map_or(buffer.len(), |limit| (limit - passed).min(buffer.len()));
                let count = from.read(&mut buffer[..room]).unwrap_or(0);
                if count == 0 || to.write_all(&buffer[..count]).is_err() {
                    break;
                }
                passed += count;
                if let Some(counted) = &counted {
                    counted[way].store(passed, Ordering::Relaxed);
                }
            }
            for end in ends.lock().expect("unpoisoned").iter() {
                // The other direction may have done so already.
                let _ = end.shutdown(Shutdown::Both);
            }
        });
    }
}

/// Sends a message over each possible cut, all at once.
fn play(offers: &'static [&'static str]) {
    let sink = Sink::on(&[([127, 0, 0, 1], 0).into()], offers, |_| Act::Accept);
    let (lab, cutter) = (Lab::new(), Cutter::start(sink.address()));
    let sent = content("cut", ".dots\r\n..and more\r\n");
    let name =
        |side: Side, bytes: usize| format!("{}{bytes:04}.test", if side == Side::Relay { 'c' } else { 's' });
    // How long the dialogue is: names of the same length throughout.
    let pilot = lab.start(&Config::new().route("*", format!("smtp://{COUNTING}:{}", cutter.port)));
    let id = pilot.client().mail("me@client.test", &["user@p0000.test"], &sent);
    pilot.await_log(&["delivered", &id]);
    pilot.kill();
    let total = [0, 1].map(|way| cutter.counted[way].load(Ordering::Relaxed));
    let cuts: Vec<_> = [Side::Relay, Side::Remote]
        .into_iter()
        .zip(total)
        .flat_map(|(side, total)| (0..=total).map(move |bytes| (side, bytes)))
        .collect();
    assert!(cuts.len() > 300, "{total:?}");
    let config = Config::new().set("delivery.connections_max", 1);
    let config = cuts.iter().fold(config, |config, (side, bytes)| {
        config.route(&name(*side, *bytes), cutter.route(*side, *bytes))
    });
    let relay = lab.start(&config);
    let mut client = relay.client();
    for (side, bytes) in &cuts {
        client.mail("me@client.test", &[&format!("user@{}", name(*side, *bytes))], &sent);
    }
    relay.drain();
    let taken = sink.taken();
    for (side, bytes) in cuts {
        let to = format!("user@{}", name(side, bytes));
        let copies: Vec<_> = taken.iter().filter(|taken| taken.mailboxes() == [to.as_str()]).collect();
        // What was cut on its way to the remote cannot have been taken there.
        let most = if side == Side::Relay && bytes < total[0] { 1 } else { 2 };
        assert!((1..=most).contains(&copies.len()), "{to}: {} copies", copies.len());
        assert!(copies.iter().all(|copy| copy.original() == sent), "{to} was changed");
    }
    assert!(!taken.iter().any(|taken| taken.sender.is_empty()), "something bounced");
    relay.stop();
}

#[test]
fn a_connection_that_breaks_at_any_byte_of_a_dialogue_with_data_loses_nothing() {
    if host_is_able() {
        play(&["PIPELINING", "8BITMIME"]);
    }
}

#[test]
fn a_connection_that_breaks_at_any_byte_of_a_dialogue_with_bdat_loses_nothing() {
    if host_is_able() {
        play(&["PIPELINING", "CHUNKING", "8BITMIME"]);
    }
}

#[test]
fn a_connection_that_breaks_at_any_byte_of_a_dialogue_in_single_steps_loses_nothing() {
    if host_is_able() {
        play(&["8BITMIME"]);
    }
}
