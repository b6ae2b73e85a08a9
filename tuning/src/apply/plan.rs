//! PURE. What to change on a host: files with their content, each line with its reason, and how to undo each.

use std::fmt::Write as _;

use ringpost::net::executor::MEMLOCK_PER_EXECUTOR;
use ringpost::net::listener::BACKLOG;

use crate::check::Wanted;
use crate::host::cpu::CpuList;
use crate::host::network::Interface;
use crate::host::{Host, Limit, Seen};

/// Where the settings of the kernel go.
pub const SYSCTL: &str = "etc/sysctl.d/60-ringpost.conf";
/// Where the limits of the service go.
pub const DROP_IN: &str = "etc/systemd/system/ringpost.service.d/60-tuning.conf";
/// Where the interrupts' script goes.
pub const SCRIPT: &str = "usr/local/sbin/ringpost-irq-affinity";
/// An executor's rings, and four times as much for its registered buffers of 2 MiB.
const MEMLOCK_FACTOR: u64 = 5;
/// First port of the range for outbound connections: above those that services listen on.
const PORT_FIRST: u64 = 10_240;

/// A file that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Below the root, without a leading slash.
    pub path: &'static str,
    /// What it holds.
    pub content: String,
    /// Whether it is a program.
    pub is_script: bool,
    /// What makes it count.
    pub activate: String,
    /// What takes it back once the file is gone; of what is in the kernel, as it is now.
    pub restore: Vec<String>,
}

/// Everything that is worth changing; a file without a line is left out.
pub fn plan(host: &Host, wanted: &Wanted) -> Vec<Planned> {
    [sysctl(host), Some(drop_in(host, wanted)), interrupts(host)].into_iter().flatten().collect()
}

/// A line with its reason above it.
fn line(content: &mut String, reason: &str, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(content, "# {reason}\n{line}");
}

fn sysctl(host: &Host) -> Option<Planned> {
    let (mut content, mut restore) = (HEAD.to_owned(), Vec::new());
    let mut set = |key: &str, now: String, value: String, reason: &str| {
        line(&mut content, &format!("{reason} Now: {now}."), &format!("{key} = {value}"));
        restore.push(format!("sysctl -w {key}='{now}'"));
    };
    let backlog = u64::from(BACKLOG.unsigned_abs());
    if let Seen::Value(now) = host.network.somaxconn
        && now < backlog
    {
        let reason =
            "Connections that may wait to be accepted; beyond it a burst waits a second for its second try.";
        set("net.core.somaxconn", now.to_string(), backlog.to_string(), reason);
    }
    if let Seen::Value(now) = host.network.syn_backlog
        && now < backlog
    {
        let reason = "Handshakes that may be under way; beyond it each costs a cookie, which has no room for all TCP options.";
        set("net.ipv4.tcp_max_syn_backlog", now.to_string(), backlog.to_string(), reason);
    }
    if let Seen::Value((first, last)) = host.network.port_range
        && first > PORT_FIRST
    {
        let reason = "Ports for outbound connections: each is kept for 60 s after its connection.";
        set("net.ipv4.ip_local_port_range", format!("{first} {last}"), format!("{PORT_FIRST} 65535"), reason);
    }
    if let Seen::Value(now @ 1..) = host.kernel.io_uring_disabled {
        let reason = "The relay does nothing without io_uring. It opens it to all users: weigh that on a host with others.";
        set("kernel.io_uring_disabled", now.to_string(), "0".into(), reason);
    }
    (!restore.is_empty()).then(|| Planned {
        path: SYSCTL,
        content,
        is_script: false,
        activate: format!("sysctl -p /{SYSCTL}"),
        restore,
    })
}

const HEAD: &str = "# Written by ringpost-tune apply; ringpost-tune apply --undo takes it back.\n";

