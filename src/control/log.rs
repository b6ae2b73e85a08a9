//! The log thread: makes one structured line of each event, off the hot path.
//!
//! It looks into the channel every 50 ms instead of being woken, so that roles never pay for a system call, and writes what
//! it found at once. Text from peers cannot forge lines: control characters are escaped and lengths capped, in both
//! formats. Other threads' lines (start, errors) go straight to standard error.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::{Layer, SubscriberExt};

use crate::clock::WallTime;
use crate::config::{Log, LogFormat, LogLevel};
use crate::event::{Event, event_channel};
use crate::outcome::{Enhanced, Reply, Topic, Verdict};

/// Time between two looks into the channel.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Events of one look after which the next comes soon: the channel must not fill while the thread sleeps.
const BUSY_EVENTS: usize = 1024;
/// Time to the next look when there is much to do.
const LOOK_SOON: Duration = Duration::from_millis(5);
/// Bytes of lines that are gathered before they are written.
const WRITE_BYTES: usize = 64 * 1024;
/// Longest text of a peer in a line, characters.
const TEXT_CHARS_MAX: usize = 300;

thread_local! {
    /// Set on the log thread: lines gather here until they are written together.
    static GATHERED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
    /// The moment that the line being made is about; now, if none is set.
    static LINE_TIME: Cell<Option<WallTime>> = const { Cell::new(None) };
}

/// Sets up log lines for the whole process: `RUST_LOG` if it is set, else the configured level. What an embedding process
/// or a test has set up before stays.
///
/// # Errors
/// When `RUST_LOG` cannot be understood.
pub fn init(options: &Log) -> Result<(), String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => EnvFilter::try_new(&directives).map_err(|error| {
            format!("RUST_LOG={directives:?} is no filter: {error}; allowed is for example info, or warn,mail=info")
        })?,
        _ => default_filter(options.level),
    };
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = subscriber(options.format, filter, colours, StandardError);
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// The configured level for our own lines; the libraries' only when they are errors, since they tell of peers' faults as
/// warnings.
fn default_filter(level: LogLevel) -> EnvFilter {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let libraries =
        "hickory_resolver=error,hickory_net=error,hickory_proto=error,hyper=error,axum=error,glommio=error";
    EnvFilter::new(format!("{level},{libraries}"))
}

fn subscriber<W>(
    format: LogFormat,
    filter: EnvFilter,
    colours: bool,
    writer: W,
) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_timer(EventTime);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(colours).boxed(),
        LogFormat::Json => lines.with_ansi(false).json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines)
}

/// Standard error, through the log thread's buffer if it is that thread which writes.
#[derive(Clone, Copy, Debug)]
struct StandardError;

impl MakeWriter<'_> for StandardError {
    type Writer = StandardError;
    fn make_writer(&self) -> StandardError {
        StandardError
    }
}

impl Write for StandardError {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        GATHERED.with_borrow_mut(|gathered| match gathered {
            Some(lines) => {
                lines.extend_from_slice(line);
                if lines.len() >= WRITE_BYTES { write_out(lines) } else { Ok(()) }
            }
            None => io::stderr().write_all(line),
        })?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_out(lines: &mut Vec<u8>) -> io::Result<()> {
    let result = io::stderr().write_all(lines);
    lines.clear();
    result
}

/// The event's own time, which may lie some milliseconds before its line is made.
struct EventTime;

impl FormatTime for EventTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let millis = match LINE_TIME.get() {
            Some(at) => i64::try_from(at.0).unwrap_or(i64::MAX),
            None => SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
        };
        match jiff::Timestamp::from_millisecond(millis) {
            Ok(time) => write!(writer, "{time:.3}"),
            Err(_) => write!(writer, "{millis}"),
        }
    }
}

/// The running thread, and the channel into it.
#[derive(Debug)]
pub struct LogThread {
    events: Sender<Event>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl LogThread {
    /// Sets log lines up ([`init`]) and starts to make them of events.
    ///
    /// # Errors
    /// When `RUST_LOG` cannot be understood, or the thread cannot be made.
    pub fn start(options: &Log) -> io::Result<Self> {
        init(options).map_err(io::Error::other)?;
        let (events, inbox) = event_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || run(&inbox, &stopped))?;
        Ok(Self { events, stop, thread })
    }

