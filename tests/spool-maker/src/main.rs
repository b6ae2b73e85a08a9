//! Fills a spool directory with queued mail, by the relay's own log and without sending any: `spool-maker DIR --messages N`.
//! For tests of scale; the relay that is started on it cannot tell it from one that it filled itself.

mod mail;

use std::cell::{Cell, RefCell};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use clap::Parser;
use ringpost::clock::Now;
use ringpost::id::{Location, MessageId, PartId};
use ringpost::limits::{BODY_INLINE_BYTES_MAX, LEG_RECIPIENTS_MAX};
use ringpost::message::Message;
use ringpost::net::{self, executor};
use ringpost::outcome::{Enhanced, LegResult, LegState, Outcome, Reply, Verdict};
use ringpost::spool::storage::disk::Disk;
use ringpost::spool::{DiskLog, Fence, Layout, Liveness, LogOptions, LogStats, Note, layout};

use mail::{Mail, Shape};

/// Bytes of mail that are appended at the same time, per part: two batches, one being written while the other fills.
const BYTES_AT_ONCE: usize = 2 << 20;
/// Messages that are, at most: beyond it a batch is full of the smallest.
const MESSAGES_AT_ONCE: usize = 4096;
/// Bytes that a message takes besides its body, roughly.
const BYTES_AROUND: usize = 160;

