//! A DNS server of a few lines for tests: answers from a table over UDP on loopback, from hand-made packets.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What the stub says to a question.
#[derive(Clone, Debug)]
pub enum Say {
    /// Records; each with the name it belongs to, so that aliases can lead elsewhere.
    Records(Vec<Record>),
    /// The same with a TTL of 0.
    Brief(Vec<Record>),
    /// No records and this response code.
    Code(u8),
    /// Nothing.
    Silence,
}

/// A record of an answer.
#[derive(Clone, Debug)]
pub enum Record {
    /// MX of the asked name.
    Mx(u16, &'static str),
    /// Address of the given name.
    Address(&'static str, &'static str),
    /// The first name is an alias of the second.
    Alias(&'static str, &'static str),
}

type Table = Arc<Mutex<HashMap<(String, u16), Say>>>;

/// A running stub; its thread ends with the test process.
pub struct Stub {
    /// Where it listens.
    pub address: SocketAddr,
    table: Table,
    asked: Arc<AtomicUsize>,
}

pub const A: u16 = 1;
pub const AAAA: u16 = 28;
pub const MX: u16 = 15;
pub const SERVFAIL: u8 = 2;
pub const NXDOMAIN: u8 = 3;
const CNAME: u16 = 5;

impl Stub {
    /// Starts it with an empty table: every name exists and has no records.
    pub fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback UDP");
        let address = socket.local_addr().expect("bound");
        let (table, asked) = (Table::default(), Arc::new(AtomicUsize::new(0)));
        let (answers, counter) = (table.clone(), asked.clone());
        std::thread::spawn(move || {
            let mut packet = [0; 4096];
            while let Ok((bytes, client)) = socket.recv_from(&mut packet) {
                counter.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = answer(&packet[..bytes], &answers) {
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        Self { address, table, asked }
    }

    /// From now on says `say` to questions for `name` and `kind`.
    pub fn set(&self, name: &str, kind: u16, say: Say) {
        self.table.lock().expect("unpoisoned").insert((name.to_owned(), kind), say);
    }

    /// MX records for `name`.
    pub fn mx(&self, name: &str, records: &[(u16, &'static str)]) {
        self.set(
            name,
            MX,
            Say::Records(records.iter().map(|(rank, host)| Record::Mx(*rank, host)).collect()),
        );
    }

    /// An IPv4 or IPv6 address for `name`.
    pub fn address(&self, name: &'static str, address: &'static str) {
        let kind = if address.contains(':') { AAAA } else { A };
        self.set(name, kind, Say::Records(vec![Record::Address(name, address)]));
    }

    /// Questions received so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn answer(question: &[u8], table: &Table) -> Option<Vec<u8>> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(question.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let name = labels.join(".");
    let kind = u16::from_be_bytes([*question.get(at)?, *question.get(at + 1)?]);
    let say = table.lock().expect("unpoisoned").get(&(name.clone(), kind)).cloned();
    let (code, records, ttl) = match say {
        None => (0, Vec::new(), 0),
        Some(Say::Code(code)) => (code, Vec::new(), 0),
        Some(Say::Records(records)) => (0, records, 300u32),
        Some(Say::Brief(records)) => (0, records, 0),
        Some(Say::Silence) => return None,
    };
    let mut packet = question[..2].to_vec();
    packet.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    packet.extend(&question[12..at + 4]);
    for record in records {
        let (owner, kind, data) = match record {
            Record::Mx(rank, host) => (name.as_str(), MX, [&rank.to_be_bytes()[..], &wire(host)].concat()),
            Record::Alias(from, to) => (from, CNAME, wire(to)),
            Record::Address(owner, address) => match address.parse().expect("test address") {
                IpAddr::V4(ip) => (owner, A, ip.octets().to_vec()),
                IpAddr::V6(ip) => (owner, AAAA, ip.octets().to_vec()),
            },
        };
        packet.extend(wire(owner));
        packet.extend(kind.to_be_bytes());
        packet.extend([0, 1]);
        packet.extend(ttl.to_be_bytes());
        packet.extend((data.len() as u16).to_be_bytes());
        packet.extend(data);
    }
    Some(packet)
}

/// A name as length-prefixed labels; `.` is the root.
fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}
