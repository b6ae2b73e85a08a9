//! One run: the real relay with one layout, under load of `ringpost-load`, on a spool of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringpost_load::report::Report;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::space::Point;

/// How long the relay may take to listen: it prepares segments first.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to stop; it promises 10 s.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// How long after its time the generator may still wait for the last messages.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where the programs are, and what is asked of the load.
#[derive(Clone, Debug)]
pub struct Bench {
    /// `ringpost`.
    pub relay: PathBuf,
    /// `ringpost-load`.
    pub load: PathBuf,
    /// For spools and reports, on the disk that the relay will use.
    pub directory: PathBuf,
    /// Seconds of load that are timed.
    pub seconds: u64,
    /// Seconds before.
    pub warmup: u64,
}

/// What one run has shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Where.
    pub point: Point,
    /// Bytes of a message.
    pub size: u64,
    /// What it was for.
    pub purpose: Purpose,
    /// Accepted and made durable per second.
    pub messages_per_second: f64,
    /// End of data to 250: 99 % are at most this, microseconds.
    pub p99_micros: f64,
    /// End of data to 250: half are at most this, microseconds.
    pub p50_micros: f64,
    /// The relay's CPU for each message, microseconds.
    pub cpu_micros: f64,
    /// The generator's, likewise.
    pub generator_micros: f64,
    /// The relay's CPU by the name of its threads, without numbers: `ring`, `shard`, `worker`, `log`…, for each message.
    pub threads: BTreeMap<String, f64>,
    /// Share of all CPUs that was used by anybody.
    pub machine_busy: f64,
    /// The generator says that it was the limit.
    pub generator_was_the_limit: bool,
}

/// Why a run was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To find the best point.
    Search,
    /// To tell what a message costs by role and by byte: for the model only.
    Costs,
}