    /// The way in, from which each role makes its [`crate::event::EventSender`] on its own thread.
    pub fn sender(&self) -> Sender<Event> {
        self.events.clone()
    }

    /// Writes what is in the channel and ends the thread. To be called when the roles have ended.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        // A panic on it has been reported by the panic hook.
        let _ = self.thread.join();
    }
}

fn run(events: &Receiver<Event>, stopped: &AtomicBool) {
    GATHERED.set(Some(Vec::with_capacity(2 * WRITE_BYTES)));
    loop {
        // Read before looking: what was sent before the stop is then found by the last look.
        let last = stopped.load(Ordering::Acquire);
        let (count, ended) = look(events);
        // A log that cannot be written has nowhere to say so.
        let _ = GATHERED.with_borrow_mut(|gathered| gathered.as_mut().map_or(Ok(()), write_out));
        if last || ended {
            return;
        }
        std::thread::park_timeout(if count >= BUSY_EVENTS { LOOK_SOON } else { LOOK_EVERY });
    }
}

/// Makes lines of all that waits: how many, and whether all senders are gone.
fn look(events: &Receiver<Event>) -> (usize, bool) {
    let mut count = 0;
    loop {
        match events.try_recv() {
            Ok(event) => line(&event),
            Err(TryRecvError::Empty) => return (count, false),
            Err(TryRecvError::Disconnected) => return (count, true),
        }
        count += 1;
    }
}

/// Makes the line of `event`.
fn line(event: &Event) {
    let at = match event {
        Event::Accepted { at, .. }
        | Event::Outcome { at, .. }
        | Event::Bounced { at, .. }
        | Event::Rejected { at, .. }
        | Event::SessionError { at, .. }
        | Event::Notice { at, .. }
        | Event::Trouble { at, .. } => *at,
    };
    LINE_TIME.set(Some(at));
    emit(event);
    LINE_TIME.set(None);
}

fn emit(event: &Event) {
    match event {
        Event::Accepted { id, sender, recipient, recipients, size, client, .. } => {
            tracing::info!(target: "mail", %id, from = &*shown(sender), to = &*shown(recipient), recipients, size,
                %client, "accepted");
        }
        Event::Outcome { id, domain, recipients, verdict, reply, host, attempts, delay, due, at } => {
            let verdict = match verdict {
                Verdict::Delivered | Verdict::Placed => "delivered",
                Verdict::Relayed => "relayed",
                Verdict::Deferred => "deferred",
                Verdict::Failed => "failed",
            };
            let Reply { code, enhanced, text } = reply;
            let retry_seconds = due.map(|due| due.since(*at).as_secs_f64());
            tracing::info!(target: "mail", %id, domain = &*shown(domain), recipients, code,
                enhanced = %Dotted(*enhanced), reply = &*shown(text), host = &*shown(host), attempts,
                delay_seconds = delay.as_secs_f64(), retry_seconds, "{verdict}");
        }
        Event::Bounced { id, topic, recipients, notification, .. } => {
            let notification = notification.map(tracing::field::display);
            let what = match topic {
                Some(Topic::Success) => "success reported",
                Some(Topic::Delay) => "delay reported",
                Some(Topic::Failure) | None => "bounced",
            };
            tracing::info!(target: "mail", %id, recipients, notification, "{what}");
        }
        Event::Rejected { client, reply, about, .. } => {
            tracing::info!(target: "mail", %client, about = &*shown(about), code = reply.code,
                enhanced = %Dotted(reply.enhanced), reply = &*shown(&reply.text), "rejected");
        }
        Event::SessionError { peer, what, .. } => {
            tracing::debug!(target: "mail", %peer, what = &*shown(what), "session ended early");
        }
        Event::Notice { part, what, .. } => {
            tracing::warn!(target: "mail", part, what = &*shown(what), "notice");
        }
        Event::Trouble { part, what, .. } => {
            tracing::error!(target: "mail", part, what = &*shown(what), "trouble");
        }
    }
}

