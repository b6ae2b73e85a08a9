//! A laboratory directory and a relay running in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::metrics::Page;
use super::{SOON, client::Client, eventually, within};

/// Settings of a relay, `section.key` → TOML value; routes apart, since their keys hold dots.
#[derive(Clone, Debug)]
pub struct Config {
    settings: BTreeMap<String, String>,
    routes: BTreeMap<String, String>,
    tables: Vec<String>,
}

impl Config {
    /// A small relay on free ports: one shard, small segments, quick retries.
    pub fn new() -> Self {
        let config = Self { settings: BTreeMap::new(), routes: BTreeMap::new(), tables: Vec::new() };
        config
            .set("smtp.hostname", "'relay.test'")
            .set("smtp.listen", "['127.0.0.1:0']")
            .set("admin.listen", "'127.0.0.1:0'")
            .set("spool.segment_bytes", "'4MiB'")
            .set("spool.reserve_bytes", "'16MiB'")
            .set("threads.shards", 1)
            .set("threads.workers", 1)
            .set("threads.pin", false)
            .set("delivery.retry_first", "'1s'")
            .set("delivery.retry_factor", "1.0")
            .set("delivery.retry_jitter", "0.0")
    }

    /// Sets `section.key` to a TOML value.
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.insert(key.to_owned(), value.to_string());
        self
    }

    /// Another listener, on a free port, with more `lines` of TOML; [`Relay::listener`] finds it.
    pub fn listener(mut self, kind: &str, lines: &str) -> Self {
        self.tables.push(format!("[[listener]]\naddress = '127.0.0.1:0'\nkind = '{kind}'\n{lines}\n"));
        self
    }

    /// Another table, such as `[[site]]`, as it stands in the file.
    pub fn table(mut self, text: &str) -> Self {
        self.tables.push(format!("{text}\n"));
        self
    }

    /// Routes a pattern to a target.
    pub fn route(mut self, pattern: &str, target: impl ToString) -> Self {
        self.routes.insert(pattern.to_owned(), target.to_string());
        self
    }

    /// Routes everything to a remote.
    pub fn to(self, remote: SocketAddr) -> Self {
        self.route("*", format!("smtp://{remote}"))
    }

    /// As many shards and workers, wired as said.
    pub fn threads(self, count: u16, wiring: &str) -> Self {
        self.set("threads.shards", count)
            .set("threads.workers", count)
            .set("threads.wiring", format!("'{wiring}'"))
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut open = "";
        for (key, value) in &self.settings {
            let (section, name) = key.split_once('.').expect("section.key");
            if section != open {
                let _ = writeln!(text, "[{section}]");
                open = section;
            }
            let _ = writeln!(text, "{name} = {value}");
        }
        if !self.routes.is_empty() {
            text.push_str("[routes]\n");
        }
        for (pattern, target) in &self.routes {
            let _ = writeln!(text, "'{pattern}' = '{target}'");
        }
        text.extend(self.tables.iter().map(String::as_str));
        text
    }
}

/// A directory with a spool, a configuration file and the logs of all relays that ran in it.
pub struct Lab {
    directory: TempDir,
}

impl Lab {
    /// An empty one, on the disk that the build is on: /tmp may be memory.
    pub fn new() -> Self {
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
        Self { directory }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The spool in it.
    pub fn spool(&self) -> PathBuf {
        self.path().join("spool")
    }

    /// Writes the configuration and gives the file's path.
    pub fn write(&self, config: &Config) -> PathBuf {
        let config = config.clone().set("spool.directory", format!("'{}'", self.spool().display()));
        let path = self.path().join("ringpost.toml");
        std::fs::write(&path, config.text()).expect("the configuration can be written");
        path
    }

    /// `serve` with this configuration, not started yet.
    pub fn command(&self, config: &Config) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
        command.arg("serve").arg("--config").arg(self.write(config)).env_remove("RUST_LOG");
        command
    }

