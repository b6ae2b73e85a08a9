//! A spool of format version 1 that is kept for ever: `tests/fixtures/spool-v1.tar.gz`, and beside it what is in it. Every version
//! must read it as it is.
//!
//! Two parts. Part 0 went round its ring: a message with deferred, owed and settled recipients and one with chunks were
//! moved; there are sealed segments with footers, delivered, bounced and aborted messages, notifications, chunks that were not
//! moved, and an open tail. Part 1 has a message with more recipients in a domain than a leg holds.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use ringpost::clock::WallTime;
use ringpost::envelope::{EnvelopeBuilder, Notify, Parameters, Return};
use ringpost::id::{Location, MessageId};
use ringpost::message::Message;
use ringpost::net;
use ringpost::net::executor;
use ringpost::outcome::{Bounced, Enhanced, LegResult, LegState, Outcome, Reply, Verdict};
use ringpost::queue::{Change, Queue, QueueOptions};
use ringpost::spool::layout::part_dir;
use ringpost::spool::storage::disk::Disk;
use ringpost::spool::{DiskLog, Fence, Layout, Liveness, Log, LogOptions, Note, Recovered};
use serde_json::Value;

use crate::format::read_by_python;
use crate::harness::relay::{Config, Lab};
use crate::harness::{has_program, host_is_able};
use crate::stopped::{err, out, rows, spool};

/// 2026-01-01T00:00:00Z, and when what was accepted then expires: in 2100.
const ACCEPTED: WallTime = WallTime(1_767_225_600_000);
const EXPIRES: WallTime = WallTime(4_102_444_800_000);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn tar(arguments: &[&str], directory: &Path) {
    let status = Command::new("tar").args(arguments).arg("-C").arg(directory).arg("spool").status();
    assert!(status.expect("tar runs").success(), "tar {arguments:?}");
}

/// The rows of `list`, each with the bytes and the CRC32C of the body that `export` gives.
fn contents(directory: &Path) -> Vec<Value> {
    let with_body = |mut row: Value| {
        let body = spool(&["export", row["id"].as_str().expect("an id")], directory).stdout;
        assert_eq!(row["size"], body.len());
        row["crc32c"] = crc32c::crc32c(&body).into();
        row
    };
    rows(directory, &[]).into_iter().map(with_body).collect()
}