/// An enhanced code as `5.7.1`.
struct Dotted(Enhanced);

impl fmt::Display for Dotted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Enhanced(class, subject, detail) = self.0;
        write!(f, "{class}.{subject}.{detail}")
    }
}

/// Text of a peer with control characters escaped, and so those that turn the direction of writing, and cut short.
pub fn shown(text: &str) -> Cow<'_, str> {
    let odd = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let text = match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    };
    if !text.contains(odd) {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if odd(c) { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{MessageId, PartId};
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl MakeWriter<'_> for Memory {
        type Writer = Memory;
        fn make_writer(&self) -> Memory {
            self.clone()
        }
    }

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: LogFormat, event: &Event) -> String {
        let memory = Memory::default();
        let subscriber = subscriber(format, default_filter(LogLevel::Debug), false, memory.clone());
        tracing::subscriber::with_default(subscriber, || line(event));
        let bytes = memory.0.lock().expect("unpoisoned").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    fn outcome(text: &str, host: &str) -> Event {
        Event::Outcome {
            at: WallTime(1_700_000_000_123),
            id: MessageId::new(PartId(1), 2),
            domain: "example.com".into(),
            recipients: 2,
            verdict: Verdict::Deferred,
            // Built by hand: Reply::new would clean it.
            reply: Reply { code: 450, enhanced: Enhanced(4, 2, 0), text: text.into() },
            host: host.into(),
            attempts: 3,
            delay: Duration::from_millis(1500),
            due: Some(WallTime(1_700_000_300_123)),
        }
    }

    #[test]
    fn an_outcome_says_what_where_and_when_next() {
        let text = written(LogFormat::Text, &outcome("try later", "mx.example.com"));
        assert_eq!(
            text,
            "2023-11-14T22:13:20.123Z  INFO mail: deferred id=0008000000002 domain=\"example.com\" recipients=2 code=450 \
             enhanced=4.2.0 reply=\"try later\" host=\"mx.example.com\" attempts=3 delay_seconds=1.5 \
             retry_seconds=300.0\n"
        );
    }

    #[test]
    fn what_peers_say_stays_in_one_line_and_cannot_steer_a_terminal() {
        let evil = "x\r\n2023 INFO mail: accepted\u{1b}[2J\u{9b}\u{0}\u{202e}\u{7f}\"";
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = written(format, &outcome(evil, evil));
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            let line = text.trim_end_matches('\n');
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        }
    }

    #[test]
    fn json_lines_hold_each_field_under_its_name() {
        let text = written(LogFormat::Json, &outcome("try later", ""));
        for words in [
            "\"timestamp\":\"2023-11-14T22:13:20.123Z\"",
            "\"target\":\"mail\"",
            "\"message\":\"deferred\"",
            "\"code\":450",
            "\"delay_seconds\":1.5",
        ] {
            assert!(text.contains(words), "`{words}` is missing: {text}");
        }
    }

    #[test]
    fn accepted_and_trouble_have_their_lines() {
        let accepted = Event::Accepted {
            at: WallTime(0),
            id: MessageId::new(PartId(0), 1),
            sender: "".into(),
            recipient: "a@example.com".into(),
            recipients: 1,
            size: 4096,
            client: "127.0.0.1".parse().expect("address"),
        };
        let text = written(LogFormat::Text, &accepted);
        assert!(
            text.contains("accepted id=0000000000001 from=\"\" to=\"a@example.com\" recipients=1"),
            "{text}"
        );
        let trouble = Event::Trouble { at: WallTime(0), part: "spool", what: "x".repeat(1000).into() };
        let text = written(LogFormat::Text, &trouble);
        assert!(text.contains("ERROR mail: trouble part=\"spool\"") && text.len() < 450, "{text}");
    }

    #[test]
    fn what_was_sent_before_the_stop_is_made_into_lines() {
        let (sender, receiver) = event_channel();
        let stopped = AtomicBool::new(true);
        sender.send(outcome("a", "")).expect("room");
        sender.send(outcome("b", "")).expect("room");
        run(&receiver, &stopped);
        assert!(receiver.is_empty());
    }
}
