//! The threads that write Maildirs: files other than the spool's are none of a worker's, which must never wait for a disk.
//!
//! A message is written to `tmp`, made durable, renamed to `new`, and `new` made durable; only then is it delivered. Names
//! are unique by time, process and a count, and made of nothing else; paths come from the mailboxes file, whole. Lines end in
//! LF as in every Maildir, but for a message that is octets and not lines, which stays as it is. A crash leaves a file in
//! `tmp`, which readers remove after 36 hours.
//!
//! On top stand `Return-Path` (RFC 5321 §4.4) and `Delivered-To`, the address that the mailbox was found by.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_channel::Receiver;
use rustix::io::Errno;

use crate::mailboxes::store::{self, Answer, Begin, Request, Store, Stored, Ticket};
use crate::mailboxes::{Found, Mailbox, Mailboxes};
use crate::outcome::{Enhanced, Reply, Verdict};

/// Threads: each waits for its disk, so several syncs are under way at once.
const THREADS: usize = 4;

/// The mailboxes file as it was read last. Only threads of control take the lock.
#[derive(Clone, Default)]
pub struct Current(Arc<Mutex<Arc<Mailboxes>>>);

impl Current {
    /// From now on these count; deliveries that have begun go on.
    pub fn set(&self, mailboxes: Arc<Mailboxes>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = mailboxes;
    }

    fn get(&self) -> Arc<Mailboxes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Starts the threads; they end when nobody can ask any more. `answer` is told each answer and never waits.
///
/// # Errors
/// When no thread can be made.
pub fn start(
    hostname: &str,
    mailboxes: &Current,
    answer: impl Fn(Ticket, Answer) + Clone + Send + 'static,
) -> io::Result<Store> {
    let (store, inboxes) = store::requests(THREADS);
    for (nth, inbox) in inboxes.into_iter().enumerate() {
        let (host, mailboxes, answer) = (hostname.to_owned(), mailboxes.clone(), answer.clone());
        let serve = move || serve(&inbox, &Names { host }, &mailboxes, answer);
        std::thread::Builder::new().name(format!("maildir-{nth}")).spawn(serve)?;
    }
    Ok(store)
}

fn serve(inbox: &Receiver<Request>, names: &Names, mailboxes: &Current, answer: impl Fn(Ticket, Answer)) {
    let mut deliveries: HashMap<Ticket, Delivery> = HashMap::new();
    for request in inbox {
        match request {
            Request::Abandon(ticket) => drop(deliveries.remove(&ticket)),
            Request::Piece { ticket, begin, piece, last } => {
                if let Some(begin) = begin {
                    deliveries.insert(ticket, Delivery::begin(&begin, &mailboxes.get(), names));
                }
                let Some(delivery) = deliveries.get_mut(&ticket) else {
                    // Over already; its worker has not heard of it yet.
                    continue;
                };
                delivery.write(piece.bytes());
                if !last && !delivery.is_in_vain() {
                    answer(ticket, Answer::More);
                } else if let Some(delivery) = deliveries.remove(&ticket) {
                    answer(ticket, Answer::Done(delivery.finish()));
                }
            }
        }
    }
}

/// Makes names that no other file of this host has.
struct Names {
    host: String,
}

impl Names {
    fn next(&self) -> String {
        // Only unique: no order is needed.
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let process = std::process::id();
        format!("{}.M{}P{process}Q{count}.{}", now.as_secs(), now.subsec_micros(), self.host)
    }
}

/// A message on its way into the Maildirs of its recipients.
struct Delivery {
    drafts: Vec<Result<Draft, Stored>>,
    lines: Option<Lines>,
}

impl Delivery {
    fn begin(begin: &Begin, mailboxes: &Mailboxes, names: &Names) -> Self {
        let draft = |recipient: &str| {
            let path = maildir_of(mailboxes, recipient)?;
            Draft::begin(path, names, &head(&begin.sender, recipient, begin.binary))
                .map_err(|error| trouble(path, &error))
        };
        let drafts = begin.recipients.iter().map(|recipient| draft(recipient)).collect();
        Self { drafts, lines: (!begin.binary).then(Lines::default) }
    }