fn drop_in(host: &Host, wanted: &Wanted) -> Planned {
    let mut content = format!("{HEAD}[Service]\n");
    let bytes = wanted.executors * MEMLOCK_PER_EXECUTOR * MEMLOCK_FACTOR;
    let reason =
        format!("Rings and registered buffers of {} executors are locked in memory.", wanted.executors);
    line(&mut content, &reason, &format!("LimitMEMLOCK={bytes}"));
    let reason = "A descriptor for each connection: limits.connections_max, and as many outbound.";
    line(&mut content, reason, &format!("LimitNOFILE={}", wanted.descriptors));
    if let Some((cpus, reason)) = affinity(host, wanted.executors as usize) {
        line(&mut content, &reason, &format!("CPUAffinity={}", spaced(&cpus)));
    }
    Planned {
        path: DROP_IN,
        content,
        is_script: false,
        activate: "systemctl daemon-reload && systemctl restart ringpost".into(),
        restore: vec!["systemctl daemon-reload && systemctl restart ringpost".into()],
    }
}

fn spaced(cpus: &CpuList) -> String {
    cpus.0.iter().map(usize::to_string).collect::<Vec<_>>().join(" ")
}

/// CPUs for so many executors: one of each core first, and within one NUMA node if they fit there. `None` if that is all CPUs, or
/// nothing is known of cores.
fn affinity(host: &Host, executors: usize) -> Option<(CpuList, String)> {
    let cores = host.cpus.cores_first.value()?;
    let allowed = host.cpus.allowed.value()?;
    if executors >= allowed.len() {
        return None;
    }
    let on = |node: Option<&CpuList>| {
        let fits = |cpu: &&usize| allowed.0.contains(cpu) && node.is_none_or(|node| node.0.contains(cpu));
        CpuList(cores.0.iter().filter(fits).take(executors).copied().collect())
    };
    let mut nodes: Vec<_> = host.cpus.nodes.value().into_iter().flatten().collect();
    // The network's node first: a packet's memory is there.
    let near = host.network.interfaces.value().and_then(|all| all.iter().find_map(|one| one.node.value()));
    nodes.sort_by_key(|node| Some(&node.node) != near);
    let one_node =
        nodes.iter().filter(|_| nodes.len() > 1).find(|node| on(Some(&node.cpus)).len() == executors);
    let mut cpus = on(one_node.map(|node| &node.cpus));
    if cpus.len() < executors {
        return None;
    }
    cpus.0.sort_unstable();
    let place = one_node.map_or_else(String::new, |node| {
        format!(" of NUMA node {}, so that no message crosses between sockets", node.node)
    });
    Some((
        cpus,
        format!(
            "One CPU for each executor, one thread of a core first{place}. threads.pin takes them in this order."
        ),
    ))
}

/// One CPU for each interrupt of interfaces with several queues, within the network's own node.
fn interrupts(host: &Host) -> Option<Planned> {
    let mut content = format!(
        "#!/bin/sh\n{HEAD}# Run it at boot, after irqbalance has been turned off: that would move them again.\n"
    );
    let mut restore = Vec::new();
    let cores = host.cpus.cores_first.value()?;
    for interface in host.network.interfaces.value()? {
        spread(host, cores, interface, &mut content, &mut restore);
    }
    (!restore.is_empty()).then(|| Planned {
        path: SCRIPT,
        content,
        is_script: true,
        activate: format!("/{SCRIPT}, and a unit that runs it at boot"),
        restore,
    })
}

fn spread(
    host: &Host,
    cores: &CpuList,
    interface: &Interface,
    content: &mut String,
    restore: &mut Vec<String>,
) {
    let Some(interrupts) = interface.interrupts.value() else { return };
    if interface.receive_queues.value().is_none_or(|queues| *queues < 2) {
        return;
    }
    let node = interface.node.value().and_then(|number| {
        let nodes = host.cpus.nodes.value()?;
        nodes.iter().find(|node| node.node == *number).map(|node| &node.cpus)
    });
    let near: Vec<usize> =
        cores.0.iter().filter(|cpu| node.is_none_or(|node| node.0.contains(cpu))).copied().collect();
    if near.is_empty() {
        return;
    }
    let place = interface.node.value().map_or_else(String::new, |node| format!(" of its node {node}"));
    let _ = writeln!(
        content,
        "# {}: each interrupt to a CPU of its own{place}; one CPU that takes all packets is full first.",
        interface.name
    );
    for (interrupt, cpu) in interrupts.iter().zip(near.iter().cycle()) {
        let Seen::Value(now) = &interrupt.affinity else { continue };
        let _ = writeln!(
            content,
            "echo {cpu} > /proc/irq/{}/smp_affinity_list # {}, now {now}",
            interrupt.irq, interrupt.name
        );
        restore.push(format!("echo {now} > /proc/irq/{}/smp_affinity_list", interrupt.irq));
    }
}

