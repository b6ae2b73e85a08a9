//! PURE. A host as text for people: one line for each thing, and what could not be seen with its reason.

use std::fmt::{Display, Write as _};

use super::cgroup::Limit;
use super::disk::Device;
use super::network::Interface;
use super::{Host, Seen};
use crate::units;

/// Width of the names.
const NAMES: usize = 18;

/// All of it.
pub fn text(host: &Host) -> String {
    let mut page = Page(String::new());
    kernel(&mut page, host);
    cpus(&mut page, host);
    cgroup(&mut page, host);
    network(&mut page, host);
    disk(&mut page, host);
    page.0
}

struct Page(String);

impl Page {
    fn section(&mut self, name: &str) {
        let space = if self.0.is_empty() { "" } else { "\n" };
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{space}{name}");
    }

    fn line(&mut self, name: &str, value: String) {
        let _ = writeln!(self.0, "  {name:NAMES$}{value}");
    }

    fn seen<T: Display>(&mut self, name: &str, value: &Seen<T>) {
        self.line(name, value.show(T::to_string));
    }
}

fn limit<T>(limit: &Limit<T>, show: impl FnOnce(&T) -> String) -> String {
    match limit {
        Limit::Of(value) => show(value),
        Limit::None => "no limit".into(),
    }
}

fn yes(flag: &bool) -> String {
    if *flag { "yes" } else { "no" }.into()
}

fn kernel(page: &mut Page, host: &Host) {
    let kernel = &host.kernel;
    page.section("kernel");
    page.seen("release", &kernel.release);
    page.seen("container", &kernel.container);
    page.seen("io_uring", &kernel.io_uring);
    page.seen("io_uring_disabled", &kernel.io_uring_disabled);
    let bytes = |value: &Limit<u64>| limit(value, |bytes| units::size(*bytes));
    page.line(
        "memlock",
        kernel.memlock.show(|(soft, hard)| format!("{}, at most {}", bytes(soft), bytes(hard))),
    );
    let count = |value: &Limit<u64>| limit(value, u64::to_string);
    page.line(
        "nofile",
        kernel.nofile.show(|(soft, hard)| format!("{}, at most {}", count(soft), count(hard))),
    );
    let kib = |kib: &u64| units::size(kib.saturating_mul(1024));
    page.line("memory", kernel.memory_kib.show(kib));
    page.line("available", kernel.available_kib.show(kib));
    page.seen("huge pages", &kernel.huge_pages);
    page.seen("transparent ones", &kernel.transparent_huge_pages);
    page.seen("NUMA balancing", &kernel.numa_balancing);
}

fn cpus(page: &mut Page, host: &Host) {
    let cpus = &host.cpus;
    page.section("CPUs");
    page.seen("model", &cpus.model);
    page.line("online", cpus.online.show(|list| format!("{} ({list})", list.len())));
    page.line("for this process", cpus.allowed.show(|list| format!("{} ({list})", list.len())));
    page.seen("sockets", &cpus.sockets);
    page.seen("cores", &cpus.cores);
    page.seen("threads per core", &cpus.threads_per_core);
    page.line(
        "caches",
        cpus.caches.show(|caches| {
            let one = |cache: &super::cpu::Cache| {
                format!(
                    "L{} {} {} shared by {}",
                    cache.level,
                    cache.kind.to_lowercase(),
                    cache.size,
                    cache.shared_by
                )
            };
            caches.iter().map(one).collect::<Vec<_>>().join(", ")
        }),
    );
    page.line(
        "NUMA nodes",
        cpus.nodes.show(|nodes| {
            let one = |node: &super::cpu::Node| {
                let memory =
                    node.memory_kib.value().map_or("?".into(), |kib| units::size(kib.saturating_mul(1024)));
                format!("{}: CPUs {}, {memory}", node.node, node.cpus)
            };
            nodes.iter().map(one).collect::<Vec<_>>().join("; ")
        }),
    );
}

fn cgroup(page: &mut Page, host: &Host) {
    let group = &host.cgroup;
    page.section("control group");
    page.seen("version", &group.version);
    page.line("CPU time", group.cpu_max.show(|max| limit(max, |cpus| format!("{cpus:.2} CPUs"))));
    page.line("memory", group.memory_max.show(|max| limit(max, |bytes| units::size(*bytes))));
    page.seen("CPU set", &group.cpuset);
    page.line("usable CPUs", host.usable_cpus().show(|cpus| format!("{cpus:.2}")));
}

fn network(page: &mut Page, host: &Host) {
    let network = &host.network;
    page.section("network");
    page.seen("somaxconn", &network.somaxconn);
    page.seen("SYN backlog", &network.syn_backlog);
    page.line(
        "outbound ports",
        network.port_range.show(|(first, last)| {
            format!("{first}-{last}, so {} connections to one address and port", last - first + 1)
        }),
    );
    page.seen("reuse of ports", &network.tw_reuse);
    match &network.interfaces {
        Seen::Value(interfaces) => interfaces.iter().for_each(|interface| one_interface(page, interface)),
        Seen::Hidden { .. } => page.line("interfaces", network.interfaces.show(|_| String::new())),
    }
}

fn one_interface(page: &mut Page, interface: &Interface) {
    let speed = interface.speed.show(|speed| format!("{speed} Mbit/s"));
    page.line(&interface.name, format!("{}; speed {speed}", interface.driver.show(String::clone)));
    let queues = |queues: &Seen<usize>| queues.show(usize::to_string);
    let steering = interface.steering.show(|cpus| match cpus.len() {
        0 => "no steering by software".into(),
        _ => format!("steered by software to CPUs {cpus}"),
    });
    page.line(
        "  queues",
        format!(
            "{} to receive, {} to send; {steering}; node {}",
            queues(&interface.receive_queues),
            queues(&interface.send_queues),
            interface.node.show(u64::to_string)
        ),
    );
    page.line(
        "  interrupts",
        interface.interrupts.show(|interrupts| {
            let one = |interrupt: &super::network::Interrupt| {
                let to = interrupt.effective.clone().or_else(|| interrupt.affinity.clone());
                format!("{} {} → CPU {}", interrupt.irq, interrupt.name, to.show(ToString::to_string))
            };
            interrupts.iter().map(one).collect::<Vec<_>>().join(", ")
        }),
    );
}

fn disk(page: &mut Page, host: &Host) {
    let disk = &host.disk;
    page.section(&format!("disk under {}", disk.directory));
    page.line(
        "file system",
        format!("{} at {}", disk.file_system.show(String::clone), disk.mounted_at.show(String::clone)),
    );
    page.seen("options", &disk.options);
    page.line("free", disk.free.show(|bytes| units::size(*bytes)));
    page.seen("writable", &disk.writable);
    match &disk.devices {
        Seen::Value(devices) => devices.iter().for_each(|device| one_device(page, device)),
        Seen::Hidden { .. } => page.line("device", disk.devices.show(|_| String::new())),
    }
}

fn one_device(page: &mut Page, device: &Device) {
    page.line(&device.name, format!("{}; model {}", device.kind.name(), device.model.show(String::clone)));
    page.line("  rotational", device.rotational.show(yes));
    page.line("  scheduler", device.scheduler.show(String::clone));
    page.line(
        "  write cache",
        format!(
            "{}; durable single writes (FUA): {}",
            device.write_cache.show(String::clone),
            device.fua.show(yes)
        ),
    );
    page.line("  requests", device.requests.show(u64::to_string));
    page.line("  node", device.node.show(u64::to_string));
}