    fn write(&mut self, piece: &[u8]) {
        let mut lines = Vec::new();
        let bytes = match &mut self.lines {
            None => piece,
            Some(state) => {
                state.convert(piece, &mut lines);
                &lines
            }
        };
        for place in &mut self.drafts {
            let Ok(draft) = place else { continue };
            if let Err(error) = draft.write(bytes) {
                *place = Err(trouble(&draft.maildir, &error));
            }
        }
    }

    /// Whether nobody is left to get it.
    fn is_in_vain(&self) -> bool {
        self.drafts.iter().all(Result::is_err)
    }

    fn finish(mut self) -> Vec<Stored> {
        if self.lines.take().is_some_and(|state| state.held_back) {
            self.write(b"\r");
        }
        let finish = |place: Result<Draft, Stored>| {
            place.map_or_else(
                |failed| failed,
                |draft| {
                    let path = draft.maildir.clone();
                    draft.finish().unwrap_or_else(|error| trouble(&path, &error))
                },
            )
        };
        self.drafts.into_iter().map(finish).collect()
    }
}

/// The Maildir of a recipient, by the file as it is now.
fn maildir_of<'a>(mailboxes: &'a Mailboxes, recipient: &str) -> Result<&'a Path, Stored> {
    let failed = |enhanced, text: &str| Err((Verdict::Failed, Reply::new(0, enhanced, text)));
    match mailboxes.find(recipient) {
        Found::Entry(entry) => match entry.mailbox() {
            Some(Mailbox::Maildir(path)) => Ok(path),
            // It was accepted under an earlier file.
            _ => failed(Enhanced(5, 1, 6), "there is no mailbox behind this address any more"),
        },
        Found::Nobody | Found::NotOurs => failed(Enhanced(5, 1, 1), "there is no such mailbox"),
    }
}

/// What stands on top of a message.
fn head(sender: &str, recipient: &str, binary: bool) -> Vec<u8> {
    let end = if binary { "\r\n" } else { "\n" };
    // Checked when they were accepted; here a control character would be a line of the header.
    let clean = |text: &str| text.replace(|c: char| c.is_control() || matches!(c, '<' | '>'), "?");
    format!("Return-Path: <{}>{end}Delivered-To: {}{end}", clean(sender), clean(recipient)).into_bytes()
}

/// A failure of the host's is no fault of the recipient's: another try. Senders are not told paths.
fn trouble(maildir: &Path, error: &io::Error) -> Stored {
    tracing::warn!(target: "maildir", maildir = %maildir.display(), %error, "a message could not be stored; it will be tried again");
    let is_full = [Errno::NOSPC, Errno::DQUOT, Errno::FBIG].map(Some).contains(&Errno::from_io_error(error));
    let reply = if is_full {
        Reply::new(0, Enhanced(4, 2, 2), "the mailbox is full")
    } else {
        Reply::new(0, Enhanced(4, 3, 0), &format!("the mailbox cannot be written: {}", error.kind()))
    };
    (Verdict::Deferred, reply)
}

/// Turns CR LF into LF, wherever pieces are cut.
#[derive(Default)]
struct Lines {
    /// The last piece ended in CR.
    held_back: bool,
}

impl Lines {
    fn convert(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        out.reserve(piece.len() + 1);
        if std::mem::take(&mut self.held_back) && piece.first() != Some(&b'\n') {
            out.push(b'\r');
        }
        let mut rest = piece;
        while let Some(at) = memchr::memchr(b'\r', rest) {
            out.extend_from_slice(&rest[..at]);
            match rest.get(at + 1) {
                Some(b'\n') => {}
                Some(_) => out.push(b'\r'),
                None => self.held_back = true,
            }
            rest = &rest[at + 1..];
        }
        out.extend_from_slice(rest);
    }
}

/// A message in `tmp` of one Maildir. Dropped, it is gone.
struct Draft {
    maildir: PathBuf,
    name: String,
    file: BufWriter<File>,
    bytes: u64,
    /// Still in `tmp`.
    temporary: bool,
}

