//! A DNS server of a few lines for tests: answers from a table over UDP and TCP on loopback, from hand-made packets, and
//! can fail and lie in all the ways that real ones do.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    /// Records, but by TCP only: what there is over UDP is cut, and says so.
    Large(Vec<Record>),
    /// Records, so much later.
    Late(Duration, Vec<Record>),
    /// Bytes that are no answer.
    Garbage,
    /// Answers that are none to this question: another id, another name. They say that the name does not exist.
    Forged,
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

/// A running stub; its threads end with the test process.
pub struct Stub {
    /// Where it listens.
    pub address: SocketAddr,
    answers: Answers,
}

#[derive(Clone, Default)]
struct Answers {
    table: Table,
    /// Said to everything, whatever the table has.
    mood: Arc<Mutex<Option<Say>>>,
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
        Self::on((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Likewise on this address.
    pub fn on(address: SocketAddr) -> Self {
        // A port that is free for UDP may be taken for TCP.
        let bound = (0..100).find_map(|_| {
            let udp = UdpSocket::bind(address).ok()?;
            let tcp = TcpListener::bind(udp.local_addr().ok()?).ok()?;
            Some((udp, tcp))
        });
        let (udp, tcp) = bound.expect("a port on loopback");
        let address = udp.local_addr().expect("bound");
        let answers = Answers::default();
        let stub = Self { address, answers: answers.clone() };
        let of_streams = answers.clone();
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let answers = of_streams.clone();
                std::thread::spawn(move || answers.serve_stream(stream));
            }
        });
        std::thread::spawn(move || {
            let mut packet = [0; 4096];
            while let Ok((bytes, client)) = udp.recv_from(&mut packet) {
                let (question, answers) = (packet[..bytes].to_vec(), answers.clone());
                let udp = udp.try_clone().expect("a socket can be cloned");
                let answer = move || {
                    for answer in answers.to(&question, false).into_iter().flatten() {
                        let _ = udp.send_to(&answer, client);
                    }
                };
                // Late answers must not hold up the others.
                std::thread::spawn(answer);
            }
        });
        stub
    }

    /// From now on says `say` to every question; `None` goes back to the table.
    pub fn set_mood(&self, say: Option<Say>) {
        *self.answers.mood.lock().expect("unpoisoned") = say;
    }

    /// From now on says `say` to questions for `name` and `kind`.
    pub fn set(&self, name: &str, kind: u16, say: Say) {
        self.answers.table.lock().expect("unpoisoned").insert((name.to_owned(), kind), say);
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
        self.answers.asked.load(Ordering::SeqCst)
    }
}

impl Answers {
    /// The answers to a question, one packet each.
    fn to(&self, question: &[u8], over_tcp: bool) -> Option<Vec<Vec<u8>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (name, kind, end) = asked_for(question)?;
        let mood = self.mood.lock().expect("unpoisoned").clone();
        let say = mood.or_else(|| self.table.lock().expect("unpoisoned").get(&(name.clone(), kind)).cloned());
        let answer = |flags: [u8; 2], ttl, records: &[Record]| {
            let mut packet = question[..2].to_vec();
            packet.extend(flags);
            packet.extend([0, 1]);
            packet.extend((records.len() as u16).to_be_bytes());
            packet.extend([0; 4]);
            packet.extend(&question[12..end]);
            records.iter().for_each(|record| write(&mut packet, &name, record, ttl));
            packet
        };
        let good = |ttl, records: &[Record]| answer([0x81, 0x80], ttl, records);
        Some(vec![match say {
            None => good(0, &[]),
            Some(Say::Code(code)) => answer([0x81, 0x80 | code], 0, &[]),
            Some(Say::Records(records)) => good(300, &records),
            Some(Say::Brief(records)) => good(0, &records),
            Some(Say::Silence) => return None,
            Some(Say::Large(records)) if over_tcp => good(300, &records),
            Some(Say::Large(_)) => answer([0x83, 0x80], 0, &[]),
            Some(Say::Late(wait, records)) => {
                std::thread::sleep(wait);
                good(300, &records)
            }
            Some(Say::Garbage) => question.iter().rev().copied().collect(),
            Some(Say::Forged) => {
                let mut other_id = answer([0x81, 0x80 | NXDOMAIN], 300, &[]);
                let mut other_name = other_id.clone();
                other_id[0] ^= 0x55;
                other_name[13] = b'~';
                return Some(vec![other_id, other_name]);
            }
        }])
    }

    /// Questions and answers with their length before them, until the client closes.
    fn serve_stream(&self, mut stream: TcpStream) {
        let mut length = [0; 2];
        while stream.read_exact(&mut length).is_ok() {
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut question).is_err() {
                return;
            }
            for answer in self.to(&question, true).into_iter().flatten() {
                let _ = stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat());
            }
        }
    }
}

/// Name and type that a question asks for, and where it ends.
fn asked_for(question: &[u8]) -> Option<(String, u16, usize)> {
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
    let kind = u16::from_be_bytes([*question.get(at)?, *question.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}

/// Appends a record, for `asked` if it names no other owner.
fn write(packet: &mut Vec<u8>, asked: &str, record: &Record, ttl: u32) {
    let (owner, kind, data) = match *record {
        Record::Mx(rank, host) => (asked, MX, [&rank.to_be_bytes()[..], &wire(host)].concat()),
        Record::Alias(from, to) => (from, CNAME, wire(to)),
        Record::Address(owner, address) => match address.parse().expect("test address") {
            IpAddr::V4(ip) => (owner, A, ip.octets().to_vec()),
            IpAddr::V6(ip) => (owner, AAAA, ip.octets().to_vec()),
        },
    };
    // The asked name is written as a pointer to the question, as servers do.
    packet.extend(if owner == asked { vec![0xc0, 12] } else { wire(owner) });
    packet.extend(kind.to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(ttl.to_be_bytes());
    packet.extend((data.len() as u16).to_be_bytes());
    packet.extend(data);
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