fn kept() -> Vec<Value> {
    let text = fs::read_to_string(fixture("spool-v1.jsonl")).expect("what is in it");
    text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

#[test]
fn a_spool_of_version_1_opens_for_ever() {
    let (lab, kept) = (Lab::new(), kept());
    tar(&["-xzf", fixture("spool-v1.tar.gz").to_str().expect("UTF-8")], lab.path());
    assert_eq!(contents(&lab.spool()), kept);
    let verified = spool(&["verify"], &lab.spool());
    assert_eq!(verified.status.code(), Some(0), "{}{}", out(&verified), err(&verified));
    if has_program("python3") {
        let read = read_by_python(&lab);
        let ids = read.iter().filter_map(|message| message["id"].as_u64()).map(MessageId::from_u64);
        let ids: Vec<_> = ids.map(|id| id.to_string()).collect();
        assert_eq!(ids, kept.iter().map(|row| row["id"].as_str().expect("an id")).collect::<Vec<_>>());
    }
    if !host_is_able() {
        return;
    }
    let relay = lab.start(&Config::new().route("*", "hold"));
    assert_eq!(relay.queued(), kept.len() as u64);
    // New mail goes in behind the old, and gets an id that none of the old ones has.
    let id =
        relay.client().mail("a@client.test", &["x@a.test"], &crate::harness::client::content("new", "x"));
    relay.stop();
    assert!(kept.iter().all(|row| row["id"] != *id));
    let now = contents(&lab.spool());
    assert!(now.iter().any(|row| row["id"] == *id));
    for old in &kept {
        let here = now.iter().find(|row| row["id"] == old["id"]).unwrap_or_else(|| panic!("{old} is gone"));
        // Where it lies may change, and a bounce that was owed may have been queued.
        for field in ["sender", "accepted_at", "expires_at", "crc32c"] {
            assert_eq!(here[field], old[field], "{here}");
        }
    }
}

/// What the maker of the fixture works with: a log of small segments and a queue that answers for it.
struct Maker {
    log: DiskLog,
    queue: Rc<RefCell<Queue>>,
}

struct Answers(Rc<RefCell<Queue>>);

impl Liveness for Answers {
    fn state(&self, id: MessageId) -> Option<(Location, Vec<LegState>)> {
        self.0.borrow().state(id)
    }

    fn moved(&self, id: MessageId, _: Location, to: Location) {
        self.0.borrow_mut().relocate(id, to);
    }

    fn damaged(&self, id: MessageId, _: Location) {
        panic!("{id} is damaged");
    }
}

impl Maker {
    async fn open(layout: &mut Layout) -> Self {
        let part = layout.create_part().expect("a part");
        let disk = Disk::open(layout.root()).await.expect("a disk");
        let options = LogOptions { segment_bytes: 64 * 1024, reserve_bytes: 0, ..LogOptions::default() };
        // The same bytes each time: salts are no secret.
        let mut salts = (1u64 + u64::from(part.0) * 1000..).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut salt = move || salts.next().expect("endless");
        let (dir, fence, mut apply) = (part_dir(part), Fence::default(), |_: Recovered<'_>| None);
        let opened = Log::open(disk, part, &dir, options, fence, &mut salt, &mut apply);
        let (log, _) = opened.await.expect("an empty part");
        let queue = Rc::new(RefCell::new(Queue::new(QueueOptions::default(), 1)));
        net::spawn(log.clone().run_committer());
        net::spawn(log.clone().run_clock());
        net::spawn(log.clone().run_upkeep(Answers(queue.clone()), salt));
        Self { log, queue }
    }

    fn message(&self, id: MessageId, build: impl FnOnce(&mut EnvelopeBuilder), bytes: usize) -> Message {
        let mut builder = EnvelopeBuilder::default();
        build(&mut builder);
        let line = format!("{id} of a spool of version 1\r\n");
        let body = line.into_bytes().into_iter().cycle().take(bytes).collect();
        Message { id, envelope: builder.encode(ACCEPTED, EXPIRES), body }
    }

    fn accepted(&self, message: &Message, location: Location) {
        let change = Change::Accepted {
            id: message.id,
            envelope: &message.envelope,
            location,
            body_bytes: location.bytes,
            states: &[],
        };
        self.queue.borrow_mut().apply(change, net::now());
    }

    /// Accepts a message with chunks of 9,000 bytes before its own `bytes`.
    async fn accept(&self, build: impl FnOnce(&mut EnvelopeBuilder), chunks: u8, bytes: usize) -> MessageId {
        let id = self.log.next_id();
        for nth in 0..chunks {
            self.log.append_chunk(id, &[b'a' + nth; 9000]).await.expect("room");
        }
        let message = self.message(id, build, bytes);
        let (_, location) = self.log.accept(&message).await.expect("room");
        self.accepted(&message, location);
        id
    }

    async fn outcome(&self, id: MessageId, leg: u16, attempts: u16, results: &[(u64, Verdict, u16, &str)]) {
        let result = |&(recipients, verdict, code, text): &(u64, Verdict, u16, &str)| {
            let enhanced = Enhanced((code / 100) as u8, 1, 1);
            LegResult { recipients, verdict, reply: Reply::new(code, enhanced, text) }
        };
        let due = WallTime(ACCEPTED.0 + 3_600_000 * u64::from(attempts));
        let results = results.iter().map(result).collect();
        let outcome = Outcome { id, leg, attempts, at: WallTime(ACCEPTED.0 + 1000), due, results };
        let _ticket = self.log.append(Note::Outcome(&outcome)).await.expect("room");
        let applied = self.queue.borrow_mut().apply(Change::Outcome(&outcome), net::now());
        if let Some(location) = applied.settled {
            self.log.settled(id, location);
        }
    }

    /// A message that bounces, and one whose client goes away before its 250.
    async fn settle_some(&self) {
        let bounced = self.accept(|e| to(e, "sender@a.test", &["nobody@one.test"]), 0, 100).await;
        self.outcome(bounced, 0, 1, &[(1, Verdict::Failed, 550, "nobody of that name")]).await;
        self.notify(bounced).await;
        let aborted =
            self.message(self.log.next_id(), |e| to(e, "sender@a.test", &["aborted@one.test"]), 100);
        let accepting = futures_lite::future::poll_once(self.log.accept(&aborted)).await;
        assert!(accepting.is_none(), "it is not durable yet");
    }

    /// The sender of a message whose one recipient is owed a bounce is told.
    async fn notify(&self, id: MessageId) {
        let notification = self.message(self.log.next_id(), |e| to(e, "", &["sender@a.test"]), 300);
        let bounced =
            Bounced { id, legs: vec![(0, 1)], delayed: Vec::new(), notification: Some(notification.id) };
        let (_, location) = self
            .log
            .append_notification(&bounced, &notification)
            .await
            .expect("room")
            .durable()
            .await
            .expect("a disk");
        self.accepted(&notification, location);
        let applied = self.queue.borrow_mut().apply(Change::Bounced(&bounced), net::now());
        self.log.settled(id, applied.settled.expect("its only recipient"));
    }
}

fn to(envelope: &mut EnvelopeBuilder, sender: &str, recipients: &[&str]) {
    envelope.begin(sender, Parameters::default(), "");
    for recipient in recipients {
        envelope.push_recipient(recipient, Notify::DEFAULT, "").expect("room");
    }
}

async fn make(directory: PathBuf) {
    use Verdict::{Deferred, Delivered, Failed};
    let mut layout = Layout::open(&directory).expect("an empty directory");
    let part = Maker::open(&mut layout).await;
    let mixed = |e: &mut EnvelopeBuilder| {
        let parameters = Parameters { eight_bit: true, ret: Return::Headers, ..Parameters::default() };
        e.begin("sender@a.test", parameters, "envelope-1");
        e.set_tenant("tenant");
        let late = Notify(Notify::FAILURE | Notify::DELAY);
        for name in ["delivered@one.test", "deferred@one.test", "failed@one.test", "open@two.test"] {
            e.push_recipient(name, late, "rfc822;original@b.test").expect("room");
        }
    };
    let mixed = part.accept(mixed, 0, 700).await;
    let results =
        [(1, Delivered, 250, "taken"), (2, Deferred, 450, "busy"), (4, Failed, 550, "nobody of that name")];
    part.outcome(mixed, 0, 1, &results).await;
    part.accept(|e| to(e, "sender@a.test", &["long@one.test"]), 3, 5000).await;
    part.settle_some().await;
    // Round the ring, until what is above was moved.
    let mut rounds = 0;
    while part.log.stats().moved_bytes < 30_000 {
        let id = part.accept(|e| to(e, "sender@a.test", &["quick@one.test"]), 0, 8000).await;
        part.outcome(id, 0, 1, &[(1, Delivered, 250, "taken")]).await;
        rounds += 1;
        assert!(rounds < 10_000, "nothing is moved");
    }
    part.outcome(mixed, 0, 2, &[(2, Deferred, 451, "still busy")]).await;
    part.settle_some().await;
    part.accept(|e| to(e, "sender@a.test", &["last@one.test"]), 2, 100).await;
    part.log.close().await;

    let part = Maker::open(&mut layout).await;
    let many: Vec<_> = (0..70).map(|nth| format!("r{nth}@many.test")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let id = part.accept(|e| to(e, "sender@a.test", &many), 0, 400).await;
    part.outcome(id, 64, 1, &[(0b00_1111, Delivered, 250, "taken"), (0b11_0000, Deferred, 421, "later")])
        .await;
    part.log.close().await;
}

#[test]
#[ignore = "makes the fixture anew: only for a change that version 1 has had from the start"]
fn make_the_fixture() {
    let lab = Lab::new();
    assert!(host_is_able());
    fs::DirBuilder::new().mode(0o700).create(lab.spool()).expect("a directory");
    let root = lab.spool();
    executor::start("maker", None, move || make(root)).expect("an executor").join().expect("no panic");
    let rows = contents(&lab.spool());
    assert_eq!(rows.len(), 6, "mixed, long, two notifications, last, many: {rows:?}");
    let (moved, lies_at) = (["0000000000001", "0000000000002"], |row: &Value| row["segment"].as_u64());
    assert!(
        rows.iter().filter(|row| moved.iter().any(|id| row["id"] == **id)).all(|row| lies_at(row) > Some(4))
    );
    fs::remove_file(lab.spool().join("lock")).expect("there is one");
    let archive = fixture("spool-v1.tar.gz");
    let plain = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"];
    tar(&[&plain[..], &["-czf", archive.to_str().expect("UTF-8")]].concat(), lab.path());
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(fixture("spool-v1.jsonl"), text).expect("room");
}
