//! PURE. Judges facts against what the relay wants, and shows the result as a table.

use std::fmt::Write as _;

use ringpost::config::Config;
use ringpost::net::executor::MEMLOCK_PER_EXECUTOR;
use ringpost::net::listener::BACKLOG;

use crate::host::Facts;

/// Oldest kernel on which glommio runs.
const KERNEL_MIN: (u32, u32) = (5, 8);
/// Segments that a shard prepares before it takes mail.
const SEGMENTS_AT_START: u64 = 3;
/// Descriptors beside connections: listeners, rings, segments, DNS, admin.
const DESCRIPTORS_BESIDE: u64 = 1024;

/// What a configuration asks of its host.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Executors.
    pub executors: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Free bytes for the spool.
    pub spool_free: u64,
}

impl Wanted {
    /// Of a completed configuration.
    pub fn of(config: &Config) -> Self {
        let shards = u64::from(config.threads.shards);
        Self {
            executors: u64::from(ringpost::relay::executors(config)),
            // As many outbound as inbound: paths come and go, this is where their sum usually lies below.
            descriptors: 2 * u64::from(config.limits.connections_max) + DESCRIPTORS_BESIDE,
            spool_free: config.spool.reserve_bytes + shards * SEGMENTS_AT_START * config.spool.segment_bytes,
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As wanted.
    Green,
    /// The relay runs, with a limit that load may reach.
    Yellow,
    /// The relay does not run, or cannot keep its promises.
    Red,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// How it is.
    pub now: String,
    /// How it should be.
    pub wanted: String,
    /// What it is for.
    pub why: &'static str,
    /// What to do about it.
    pub how: String,
    /// Verdict.
    pub state: State,
}

/// All findings, in the order in which they matter.
pub fn findings(facts: &Facts, wanted: &Wanted) -> Vec<Finding> {
    vec![
        kernel(facts),
        io_uring(facts),
        memlock(facts, wanted),
        spool_disk(facts),
        spool_space(facts, wanted),
        nofile(facts, wanted),
        somaxconn(facts),
    ]
}

fn verdict(is_good: bool, otherwise: State) -> State {
    if is_good { State::Green } else { otherwise }
}

fn kernel(facts: &Facts) -> Finding {
    let (major, minor) = KERNEL_MIN;
    // A release that cannot be read is no reason to stop: io_uring itself is tried below.
    let is_good = release(&facts.release).is_none_or(|found| found >= KERNEL_MIN);
    Finding {
        what: "kernel",
        now: facts.release.clone(),
        wanted: format!("{major}.{minor} or later"),
        why: "io_uring as the relay uses it",
        how: "install a newer kernel".into(),
        state: verdict(is_good, State::Red),
    }
}

fn io_uring(facts: &Facts) -> Finding {
    let is_good = facts.io_uring_error.is_none();
    Finding {
        what: "io_uring",
        now: if is_good { "allowed" } else { "denied" }.into(),
        wanted: "allowed".into(),
        why: "every socket and file of the relay goes through it",
        how: facts.io_uring_error.clone().unwrap_or_default(),
        state: verdict(is_good, State::Red),
    }
}

fn memlock(facts: &Facts, wanted: &Wanted) -> Finding {
    let need = wanted.executors * MEMLOCK_PER_EXECUTOR;
    let kib = need / 1024;
    Finding {
        what: "memlock",
        now: size(facts.memlock),
        wanted: size(need),
        why: "rings of each executor are locked in memory",
        how: format!(
            "ulimit -H -l {kib} as root, LimitMEMLOCK={kib}K in the systemd unit, or --ulimit memlock={need} in a container"
        ),
        state: verdict(facts.memlock >= need, State::Red),
    }
}

fn spool_disk(facts: &Facts) -> Finding {
    Finding {
        what: "spool disk",
        now: match facts.spool_in_memory {
            Some(true) => "tmpfs",
            Some(false) => "a file system on disk",
            None => "not readable",
        }
        .into(),
        wanted: "a file system on disk".into(),
        why: "250 means that a message survives a power cut",
        how: "put spool.directory on a disk (ext4 or XFS)".into(),
        state: verdict(facts.spool_in_memory == Some(false), State::Red),
    }
}

fn spool_space(facts: &Facts, wanted: &Wanted) -> Finding {
    Finding {
        what: "spool space",
        now: facts.spool_free.map_or("not readable".into(), size),
        wanted: size(wanted.spool_free),
        why: "the first segments of each shard, and the reserve that new mail may not use",
        how: "free some, or lower spool.segment_bytes and spool.reserve_bytes".into(),
        state: verdict(facts.spool_free.is_some_and(|free| free >= wanted.spool_free), State::Red),
    }
}

fn nofile(facts: &Facts, wanted: &Wanted) -> Finding {
    let need = wanted.descriptors;
    Finding {
        what: "nofile",
        now: count(facts.nofile),
        wanted: count(need),
        why: "one descriptor for each connection: limits.connections_max, and as many outbound",
        how: format!(
            "ulimit -H -n {need} as root, LimitNOFILE={need} in the systemd unit, or lower limits.connections_max"
        ),
        state: verdict(facts.nofile >= need, State::Yellow),
    }
}

fn somaxconn(facts: &Facts) -> Finding {
    let need = BACKLOG.unsigned_abs().into();
    Finding {
        what: "somaxconn",
        now: facts.somaxconn.map_or("not readable".into(), count),
        wanted: count(need),
        why: "connections that wait to be accepted; beyond it a burst of clients waits a second for its second try",
        how: format!("sysctl -w net.core.somaxconn={need}, and the same line in /etc/sysctl.d"),
        state: verdict(facts.somaxconn.is_some_and(|now| now >= need), State::Yellow),
    }
}

/// Major and minor number of a kernel release such as `6.1.0-18-amd64`.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some((major, minor))
}

fn count(count: u64) -> String {
    if count == u64::MAX { "unlimited".into() } else { count.to_string() }
}

fn size(bytes: u64) -> String {
    match bytes {
        u64::MAX => "unlimited".into(),
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// The table: a line for each finding, and under those that are not green what to do.
pub fn table(findings: &[Finding], colours: bool) -> String {
    let width = |cell: fn(&Finding) -> &str, head: &str| {
        findings.iter().map(|finding| cell(finding).len()).chain([head.len()]).max().unwrap_or(0)
    };
    let (what, now) = (width(|f| f.what, "what"), width(|f| &f.now, "now"));
    let wanted = width(|f| &f.wanted, "wanted");
    // Writing to a String cannot fail.
    let mut text = String::new();
    let _ = writeln!(text, "state   {:what$}  {:now$}  {:wanted$}  why", "what", "now", "wanted");
    for finding in findings {
        let (name, colour) = match finding.state {
            State::Green => ("green", 32),
            State::Yellow => ("yellow", 33),
            State::Red => ("red", 31),
        };
        let state = if colours { format!("\x1b[{colour}m{name:6}\x1b[0m") } else { format!("{name:6}") };
        let Finding { what: w, now: n, wanted: q, why, how, .. } = finding;
        let _ = writeln!(text, "{state}  {w:what$}  {n:now$}  {q:wanted$}  {why}");
        if finding.state != State::Green {
            let _ = writeln!(text, "        → {how}");
        }
    }
    let red = findings.iter().filter(|finding| finding.state == State::Red).count();
    let yellow = findings.iter().filter(|finding| finding.state == State::Yellow).count();
    text.push_str(&match (red, yellow) {
        (0, 0) => "The relay can run here: ringpost serve\n".to_owned(),
        (0, _) => format!("The relay can run here; {yellow} yellow: load may reach that limit.\n"),
        _ => {
            format!("{red} red: change that first; serve would not start, or could not keep its promises.\n")
        }
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            release: "6.1.0-18-amd64".into(),
            io_uring_error: None,
            memlock: 8 << 20,
            nofile: 1 << 20,
            somaxconn: Some(4096),
            spool_in_memory: Some(false),
            spool_free: Some(100 << 30),
        }
    }

    fn wanted() -> Wanted {
        Wanted { executors: 2, descriptors: 21_024, spool_free: 640 << 20 }
    }

    #[test]
    fn releases_of_all_distributions_are_compared_by_number() {
        for (text, want) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.14.0-427.el9.x86_64", Some((5, 14))),
            ("6.18", Some((6, 18))),
            ("10.0-rc1", Some((10, 0))),
            ("6", None),
            ("", None),
            ("next", None),
            ("99999999999.1", None),
        ] {
            assert_eq!(release(text), want, "{text}");
        }
        assert!(release("5.10.0") > Some(KERNEL_MIN) && release("5.4.0") < Some(KERNEL_MIN));
    }

    #[test]
    fn sizes_are_shown_in_the_unit_people_set_them_in() {
        for (bytes, want) in [
            (0, "0 KiB"),
            (64 << 10, "64 KiB"),
            (8 << 20, "8 MiB"),
            (100 << 30, "100 GiB"),
            (u64::MAX, "unlimited"),
        ] {
            assert_eq!(size(bytes), want);
        }
    }

    #[test]
    fn a_good_host_is_green_all_over() {
        let found = findings(&facts(), &wanted());
        assert!(found.iter().all(|finding| finding.state == State::Green), "{found:?}");
        assert!(table(&found, false).ends_with("ringpost serve\n"));
    }

    #[test]
    fn each_lack_is_seen_and_says_what_to_do() {
        type Spoil = fn(&mut Facts);
        let cases: [(&str, State, Spoil, &str); 8] = [
            ("kernel", State::Red, |f| f.release = "5.4.0-1".into(), "newer kernel"),
            ("io_uring", State::Red, |f| f.io_uring_error = Some("do this".into()), "do this"),
            ("memlock", State::Red, |f| f.memlock = 64 << 10, "LimitMEMLOCK=1024K"),
            ("spool disk", State::Red, |f| f.spool_in_memory = Some(true), "spool.directory"),
            ("spool disk", State::Red, |f| f.spool_in_memory = None, "spool.directory"),
            ("spool space", State::Red, |f| f.spool_free = Some(1 << 20), "spool.reserve_bytes"),
            ("nofile", State::Yellow, |f| f.nofile = 1024, "LimitNOFILE=21024"),
            ("somaxconn", State::Yellow, |f| f.somaxconn = Some(128), "net.core.somaxconn=4096"),
        ];
        for (what, state, spoil, words) in cases {
            let mut facts = facts();
            spoil(&mut facts);
            let found = findings(&facts, &wanted());
            for finding in &found {
                let want = if finding.what == what { state } else { State::Green };
                assert_eq!(finding.state, want, "{finding:?}");
            }
            let text = table(&found, false);
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn colours_are_for_terminals_only() {
        let found = findings(&facts(), &wanted());
        assert!(table(&found, true).contains("\x1b[32mgreen") && !table(&found, false).contains('\x1b'));
    }
}
