//! What a relay's door costs: sessions in the clear and over TLS, full and resumed; memory of idle connections; and what a good
//! client notices of handshakes that arrive at a rate. Blocking threads: a session is a few round trips, and nothing is shared.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

use crate::measure::phase::{Latency, latency, record};
use crate::options::{DoorCommand, is_loopback};
use crate::{process, tls};

type Failure = Box<dyn std::error::Error>;

/// Longest wait for a reply.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between the commands of the good client.
const GOOD_PAUSE: Duration = Duration::from_millis(2);

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A session that has been greeted.
struct Session {
    stream: Stream,
    resumed: bool,
}

impl Session {
    /// Connects and says EHLO; with `tls` STARTTLS and EHLO again.
    fn open(target: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let stream = TcpStream::connect(target)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream: Stream::Plain(stream), resumed: false };
        session.expect(b"220")?;
        session.say(b"EHLO door.load.invalid\r\n", b"250")?;
        if let Some(tls) = tls {
            session.say(b"STARTTLS\r\n", b"220")?;
            session = session.shake_hands(tls)?;
            session.say(b"EHLO door.load.invalid\r\n", b"250")?;
        }
        Ok(session)
    }

    fn shake_hands(self, tls: &Arc<ClientConfig>) -> io::Result<Self> {
        let Stream::Plain(mut socket) = self.stream else { return Err(io::ErrorKind::InvalidInput.into()) };
        let name = ServerName::try_from("relay.load.invalid").map_err(io::Error::other)?;
        let mut connection = ClientConnection::new(tls.clone(), name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        Ok(Self { stream: Stream::Tls(Box::new(StreamOwned::new(connection, socket))), resumed })
    }

    fn say(&mut self, line: &[u8], code: &[u8; 3]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(line)?,
            Stream::Tls(stream) => {
                stream.write_all(line)?;
                stream.flush()?;
            }
        }
        self.expect(code)
    }

    /// Reads one reply. Nothing follows it, since nothing is pipelined.
    fn expect(&mut self, code: &[u8; 3]) -> io::Result<()> {
        let (mut reply, mut piece) = (Vec::new(), [0; 2048]);
        loop {
            let count = match &mut self.stream {
                Stream::Plain(stream) => stream.read(&mut piece)?,
                Stream::Tls(stream) => stream.read(&mut piece)?,
            };
            reply.extend_from_slice(&piece[..count]);
            let last = reply
                .strip_suffix(b"\r\n")
                .map(|text| text.rsplit(|byte| *byte == b'\n').next().unwrap_or(text));
            match last {
                Some(last) if last.starts_with(code) && last.get(3) == Some(&b' ') => return Ok(()),
                Some(last) if last.get(3) == Some(&b' ') => {
                    return Err(io::Error::other(String::from_utf8_lossy(last).into_owned()));
                }
                _ if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
        }
    }

    fn quit(mut self) -> io::Result<()> {
        self.say(b"QUIT\r\n", b"221")
    }
}

/// Sessions as fast as `threads` can: greeted, and quit.
struct Pace {
    sessions: u64,
    resumed: u64,
    elapsed: Duration,
    /// Of the relay, for each session.
    cpu: Option<Duration>,
}

fn flat_out(command: &DoorCommand, tls: Option<&Arc<ClientConfig>>) -> io::Result<Pace> {
    if tls.is_some() {
        // A ticket, for those that resume.
        Session::open(command.target, tls)?.quit()?;
    }
    let (sessions, resumed) = (AtomicU64::new(0), AtomicU64::new(0));
    let (began, before) = (Instant::now(), used(command));
    let until = began + Duration::from_secs(command.seconds);
    let one = || -> io::Result<()> {
        while Instant::now() < until {
            let session = Session::open(command.target, tls)?;
            resumed.fetch_add(u64::from(session.resumed), Ordering::Relaxed);
            session.quit()?;
            sessions.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    in_threads(command.threads, |_| one())?;
    let (sessions, elapsed) = (sessions.into_inner(), began.elapsed());
    let cpu = used(command).zip(before).map(|(after, before)| after.cpu.saturating_sub(before.cpu));
    let cpu = cpu.map(|cpu| cpu / u32::try_from(sessions.max(1)).unwrap_or(u32::MAX));
    Ok(Pace { sessions, resumed: resumed.into_inner(), elapsed, cpu })
}

fn in_threads(count: usize, work: impl Fn(usize) -> io::Result<()> + Sync) -> io::Result<()> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count).map(|nth| scope.spawn(move || work(nth))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread of the door panicked"))
    })
}