impl Draft {
    fn begin(maildir: &Path, names: &Names, head: &[u8]) -> io::Result<Self> {
        let name = names.next();
        let open = || {
            let path = maildir.join("tmp").join(&name);
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
        };
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_maildir(maildir)?;
                open()?
            }
            opened => opened?,
        };
        let mut draft =
            Self { maildir: maildir.to_owned(), name, file: BufWriter::new(file), bytes: 0, temporary: true };
        draft.write(head)?;
        Ok(draft)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn finish(mut self) -> io::Result<Stored> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        let new = self.maildir.join("new");
        // With its size, for who adds up quotas by names (Maildir++).
        let name = format!("{},S={}", self.name, self.bytes);
        fs::rename(self.temporary_path(), new.join(&name))?;
        self.temporary = false;
        sync_directory(&new)?;
        Ok((Verdict::Placed, Reply::new(250, Enhanced(2, 0, 0), &format!("stored as {name}"))))
    }

    fn temporary_path(&self) -> PathBuf {
        self.maildir.join("tmp").join(&self.name)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.temporary {
            // One that stays is removed by readers in time.
            let _ = fs::remove_file(self.temporary_path());
        }
    }
}

/// Makes a Maildir, or what is missing of one. Only the last name of its path: a wrong path must not grow a tree.
fn make_maildir(maildir: &Path) -> io::Result<()> {
    let make = |path: &Path| match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    make(maildir)?;
    for part in ["tmp", "new", "cur"] {
        make(&maildir.join(part))?;
    }
    sync_directory(maildir)?;
    maildir.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::WorkerIndex;
    use crate::mailboxes::store::Piece;
    use crossbeam_channel::unbounded;
    use proptest::prelude::*;

    fn names() -> Names {
        Names { host: "relay.test".into() }
    }

    fn begin(recipients: &[&str]) -> Begin {
        let recipients = recipients.iter().map(|recipient| (*recipient).into()).collect();
        Begin { sender: "s@away.test".into(), recipients, binary: false }
    }

    fn files(path: &Path) -> Vec<PathBuf> {
        fs::read_dir(path)
            .map(|entries| entries.map(|entry| entry.expect("an entry").path()).collect())
            .unwrap_or_default()
    }

    fn mailboxes(text: &str) -> Mailboxes {
        Mailboxes::parse(text).expect("valid")
    }

    #[test]
    fn a_message_is_in_new_once_whole_with_its_headers_and_never_before() {
        let place = tempfile::tempdir().expect("a directory");
        let maildir = place.path().join("alice");
        let mailboxes = mailboxes(&format!("alice@o.test maildir:{}\n", maildir.display()));
        let mut delivery = Delivery::begin(&begin(&["Alice@o.test"]), &mailboxes, &names());
        delivery.write(b"Subject: x\r\n\r");
        delivery.write(b"\nline\rwith a CR\r\n");
        assert_eq!((files(&maildir.join("tmp")).len(), files(&maildir.join("new")).len()), (1, 0));
        assert!(matches!(&delivery.finish()[..], [(Verdict::Placed, _)]));
        assert!(files(&maildir.join("tmp")).is_empty() && files(&maildir.join("cur")).is_empty());
        let [file] = &files(&maildir.join("new"))[..] else { panic!("not one file") };
        let content = fs::read(file).expect("a file");
        let want = "Return-Path: <s@away.test>\nDelivered-To: Alice@o.test\nSubject: x\n\nline\rwith a CR\n";
        assert_eq!(String::from_utf8_lossy(&content), want);
        assert!(file.display().to_string().ends_with(&format!(".relay.test,S={}", want.len())), "{file:?}");
    }

    #[test]
    fn what_is_abandoned_or_has_no_mailbox_leaves_nothing_and_the_others_get_theirs() {
        let place = tempfile::tempdir().expect("a directory");
        let (alice, bob) = (place.path().join("alice"), place.path().join("no/such/parent"));
        let text = format!(
            "a@o.test maildir:{}\nb@o.test maildir:{}\nc@o.test a@o.test\n",
            alice.display(),
            bob.display()
        );
        let mailboxes = mailboxes(&text);
        let mut delivery =
            Delivery::begin(&begin(&["a@o.test", "b@o.test", "c@o.test", "d@o.test"]), &mailboxes, &names());
        delivery.write(b"x\r\n");
        let stored = delivery.finish();
        let told: Vec<_> = stored.iter().map(|(verdict, reply)| (*verdict, reply.enhanced)).collect();
        let want = [
            (Verdict::Placed, Enhanced(2, 0, 0)),
            (Verdict::Deferred, Enhanced(4, 3, 0)),
            (Verdict::Failed, Enhanced(5, 1, 6)),
            (Verdict::Failed, Enhanced(5, 1, 1)),
        ];
        assert_eq!(told, want);
        assert!(!stored[1].1.text.contains("parent"), "a sender is told a path: {:?}", stored[1].1);
        assert_eq!(files(place.path()), std::slice::from_ref(&alice), "a wrong path grew a tree");
        drop(Delivery::begin(&begin(&["a@o.test"]), &mailboxes, &names()));
        assert_eq!((files(&alice.join("tmp")).len(), files(&alice.join("new")).len()), (0, 1));
    }

    #[test]
    fn names_never_repeat_and_hold_nothing_of_the_mail() {
        let made: std::collections::HashSet<_> = (0..1000).map(|_| names().next()).collect();
        assert_eq!(made.len(), 1000);
        let odd = |name: &String| name.contains(['/', ':', ',', ' ']);
        assert!(!made.iter().any(odd), "{made:?}");
    }

    #[test]
    fn a_full_disk_defers() {
        let stored = trouble(Path::new("/m"), &io::Error::from(Errno::NOSPC));
        assert_eq!((stored.0, stored.1.enhanced), (Verdict::Deferred, Enhanced(4, 2, 2)));
    }

    #[test]
    fn each_piece_is_answered_and_a_delivery_in_vain_ends_early() {
        let (store, inboxes) = store::requests(1);
        let (told, answers) = unbounded();
        let ticket = |number| Ticket { worker: WorkerIndex(0), number };
        let piece = |number, begin: Option<Begin>, last| Request::Piece {
            ticket: ticket(number),
            begin,
            piece: Piece::Read(b"x\r\n".to_vec()),
            last,
        };
        let place = tempfile::tempdir().expect("a directory");
        let maildir = place.path().join("a");
        let current = Current::default();
        current.set(Arc::new(mailboxes(&format!("a@o.test maildir:{}\n", maildir.display()))));
        for request in [
            piece(0, Some(begin(&["a@o.test"])), false),
            piece(1, Some(begin(&["gone@o.test"])), false),
            piece(0, None, true),
            piece(2, Some(begin(&["a@o.test"])), false),
            Request::Abandon(ticket(2)),
        ] {
            store.ask(request).expect("there is room");
        }
        drop(store);
        serve(&inboxes[0], &names(), &current, |ticket, answer| {
            told.send((ticket.number, answer)).expect("heard")
        });
        let heard: Vec<_> = answers.try_iter().collect();
        assert!(
            matches!(
                &heard[..],
                [(0, Answer::More), (1, Answer::Done(gone)), (0, Answer::Done(done)), (2, Answer::More)]
                    if gone[0].0 == Verdict::Failed && done[0].0 == Verdict::Placed
            ),
            "{heard:?}"
        );
        assert_eq!((files(&maildir.join("tmp")).len(), files(&maildir.join("new")).len()), (0, 1));
    }

    proptest! {
        #[test]
        fn lines_are_the_same_wherever_pieces_are_cut(text in "[a\r\n]{0,12}", cut in 0usize..12) {
            let (mut state, mut out) = (Lines::default(), Vec::new());
            let (front, back) = text.as_bytes().split_at(cut.min(text.len()));
            state.convert(front, &mut out);
            state.convert(back, &mut out);
            if state.held_back {
                out.push(b'\r');
            }
            prop_assert_eq!(String::from_utf8_lossy(&out), text.replace("\r\n", "\n"));
        }
    }
}