/// What of the plan a service that was started already would not get: its hard limits are what they are.
pub fn hints(host: &Host, wanted: &Wanted) -> Vec<String> {
    let mut hints = Vec::new();
    if let Seen::Value((_, Limit::Of(hard))) = host.kernel.nofile
        && hard < wanted.descriptors
    {
        hints.push(format!(
            "a shell here gets at most {hard} descriptors; the drop-in is for the service only"
        ));
    }
    hints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::shapes;

    fn wanted(executors: u64) -> Wanted {
        Wanted { executors, descriptors: 21_024, spool_free: 1, memory: 1, messages_per_connection: 100 }
    }

    fn of<'a>(plan: &'a [Planned], path: &str) -> &'a str {
        plan.iter().find(|file| file.path == path).map_or("", |file| &file.content)
    }

    #[test]
    fn a_server_gets_its_settings_its_near_cpus_and_spread_interrupts() {
        let plan = plan(&shapes::server_with_two_sockets().host("/spool"), &wanted(8));
        let sysctl = of(&plan, SYSCTL);
        assert!(
            sysctl.contains("net.core.somaxconn = 4096") && sysctl.contains("io_uring_disabled = 0"),
            "{sysctl}"
        );
        assert!(!sysctl.contains("tcp_max_syn_backlog"), "it is right already: {sysctl}");
        let limits = of(&plan, DROP_IN);
        assert!(
            limits.contains("LimitMEMLOCK=20971520\n") && limits.contains("LimitNOFILE=21024\n"),
            "{limits}"
        );
        // The network is on node 1: its first threads of cores.
        assert!(limits.contains("CPUAffinity=16 17 18 19 20 21 22 23\n"), "{limits}");
        let script = of(&plan, SCRIPT);
        assert!(
            script.contains("echo 16 > /proc/irq/100/") && script.contains("echo 19 > /proc/irq/103/"),
            "{script}"
        );
    }

    #[test]
    fn more_executors_than_a_node_has_cores_take_threads_or_the_other_node() {
        let host = shapes::server_with_two_sockets().host("/spool");
        let cpus = |count| affinity(&host, count).expect("room").0.to_string();
        assert_eq!(cpus(16), "16-31");
        assert_eq!(cpus(20), "16-31,48-51", "second threads of the same node are nearer than the other node");
        assert_eq!(cpus(40), "0-39", "too many for a node: first threads of both");
        assert!(affinity(&host, 64).is_none(), "all CPUs need no line");
    }

    #[test]
    fn each_line_has_its_reason_and_each_setting_its_way_back() {
        for shape in
            [shapes::small_virtual_machine(), shapes::server_with_two_sockets(), shapes::arm_in_a_cloud()]
        {
            for file in plan(&shape.host("/spool"), &wanted(2)) {
                let lines: Vec<_> = file.content.lines().collect();
                for pair in lines.windows(2).filter(|pair| pair[1].contains('=') && !pair[1].starts_with('#'))
                {
                    assert!(pair[0].starts_with("# "), "no reason: {}", pair[1]);
                }
                let settings =
                    lines.iter().filter(|line| line.contains(" = ") || line.starts_with("echo")).count();
                assert!(file.restore.len() >= settings, "{file:?}");
            }
        }
    }

    #[test]
    fn a_container_that_cannot_see_its_interfaces_gets_no_script() {
        let plan = plan(&shapes::container().host("/var/spool/ringpost"), &wanted(2));
        assert_eq!(plan.iter().map(|file| file.path).collect::<Vec<_>>(), [SYSCTL, DROP_IN]);
    }
}