fn used(command: &DoorCommand) -> Option<process::Usage> {
    process::usage(command.pid?)
}

/// Resident bytes of the relay for each of `idle` connections that have been greeted and say nothing, in the clear and over
/// TLS. All are kept open meanwhile: what the first ones give back would serve the others.
fn idle_bytes(command: &DoorCommand, tls: &Arc<ClientConfig>) -> io::Result<Option<[u64; 2]>> {
    let Some(before) = used(command) else { return Ok(None) };
    let (mut open, mut resident) = (Vec::new(), before.resident);
    let mut each = [0; 2];
    for (tls, bytes) in [None, Some(tls)].into_iter().zip(&mut each) {
        for _ in 0..command.idle {
            open.push(Session::open(command.target, tls)?);
        }
        let after = used(command).map_or(0, |usage| usage.resident);
        *bytes = after.saturating_sub(resident) / command.idle.max(1);
        resident = after;
    }
    Ok(Some(each))
}

/// What NOOP on a kept connection takes while full handshakes begin at `rate` a second, and how many were made a second.
fn beside(command: &DoorCommand, rate: u64, tls: &Arc<ClientConfig>) -> io::Result<(Latency, f64)> {
    let mut times = latency();
    let (made, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let shake = |nth: usize| -> io::Result<()> {
        for turn in (nth as u64..).step_by(command.threads.max(1)) {
            let due = began + Duration::from_nanos(turn * 1_000_000_000 / rate.max(1));
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if over.load(Ordering::Relaxed) {
                break;
            }
            Session::open(command.target, Some(tls))?.quit()?;
            made.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let shaking = (rate > 0).then(|| scope.spawn(|| in_threads(command.threads, shake)));
        let good = ask_now_and_then(command, began, &mut times);
        over.store(true, Ordering::Relaxed);
        let shaken = shaking.map_or(Ok(()), |shaking| shaking.join().expect("a thread of the door panicked"));
        good.and(shaken)
    })?;
    Ok((times, made.into_inner() as f64 / began.elapsed().as_secs_f64()))
}

fn ask_now_and_then(command: &DoorCommand, began: Instant, times: &mut Latency) -> io::Result<()> {
    let mut good = Session::open(command.target, None)?;
    while began.elapsed() < Duration::from_secs(command.seconds) {
        let asked = Instant::now();
        good.say(b"NOOP\r\n", b"250")?;
        record(times, asked.elapsed().as_micros() as u64);
        thread::sleep(GOOD_PAUSE);
    }
    good.quit()
}

/// Measures everything, and gives it as a table.
///
/// # Errors
/// When the relay refuses a session, is not there, or is not on loopback.
pub fn door(command: &DoorCommand) -> Result<String, Failure> {
    if !is_loopback(command.target.ip()) {
        return Err(format!("{} is not loopback: other people's doors are left alone", command.target).into());
    }
    let (full, resumed) = (tls::client(false)?, tls::client(true)?);
    let mut report = String::new();
    let kinds =
        [("in the clear", None), ("TLS, full handshake", Some(&full)), ("TLS, resumed", Some(&resumed))];
    for (name, tls) in kinds {
        let pace = flat_out(command, tls)?;
        let rate = pace.sessions as f64 / pace.elapsed.as_secs_f64();
        let cpu = pace.cpu.map_or("unknown (--pid)".to_owned(), |cpu| format!("{} µs", cpu.as_micros()));
        let share = pace.resumed as f64 / pace.sessions.max(1) as f64 * 100.0;
        writeln!(
            report,
            "{name}: {rate:.0} sessions/s, CPU of the relay a session {cpu}, resumed {share:.0} %"
        )?;
    }
    if let Some(each) = idle_bytes(command, &full)? {
        for (name, bytes) in ["in the clear", "over TLS"].into_iter().zip(each) {
            writeln!(report, "{} idle connections {name}: {bytes} bytes resident each", command.idle)?;
        }
    }
    for rate in [0, command.rate] {
        let (times, made) = beside(command, rate, &full)?;
        let [half, most] = [0.5, 0.99].map(|part| times.value_at_quantile(part) as f64 / 1000.0);
        writeln!(report, "NOOP beside {made:.0} full handshakes/s: p50 {half:.2} ms, p99 {most:.2} ms")?;
    }
    Ok(report)
}