/// Why there is no result.
#[derive(Debug)]
pub enum Failure {
    /// The user wants to end.
    Stopped,
    /// What went wrong, and where more is said.
    Failed(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Makes one run. The spool is gone afterwards, the relay's log and the report stay for those who want to know more.
pub fn run(
    bench: &Bench,
    point: Point,
    size: u64,
    purpose: Purpose,
    stop: &AtomicBool,
) -> Result<Run, Failure> {
    let spool = bench.directory.join("spool");
    remove(&spool)?;
    let result = under_load(bench, &spool, point, size, purpose, stop);
    remove(&spool)?;
    result
}

fn under_load(
    bench: &Bench,
    spool: &Path,
    point: Point,
    size: u64,
    purpose: Purpose,
    stop: &AtomicBool,
) -> Result<Run, Failure> {
    let [smtp, sink, admin] = free_ports()?;
    let config = bench.directory.join("relay.toml");
    fs::write(&config, configuration(&point, spool, smtp, sink, admin))?;
    let log = fs::File::create(bench.directory.join("relay.log"))?;
    let mut command = Command::new(&bench.relay);
    command.arg("serve").arg("--config").arg(&config).env_remove("RUST_LOG");
    let mut relay = Running::start(command, log)?;
    relay.wait_for(admin, stop, &bench.directory.join("relay.log"))?;
    let before = threads(relay.id());
    let report = load(bench, &point, size, smtp, sink, relay.id(), stop)?;
    let used = since(&before, &threads(relay.id()));
    relay.stop()?;
    result(&report, point, size, purpose, used).map_err(Failure::Failed)
}

fn remove(spool: &Path) -> io::Result<()> {
    match fs::remove_dir_all(spool) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Ports that nobody has at this moment.
fn free_ports() -> io::Result<[SocketAddr; 3]> {
    let bind = || TcpListener::bind("127.0.0.1:0");
    let held = [bind()?, bind()?, bind()?];
    Ok([held[0].local_addr()?, held[1].local_addr()?, held[2].local_addr()?])
}

/// The defaults but for what is tried, and for what keeps runs apart.
fn configuration(
    point: &Point,
    spool: &Path,
    smtp: SocketAddr,
    sink: SocketAddr,
    admin: SocketAddr,
) -> String {
    let Point { wiring, shards, workers, pin, .. } = point;
    let spool = toml::Value::String(spool.display().to_string());
    format!(
        "[smtp]\nhostname = 'relay.invalid'\nlisten = ['{smtp}']\n[spool]\ndirectory = {spool}\n[admin]\nlisten = '{admin}'\n\
         [routes]\n'*' = 'smtp://{sink}'\n[log]\nlevel = 'warn'\n\
         [threads]\nwiring = '{}'\nshards = {shards}\nworkers = {workers}\npin = {pin}\n",
        wiring.name()
    )
}

fn load(
    bench: &Bench,
    point: &Point,
    size: u64,
    smtp: SocketAddr,
    sink: SocketAddr,
    relay: u32,
    stop: &AtomicBool,
) -> Result<Report, Failure> {
    let json = bench.directory.join("load.json");
    let said = bench.directory.join("load.log");
    let mut command = Command::new(&bench.load);
    command.arg("run").args(["--target", &smtp.to_string(), "--sink", &sink.to_string()]);
    command.args(["--connections", &point.connections.to_string(), "--size", &size.to_string()]);
    command.args(["--duration", &(bench.seconds + bench.warmup).to_string()]);
    command
        .args(["--warmup", &bench.warmup.to_string(), "--pid", &relay.to_string()])
        .arg("--json")
        .arg(&json);
    let mut running = Running::start(command, fs::File::create(&said)?)?;
    let limit = Duration::from_secs(bench.seconds + bench.warmup) + DRAIN_LIMIT;
    let status = running.end(limit, stop)?;
    // 1: a message was lost or a bound missed, which the report says.
    if !matches!(status.code(), Some(0 | 1)) {
        return Err(Failure::Failed(format!("ringpost-load ended with {status}: {}", last_words(&said))));
    }
    let text = fs::read_to_string(&json)?;
    serde_json::from_str(&text).map_err(|error| Failure::Failed(format!("{}: {error}", json.display())))
}

fn result(
    report: &Report,
    point: Point,
    size: u64,
    purpose: Purpose,
    used: BTreeMap<String, Duration>,
) -> Result<Run, String> {
    let (Some(source), Some(ledger), Some(relay)) = (&report.source, &report.ledger, &report.relay) else {
        return Err("the report of ringpost-load lacks the source, the ledger or the relay".into());
    };
    if ledger.lost + ledger.corrupted > 0 {
        return Err(format!(
            "{} messages were lost and {} corrupted: that is a bug, not a layout",
            ledger.lost, ledger.corrupted
        ));
    }
    if source.accepted == 0 {
        return Err(format!("no message was accepted; {}", source.connect_error.clone().unwrap_or_default()));
    }
    let each = |seconds: f64| seconds * 1e6 / source.accepted as f64;
    let generator = &report.generator;
    Ok(Run {
        point,
        size,
        purpose,
        messages_per_second: source.accepted_per_second,
        p99_micros: source.end_of_data.p99 as f64,
        p50_micros: source.end_of_data.p50 as f64,
        cpu_micros: relay.cpu_micros_per_message,
        generator_micros: each(generator.source_cpu_seconds + generator.sink_cpu_seconds),
        threads: used.into_iter().map(|(name, time)| (name, each(time.as_secs_f64()))).collect(),
        machine_busy: generator.machine_busy.unwrap_or(0.0),
        generator_was_the_limit: generator.was_the_limit,
    })
}

/// A program that ends with this value.
struct Running(Child);

impl Running {
    fn start(mut command: Command, output: fs::File) -> Result<Self, Failure> {
        command.stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output);
        let program = command.get_program().to_string_lossy().into_owned();
        let child =
            command.spawn().map_err(|error| Failure::Failed(format!("cannot run {program}: {error}")))?;
        Ok(Self(child))
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it listens.
    fn wait_for(&mut self, address: SocketAddr, stop: &AtomicBool, log: &Path) -> Result<(), Failure> {
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() || !is_ready(address) {
            if stop.load(Ordering::Relaxed) {
                return Err(Failure::Stopped);
            }
            if let Some(status) = self.0.try_wait()? {
                return Err(Failure::Failed(format!("the relay ended with {status}: {}", last_words(log))));
            }
            if begin.elapsed() > START_LIMIT {
                return Err(Failure::Failed(format!(
                    "the relay was not ready in {START_LIMIT:?}: {}",
                    last_words(log)
                )));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Waits until it has ended by itself.
    fn end(&mut self, limit: Duration, stop: &AtomicBool) -> Result<ExitStatus, Failure> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if stop.load(Ordering::Relaxed) {
                return Err(Failure::Stopped);
            }
            if begin.elapsed() > limit {
                return Err(Failure::Failed(format!("not done after {limit:?}")));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Asks it to end.
    fn stop(&mut self) -> Result<(), Failure> {
        if let Some(pid) = Pid::from_raw(self.0.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        self.end(STOP_LIMIT, &AtomicBool::new(false)).map(drop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `/readyz` says 200.
fn is_ready(address: SocketAddr) -> bool {
    use std::io::{Read, Write};
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(answer.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

/// Its error if there is one that is marked so, else its last line.
fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let error = text.lines().find(|line| line.starts_with("error"));
    error.or(text.trim().lines().last()).unwrap_or("it said nothing").to_owned()
}

/// CPU time of each thread of a process, by name without the number behind it.
fn threads(process: u32) -> BTreeMap<String, Duration> {
    let mut found = BTreeMap::new();
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    for task in tasks {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let nanos = read("schedstat").split_whitespace().next().and_then(|word| word.parse().ok());
        let name = read("comm").trim().trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
        *found.entry(name).or_default() += Duration::from_nanos(nanos.unwrap_or(0));
    }
    found
}

/// What was used between two looks. A thread that has ended since is not seen.
fn since(
    before: &BTreeMap<String, Duration>,
    after: &BTreeMap<String, Duration>,
) -> BTreeMap<String, Duration> {
    let of = |(name, time): (&String, &Duration)| {
        (name.clone(), time.saturating_sub(before.get(name).copied().unwrap_or_default()))
    };
    after.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::space::Wiring;

    const POINT: Point = Point { wiring: Wiring::Split, shards: 3, workers: 2, pin: false, connections: 8 };

    #[test]
    fn the_configuration_of_a_run_is_one_that_the_relay_takes() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let spool = Path::new("/tmp/a \"quoted\" spool");
        let text = configuration(&POINT, spool, address(1), address(2), address(3));
        let config = ringpost::config::Config::parse(&text).expect("valid");
        assert_eq!((config.threads.shards, config.threads.workers, config.threads.pin), (3, 2, false));
        assert_eq!(config.threads.wiring, ringpost::config::Wiring::Split);
        assert_eq!(config.spool.directory, spool);
        assert_eq!(config.routing.table.target("x.invalid").to_string(), "smtp://127.0.0.1:2");
    }

    #[test]
    fn a_relay_that_does_not_start_is_told_with_its_last_words() {
        let directory = tempfile::tempdir().expect("a directory");
        let bench = Bench {
            relay: "/bin/false".into(),
            load: "/bin/false".into(),
            directory: directory.path().into(),
            seconds: 1,
            warmup: 0,
        };
        match run(&bench, POINT, 4096, Purpose::Search, &AtomicBool::new(false)) {
            Err(Failure::Failed(text)) => assert!(text.contains("exit status: 1"), "{text}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn threads_of_a_process_are_found_by_name() {
        let name = |text: &str| text.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
        assert_eq!([name("ring-12"), name("worker-0"), name("log")], ["ring", "worker", "log"]);
        assert!(!threads(std::process::id()).is_empty());
    }

    #[test]
    fn a_run_in_which_mail_was_lost_is_no_result() {
        let mut report = Report::default();
        assert!(result(&report, POINT, 1, Purpose::Search, BTreeMap::new()).is_err());
        report.source = Some(ringpost_load::report::SourceReport { accepted: 10, ..Default::default() });
        report.relay = Some(Default::default());
        report.ledger = Some(ringpost_load::ledger::Verdict { lost: 1, ..Default::default() });
        let error = result(&report, POINT, 1, Purpose::Search, BTreeMap::new()).expect_err("lost");
        assert!(error.contains("1 messages were lost"), "{error}");
    }
}