    /// Starts a relay and waits until it says that it is ready.
    pub fn start(&self, config: &Config) -> Relay {
        self.start_command(self.command(config))
    }

    /// Likewise by a command that ends up as [`Self::command`].
    pub fn start_command(&self, mut command: Command) -> Relay {
        let log = self.path().join("log");
        let file = File::options().create(true).append(true).open(&log).expect("the log can be opened");
        let began = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).spawn();
        let mut relay = Relay {
            child: child.expect("the relay can be run"),
            log,
            smtp: ([127, 0, 0, 1], 0).into(),
            admin: ([127, 0, 0, 1], 0).into(),
            queued: 0,
            start_text: String::new(),
            reaped: false,
        };
        relay.read_start_text();
        assert!(began.elapsed() < SOON, "the start took {:?}", began.elapsed());
        relay
    }

    /// Runs a command to its end, which must come within [`SOON`].
    pub fn run(&self, mut command: Command) -> Ended {
        let began = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("the command can be run");
        let status = loop {
            if let Some(status) = child.try_wait().expect("the child can be waited for") {
                break status;
            }
            if began.elapsed() > SOON {
                let _ = child.kill();
                panic!("{command:?} did not end");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let took = began.elapsed();
        let output = child.wait_with_output().expect("its output can be read");
        Ended {
            status,
            took,
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub took: Duration,
    pub out: String,
    pub err: String,
}

/// A running relay. Dropped, it is killed.
pub struct Relay {
    child: Child,
    log: PathBuf,
    smtp: SocketAddr,
    admin: SocketAddr,
    queued: u64,
    start_text: String,
    reaped: bool,
}

impl Relay {
    fn read_start_text(&mut self) {
        let out = self.child.stdout.take().expect("standard output is a pipe");
        for line in BufReader::new(out).lines() {
            let line = line.expect("the start text is UTF-8");
            self.start_text.push_str(&line);
            self.start_text.push('\n');
            if line.trim_start().starts_with("stop ") {
                break;
            }
        }
        let text = self.start_text.clone();
        assert!(text.contains("is ready."), "it did not start: {text}{}", self.log_text());
        let find = |label: &str| {
            let line = text.lines().find_map(|line| line.trim_start().strip_prefix(label));
            line.unwrap_or_else(|| panic!("no line `{label}` in {text}")).trim()
        };
        let address = |words: &str| words.parse().unwrap_or_else(|_| panic!("no address: {words}"));
        let smtp = find("SMTP ").split([',', ' ']).next().expect("an address");
        self.smtp = address(smtp);
        let admin = find("metrics ").strip_prefix("http://").and_then(|url| url.split_once('/'));
        self.admin = address(admin.expect("a URL").0);
        let queued = find("spool ").rsplit_once(", ").and_then(|(_, words)| words.split_once(' '));
        self.queued = queued.and_then(|(count, _)| count.parse().ok()).expect("messages waiting");
    }

    /// Where it takes mail.
    pub fn smtp(&self) -> SocketAddr {
        self.smtp
    }

    /// Where its listeners of a kind are; `SMTP` are the relays.
    pub fn listeners(&self, kind: &str) -> Vec<SocketAddr> {
        let label = format!("{kind} ");
        let line = self.start_text.lines().find_map(|line| line.trim_start().strip_prefix(label.as_str()));
        let line = line.unwrap_or_else(|| panic!("no {kind} in {}", self.start_text)).trim();
        let addresses = line.split_once(" as ").map_or(line, |(addresses, _)| addresses);
        addresses.split(", ").map(|address| address.parse().expect("an address")).collect()
    }

    /// Where its first listener of a kind is.
    pub fn listener(&self, kind: &str) -> SocketAddr {
        self.listeners(kind)[0]
    }

    /// Where its metrics are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Messages that recovery found.
    pub fn queued(&self) -> u64 {
        self.queued
    }

    /// What it said when it was ready.
    pub fn start_text(&self) -> &str {
        &self.start_text
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All log lines of the laboratory so far.
    pub fn log_text(&self) -> String {
        std::fs::read(&self.log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// Log lines that hold all of `words`.
    pub fn log_lines(&self, words: &[&str]) -> Vec<String> {
        let text = self.log_text();
        let holds = |line: &&str| words.iter().all(|word| line.contains(word));
        text.lines().filter(holds).map(str::to_owned).collect()
    }

    /// Waits for a log line with all of `words`.
    pub fn await_log(&self, words: &[&str]) -> String {
        eventually(&format!("a log line with {words:?}"), || self.log_lines(words).into_iter().next())
    }

    /// A client that has said EHLO.
    pub fn client(&self) -> Client {
        Client::connect(self.smtp)
    }

    /// Gets a page of the admin HTTP: status and body.
    pub fn http(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).expect("the admin HTTP answers");
        stream.set_read_timeout(Some(SOON)).expect("a time-out can be set");
        let request = format!("GET {path} HTTP/1.1\r\nHost: relay.test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request can be sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.expect("a status"), body.to_owned())
    }

    /// Scrapes and checks the metrics.
    pub fn metrics(&self) -> Page {
        let (status, body) = self.http("/metrics");
        assert_eq!(status, 200);
        Page::parse(&body).unwrap_or_else(|error| panic!("{error}\n{body}"))
    }

    /// Waits until a sum of samples satisfies `holds`.
    pub fn await_metric(&self, name: &str, labels: &[(&str, &str)], holds: impl Fn(f64) -> bool) {
        let mut last = f64::NAN;
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline {
            last = self.metrics().sum(name, labels);
            if holds(last) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{name}{labels:?} stays {last}\n{}", self.log_tail());
    }

    /// Waits until nothing is queued.
    pub fn drain(&self) {
        self.await_metric("ringpost_queue_messages", &[], |count| count == 0.0);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("our child can be signalled");
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        self.child.kill().expect("our child can be killed");
        self.child.wait().expect("our child can be waited for");
        self.reaped = true;
    }

    /// Waits for the end. One that takes its time is asked what it does, for the test's output.
    pub fn wait(mut self, limit: Duration) -> ExitStatus {
        let began = Instant::now();
        let mut asked = false;
        let status = within(limit, "the relay's end", || {
            if !asked && began.elapsed() > Duration::from_secs(4) {
                asked = true;
                println!("still there after 4 s: {:?}\n{}", self.threads(), self.busy_metrics());
            }
            self.child.try_wait().expect("our child")
        });
        self.reaped = true;
        status
    }

    /// Names of its threads.
    fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.map(|name| name.trim().to_owned()).collect()
    }

    /// Lines of the metrics that are not 0, but for buckets.
    fn busy_metrics(&self) -> String {
        let (_, page) = self.http("/metrics");
        let tells =
            |line: &&str| line.starts_with("ringpost_") && !line.ends_with(" 0") && !line.contains("_bucket");
        page.lines().filter(tells).collect::<Vec<_>>().join("\n")
    }

    /// SIGTERM; must end in time with code 0.
    pub fn stop(self) {
        self.signal(Signal::TERM);
        let log = self.log.clone();
        let status = self.wait(Duration::from_secs(10));
        assert!(status.success(), "{status}: {}", std::fs::read_to_string(log).unwrap_or_default());
    }

    fn log_tail(&self) -> String {
        let text = self.log_text();
        let skip = text.lines().count().saturating_sub(30);
        text.lines().skip(skip).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let is_running = matches!(self.child.try_wait(), Ok(None)) && !self.reaped;
        if std::thread::panicking() && is_running && TcpStream::connect(self.admin).is_ok() {
            eprintln!("--- the relay's metrics:\n{}", self.busy_metrics());
        }
        if !self.reaped {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the relay's last log lines:\n{}", self.log_tail());
        }
    }
}
