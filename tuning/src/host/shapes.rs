//! Hosts of four shapes, captured as text in `tuning/shapes/` and unfolded into a directory.
//!
//! A line is `path: content`, its content may go on in lines that begin with two spaces; `path -> target` is a symbolic
//! link. `{0-3}` in a path makes four files, in whose content `{n}` is the number and `{n%16}` its rest.

use std::fs;
use std::path::Path;

use super::*;

/// A host of a shape; its directory lives as long.
pub struct Shape {
    _directory: tempfile::TempDir,
    /// What is read.
    pub tree: Tree,
}

impl Shape {
    /// Unfolds one.
    pub fn of(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut lines = text.lines().filter(|line| !line.starts_with('#')).peekable();
        while let Some(line) = lines.next() {
            if let Some((path, target)) = line.split_once(" -> ") {
                let place = made(directory.path(), path);
                std::os::unix::fs::symlink(target, place).expect("a link");
                continue;
            }
            // Paths of devices hold colons; content comes behind the first with a space or an end.
            let (path, first) =
                line.split_once(": ").or_else(|| line.strip_suffix(':').map(|path| (path, ""))).expect(line);
            let mut content = first.to_owned();
            while let Some(more) = lines.next_if(|line| line.starts_with("  ")) {
                content += "\n";
                content += &more[2..];
            }
            for (path, number) in expanded(path) {
                let rest = |of: usize| (number % of).to_string();
                let content = content.replace("{n}", &number.to_string()).replace("{n%16}", &rest(16));
                fs::write(made(directory.path(), &path), content).expect("a file");
            }
        }
        let tree = Tree::at(directory.path());
        Self { _directory: directory, tree }
    }

    /// The host, with a ring that can be made and 100 GiB free for `directory`.
    pub fn host(&self, directory: &str) -> Host {
        let tried = Tried {
            directory: directory.to_owned(),
            io_uring: Seen::Value("allowed".into()),
            free: Seen::Value(100 << 30),
            writable: Seen::Value("yes".into()),
        };
        Host::of(&self.tree, tried)
    }
}

fn made(root: &Path, path: &str) -> PathBuf {
    let place = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(place.parent().expect("a parent")).expect("a directory");
    place
}

fn expanded(path: &str) -> Vec<(String, usize)> {
    let Some((before, rest)) = path.split_once('{') else { return vec![(path.to_owned(), 0)] };
    let (range, after) = rest.split_once('}').expect("a closing brace");
    let (first, last) = range.split_once('-').expect("a range");
    let numbers = first.parse::<usize>().expect("a number")..=last.parse().expect("a number");
    numbers.map(|number| (format!("{before}{number}{after}"), number)).collect()
}

pub fn small_virtual_machine() -> Shape {
    Shape::of(include_str!("../../shapes/virtual.txt"))
}

pub fn server_with_two_sockets() -> Shape {
    Shape::of(include_str!("../../shapes/server.txt"))
}

pub fn container() -> Shape {
    Shape::of(include_str!("../../shapes/container.txt"))
}

pub fn arm_in_a_cloud() -> Shape {
    Shape::of(include_str!("../../shapes/cloud.txt"))
}

fn shown<T: ToString>(seen: &Seen<T>) -> String {
    seen.show(T::to_string)
}

#[test]
fn a_small_virtual_machine_is_seen_through_control_groups_of_version_1() {
    let host = small_virtual_machine().host("/home/relay/spool");
    assert_eq!(host.kernel.release.value().expect("seen"), "6.1.0-18-cloud-amd64");
    assert_eq!(host.kernel.nofile, Seen::Value((Limit::Of(1024), Limit::Of(524_288))));
    assert!(shown(&host.kernel.io_uring_disabled).contains("io_uring_disabled is not there"));
    assert_eq!((shown(&host.cpus.cores), shown(&host.cpus.threads_per_core)), ("2".into(), "1".into()));
    assert_eq!(host.cpus.caches.value().map(Vec::len), Some(2));
    assert_eq!(host.cgroup.version, Seen::Value(1));
    assert_eq!(
        (host.cgroup.cpu_max, host.cgroup.memory_max),
        (Seen::Value(Limit::None), Seen::Value(Limit::None))
    );
    let interfaces = host.network.interfaces.value().expect("seen");
    assert_eq!(interfaces.len(), 1, "loopback has no device");
    assert_eq!(shown(&interfaces[0].driver), "virtio_net");
    let interrupts = interfaces[0].interrupts.value().expect("seen");
    let effective: Vec<_> = interrupts.iter().map(|one| (one.irq, shown(&one.effective))).collect();
    assert_eq!(
        effective,
        [(38, "1".into()), (39, "0".into())],
        "not the disk's, not the one for configuration"
    );
    let disks = host.disk.devices.value().expect("seen");
    assert_eq!((disks.len(), disks[0].name.as_str(), disks[0].kind), (1, "vda", disk::Kind::Virtio));
    assert_eq!(
        (shown(&disks[0].scheduler), shown(&disks[0].write_cache)),
        ("mq-deadline".into(), "write back".into())
    );
    assert_eq!(disks[0].rotational, Seen::Value(true));
}