/// Fill a spool directory with queued mail, without sending any.
#[derive(Clone, Debug, Parser)]
#[command(name = "spool-maker", max_term_width = 100)]
struct Options {
    /// Where; the directory is made, or must be empty
    directory: PathBuf,
    /// Messages in all parts together
    #[arg(long, default_value_t = 1000)]
    messages: u64,
    /// Bytes of each body
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(64..=1 << 30))]
    size: u32,
    /// Recipients of each message, each in a domain of its own: so many legs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=LEG_RECIPIENTS_MAX as i64))]
    legs: u16,
    /// Domains in all
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    domains: u64,
    /// Of 100 messages so many had a first attempt, and wait for the next one
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=100))]
    deferred: u64,
    /// Parts: the shards of the relay that is to be started on it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    parts: u16,
    /// Bytes of a segment; `spool.segment_bytes` of the relay
    #[arg(long, default_value_t = 64 << 20)]
    segment_bytes: u32,
    /// Tells one run's mail from another's
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match make(&options) {
        Ok(made) => {
            let sum = |of: fn(&LogStats) -> u64| made.iter().map(of).sum::<u64>();
            println!(
                "{} messages, {} legs in {}: {} MiB live in {} MiB of segments",
                options.messages,
                options.messages * u64::from(options.legs),
                options.directory.display(),
                sum(|stats| stats.live_bytes) >> 20,
                sum(|stats| stats.disk_bytes) >> 20,
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("spool-maker: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Fills the parts side by side, each on an executor of its own.
fn make(options: &Options) -> Result<Vec<LogStats>, String> {
    let root = &options.directory;
    let at_root = |error: std::io::Error| format!("{}: {error}", root.display());
    executor::check_host(options.parts.into()).map_err(|error| error.to_string())?;
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(root).map_err(at_root)?;
    let mut spool = Layout::open(root).map_err(|error| error.to_string())?;
    if !spool.parts().map_err(at_root)?.is_empty() {
        return Err(format!("{} is a spool already: name a new directory", root.display()));
    }
    let (done, results) = mpsc::channel();
    for nth in 0..u64::from(options.parts) {
        let part = spool.create_part().map_err(at_root)?;
        let (options, done) = (options.clone(), done.clone());
        let fill = move || async move {
            let _ = done.send(fill(part, nth, options).await);
        };
        executor::start(&format!("part-{nth}"), None, fill).map_err(|error| error.to_string())?;
    }
    drop(done);
    (0..options.parts)
        .map(|_| results.recv().map_err(|_| "a part's executor has ended".to_owned())?)
        .collect()
}

/// Fills one part with every message whose number is `nth` modulo the number of parts.
async fn fill(part: PartId, nth: u64, options: Options) -> Result<LogStats, String> {
    let log = open(&options.directory, part, &options, nth).await?;
    let shape = Shape {
        size: options.size as usize,
        legs: options.legs.into(),
        domains: options.domains,
        seed: options.seed,
    };
    let at_once = BYTES_AT_ONCE / (options.size as usize + BYTES_AROUND);
    let filler = Rc::new(Filler {
        log: log.clone(),
        mail: Arc::new(Mail::new(shape)),
        now: net::now(),
        next: Cell::new(nth),
        sessions: Cell::new(at_once.clamp(1, MESSAGES_AT_ONCE)),
        failure: RefCell::default(),
        options,
    });
    for _ in 0..filler.sessions.get() {
        net::spawn(filler.clone().session());
    }
    while filler.sessions.get() > 0 {
        net::sleep(Duration::from_millis(5)).await;
    }
    log.close().await;
    match filler.failure.take() {
        Some(failure) => Err(failure),
        None => Ok(log.stats()),
    }
}

async fn open(root: &Path, part: PartId, options: &Options, nth: u64) -> Result<DiskLog, String> {
    let disk = Disk::open(root).await.map_err(|error| format!("{}: {error}", root.display()))?;
    let settings = LogOptions { segment_bytes: options.segment_bytes, ..LogOptions::default() };
    let mut next = mail::mix(options.seed ^ (nth << 48));
    let mut salt = move || {
        next = mail::mix(next);
        next
    };
    let dir = layout::part_dir(part);
    let opened = DiskLog::open(disk, part, &dir, settings, Fence::default(), &mut salt, &mut |_| None).await;
    let (log, _) = opened.map_err(|error| error.to_string())?;
    net::spawn_vital(log.clone().run_committer());
    net::spawn_vital(log.clone().run_clock());
    net::spawn_vital(log.clone().run_upkeep(AllLive, salt));
    Ok(log)
}

/// Nothing dies while a spool is made, so its log never has a reason to move anything.
struct AllLive;

impl Liveness for AllLive {
    fn state(&self, id: MessageId) -> Option<(Location, Vec<LegState>)> {
        panic!("message {id} of a spool without dead bytes is to be moved")
    }

    fn moved(&self, _: MessageId, _: Location, _: Location) {}

    fn damaged(&self, id: MessageId, _: Location) {
        panic!("{id} is damaged")
    }
}

/// What the sessions of a part share.
struct Filler {
    log: DiskLog,
    mail: Arc<Mail>,
    options: Options,
    now: Now,
    /// Number of the next message.
    next: Cell<u64>,
    /// Sessions that have not ended.
    sessions: Cell<usize>,
    failure: RefCell<Option<String>>,
}

impl Filler {
    /// Accepts messages until there are enough, as a session does, but for the 250.
    async fn session(self: Rc<Self>) {
        while self.failure.borrow().is_none() && self.next.get() < self.options.messages {
            let number = self.next.replace(self.next.get() + u64::from(self.options.parts));
            if let Err(error) = self.accept(number).await {
                self.failure.borrow_mut().get_or_insert(error.to_string());
            }
        }
        self.sessions.set(self.sessions.get() - 1);
    }

    async fn accept(&self, number: u64) -> Result<(), ringpost::spool::AppendError> {
        let id = self.log.next_id();
        let mut body = self.mail.body(number);
        while body.len() > BODY_INLINE_BYTES_MAX {
            let rest = body.split_off(BODY_INLINE_BYTES_MAX);
            self.log.append_chunk(id, &std::mem::replace(&mut body, rest)).await?;
        }
        let expires = self.now.wall + Duration::from_secs(5 * 24 * 3600);
        let envelope = self.mail.envelope(number, self.now.wall, expires);
        let legs: Vec<u16> = envelope.legs().map(|leg| leg.first).collect();
        self.log.accept(&Message { id, envelope, body }).await?;
        if number % 100 < self.options.deferred {
            for leg in legs {
                let _ticket = self.log.append(Note::Outcome(&self.deferral(id, leg, number))).await?;
            }
        }
        Ok(())
    }

    /// A first attempt that was put off: due within the two hours that follow the first.
    fn deferral(&self, id: MessageId, leg: u16, number: u64) -> Outcome {
        let wait = 3600 + mail::mix(number ^ u64::from(leg)) % 7200;
        let reply = Reply::new(451, Enhanced(4, 7, 1), "try again later");
        Outcome {
            id,
            leg,
            attempts: 1,
            at: self.now.wall,
            due: self.now.wall + Duration::from_secs(wait),
            results: vec![LegResult { recipients: 1, verdict: Verdict::Deferred, reply }],
        }
    }
}
