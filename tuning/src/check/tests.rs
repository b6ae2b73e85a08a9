//! Findings on captured hosts.

use super::*;
use crate::host::shapes::{self, Shape};

const SPOOL: &str = "/home/spool";

fn wanted() -> Wanted {
    Wanted {
        executors: 2,
        descriptors: 21_024,
        spool_free: 640 << 20,
        memory: 600 << 20,
        messages_per_connection: 100,
    }
}

fn good() -> Host {
    shapes::small_virtual_machine().host(SPOOL)
}

fn of(host: &Host) -> Vec<Finding> {
    findings(host, &wanted(), None)
}

/// What is not green, by name.
fn not_green(findings: &[Finding]) -> Vec<(&'static str, State)> {
    findings.iter().filter(|one| one.state != State::Green).map(|one| (one.what, one.state)).collect()
}

#[test]
fn a_good_host_is_green_all_over() {
    let found = of(&good());
    assert!(not_green(&found).is_empty(), "{found:?}");
    assert!(table(&found, false).ends_with("ringpost serve\n"));
}

#[test]
fn each_lack_is_seen_and_says_what_to_do() {
    type Spoil = fn(&mut Host);
    let cases: [(&str, State, Spoil, &str); 14] = [
        ("kernel", State::Red, |h| h.kernel.release = Seen::Value("5.4.0-1".into()), "install a newer one"),
        ("io_uring", State::Red, |h| h.kernel.io_uring = Seen::hidden("do this"), "do this"),
        (
            "memlock",
            State::Red,
            |h| h.kernel.memlock = Seen::Value((Limit::Of(1 << 16), Limit::Of(1 << 16))),
            "LimitMEMLOCK=1024K",
        ),
        ("spool disk", State::Red, |h| h.disk.file_system = Seen::Value("tmpfs".into()), "spool.directory"),
        (
            "spool disk",
            State::Red,
            |h| h.disk.options = Seen::Value("rw,nobarrier".into()),
            "without nobarrier",
        ),
        (
            "spool directory",
            State::Red,
            |h| h.disk.writable = Seen::hidden("Read-only file system"),
            "Read-only",
        ),
        ("spool space", State::Red, |h| h.disk.free = Seen::Value(1 << 20), "spool.reserve_bytes"),
        (
            "nofile",
            State::Yellow,
            |h| h.kernel.nofile = Seen::Value((Limit::Of(1024), Limit::Of(1024))),
            "LimitNOFILE=21024",
        ),
        ("somaxconn", State::Yellow, |h| h.network.somaxconn = Seen::Value(128), "net.core.somaxconn=4096"),
        (
            "outbound ports",
            State::Yellow,
            |h| h.network.port_range = Seen::Value((60_000, 60_999)),
            "ip_local_port_range",
        ),
        ("CPUs", State::Yellow, |h| h.cgroup.cpu_max = Seen::Value(Limit::Of(1.5)), "threads.shards"),
        (
            "memory",
            State::Yellow,
            |h| h.cgroup.memory_max = Seen::Value(Limit::Of(512 << 20)),
            "resident_bytes_max",
        ),
        ("file system", State::Yellow, |h| h.disk.file_system = Seen::Value("btrfs".into()), "XFS"),
        (
            "I/O scheduler",
            State::Yellow,
            |h| {
                let Seen::Value(devices) = &mut h.disk.devices else { panic!("a disk") };
                devices[0].scheduler = Seen::Value("bfq".into());
            },
            "/sys/block/vda/queue/scheduler",
        ),
    ];
    for (what, state, spoil, words) in cases {
        let mut host = good();
        spoil(&mut host);
        let found = of(&host);
        assert_eq!(not_green(&found), [(what, state)], "{found:?}");
        let text = table(&found, false);
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn hosts_of_four_shapes_are_judged_each_by_its_own_lacks() {
    let judged = |shape: &Shape, spool: &str| not_green(&of(&shape.host(spool)));
    assert_eq!(judged(&shapes::small_virtual_machine(), SPOOL), []);
    let server = judged(&shapes::server_with_two_sockets(), "/var/spool mail/queue");
    let lacks = ["memlock", "nofile", "somaxconn", "interrupts"];
    assert_eq!(server.iter().map(|(what, _)| *what).collect::<Vec<_>>(), lacks);
    let container = judged(&shapes::container(), "/var/spool/ringpost");
    assert_eq!(container, [("CPUs", State::Yellow), ("memory", State::Yellow)]);
    assert_eq!(judged(&shapes::container(), "/dev/shm/spool")[0], ("spool disk", State::Red));
    assert_eq!(judged(&shapes::arm_in_a_cloud(), "/var/spool/ringpost"), []);
}

#[test]
fn what_cannot_be_seen_is_never_green_where_it_could_be_fatal() {
    let shape = Shape::of("/proc/sys/kernel/osrelease: 6.1\n");
    let found = of(&shape.host(SPOOL));
    let names: Vec<_> = not_green(&found).into_iter().map(|(what, _)| what).collect();
    assert_eq!(names, ["memlock", "spool disk", "nofile", "somaxconn"]);
}

#[test]
fn colours_are_for_terminals_only() {
    let found = of(&good());
    assert!(table(&found, true).contains("\x1b[32mgreen") && !table(&found, false).contains('\x1b'));
}