#[test]
fn a_server_has_its_nodes_its_threads_and_both_disks_of_a_raid() {
    let host = server_with_two_sockets().host("/var/spool mail/queue");
    assert_eq!(
        (shown(&host.cpus.sockets), shown(&host.cpus.cores), shown(&host.cpus.threads_per_core)),
        ("2".into(), "32".into(), "2".into())
    );
    let cpus = host.cpus.cores_first.value().expect("seen");
    assert_eq!((cpus.0[0], cpus.0[31], cpus.0[32]), (0, 31, 32), "the second threads come last");
    let nodes = host.cpus.nodes.value().expect("seen");
    assert_eq!((nodes.len(), nodes[1].cpus.to_string().as_str()), (2, "16-31,48-63"));
    assert_eq!(nodes[0].memory_kib, Seen::Value(263_000_000));
    assert_eq!((host.cgroup.version, host.cgroup.memory_max), (Seen::Value(2), Seen::Value(Limit::None)));
    let interface = &host.network.interfaces.value().expect("seen")[0];
    assert_eq!((shown(&interface.receive_queues), shown(&interface.node)), ("8".into(), "1".into()));
    assert_eq!(interface.interrupts.value().map(Vec::len), Some(4), "by number as well as by name");
    assert_eq!(interface.steering, Seen::Value(cpu::CpuList::default()));
    assert_eq!(shown(&host.disk.file_system), "xfs");
    let names: Vec<_> =
        host.disk.devices.value().expect("seen").iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["nvme0n1", "nvme1n1"]);
}

#[test]
fn a_container_says_what_it_may_use_and_what_it_cannot_see() {
    let shape = container();
    let host = shape.host("/var/spool/ringpost");
    assert_eq!(shown(&host.kernel.container), "Docker");
    assert_eq!(
        (host.cgroup.cpu_max.clone(), host.cgroup.memory_max.clone()),
        (Seen::Value(Limit::Of(1.5)), Seen::Value(Limit::Of(512 << 20)))
    );
    assert_eq!(shown(&host.usable_cpus()), "1.5");
    assert_eq!((shown(&host.cpus.online), shown(&host.cpus.allowed)), ("0-3".into(), "1,3".into()));
    assert_eq!(host.kernel.memlock, Seen::Value((Limit::None, Limit::None)));
    assert!(host.cpus.caches.value().is_none() && host.cpus.cores.value().is_none());
    assert!(shown(&host.network.somaxconn) == "4096" && shown(&host.network.tw_reuse).contains("not there"));
    assert!(host.network.interfaces.show(|_| String::new()).contains("a container's are the host's"));
    assert_eq!(shown(&host.disk.mounted_at), "/var/spool/ringpost");
    assert!(host.disk.devices.show(|_| String::new()).contains("shows no device 8:1 (/dev/sda1)"));
    let inside = shape.host("/tmp");
    assert!(inside.disk.devices.show(|_| String::new()).contains("overlay"));
    assert!(shape.host("/dev/shm/spool").disk.devices.show(|_| String::new()).contains("memory"));
}

#[test]
fn an_arm_host_in_a_cloud_is_held_by_the_group_above_its_own() {
    let host = arm_in_a_cloud().host("/var/spool/ringpost");
    assert_eq!(shown(&host.cpus.model), "implementer 0x41, part 0xd40");
    assert_eq!(
        (shown(&host.cpus.sockets), shown(&host.cpus.cores), shown(&host.cpus.threads_per_core)),
        ("1".into(), "64".into(), "1".into())
    );
    assert_eq!(host.cgroup.cpu_max, Seen::Value(Limit::Of(32.0)));
    assert_eq!(host.cgroup.memory_max, Seen::Value(Limit::Of(64 << 30)));
    assert_eq!(shown(&host.usable_cpus()), "32");
    assert_eq!(host.network.port_range, Seen::Value((1024, 65_535)));
    let interface = &host.network.interfaces.value().expect("seen")[0];
    assert!(interface.node.value().is_none(), "-1 is no node");
    assert_eq!(interface.interrupts.value().map(Vec::len), Some(2));
    let disk = &host.disk.devices.value().expect("seen")[0];
    assert_eq!((disk.kind, shown(&disk.model)), (disk::Kind::Nvme, "Amazon Elastic Block Store".into()));
}

#[test]
fn every_shape_shows_every_line_as_text_and_as_json() {
    let spools = ["/home/spool", "/var/spool mail/q", "/var/spool/ringpost", "/var/spool/ringpost"];
    let shapes = [small_virtual_machine(), server_with_two_sockets(), container(), arm_in_a_cloud()];
    for (shape, spool) in shapes.iter().zip(spools) {
        let host = shape.host(spool);
        let text = text(&host);
        for name in ["release", "memlock", "caches", "NUMA nodes", "CPU time", "somaxconn", "file system"] {
            let line = text.lines().find(|line| line.trim_start().starts_with(name));
            assert!(line.is_some_and(|line| line.trim() != name), "{name}:\n{text}");
        }
        let json = serde_json::to_value(&host).expect("JSON");
        let somaxconn = &json["network"]["somaxconn"];
        assert!(somaxconn.is_number() || somaxconn["not_visible"].is_string(), "{json}");
    }
}

#[test]
fn damaged_files_are_hidden_and_never_guessed() {
    let shape = Shape::of(
        "/proc/sys/net/core/somaxconn: many\n/proc/sys/net/ipv4/ip_local_port_range: 9 1\n/sys/devices/system/cpu/online: 0-9999999\n\
         /proc/self/mountinfo: not a mount\n/proc/self/cgroup: nonsense\n/proc/interrupts: 1:\n/proc/self/limits: Max open files\n",
    );
    let host = shape.host("/spool");
    assert!(shown(&host.network.somaxconn).contains("holds no number: many"));
    assert!(host.network.port_range.value().is_none() && host.cpus.online.value().is_none());
    assert!(host.kernel.nofile.value().is_none() && host.disk.file_system.value().is_none());
    assert!(host.cgroup.version.value().is_none());
}
