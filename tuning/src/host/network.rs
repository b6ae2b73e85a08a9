//! PURE over a [`Tree`]. Network interfaces, their queues and interrupts, and the kernel's limits for sockets.

use serde::Serialize;

use super::cpu::{self, CpuList};
use super::seen::Seen;
use super::tree::Tree;

const NET: &str = "/sys/class/net";

/// The network.
#[derive(Clone, Debug, Serialize)]
pub struct Network {
    /// Interfaces with a device behind them; loopback, bridges and tunnels have none.
    pub interfaces: Seen<Vec<Interface>>,
    /// `net.core.somaxconn`: connections that may wait to be accepted at one socket.
    pub somaxconn: Seen<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub syn_backlog: Seen<u64>,
    /// `net.ipv4.ip_local_port_range`: ports for outbound connections.
    pub port_range: Seen<(u64, u64)>,
    /// `net.ipv4.tcp_tw_reuse`: whether such a port may be used again within a minute of its last connection.
    pub tw_reuse: Seen<u64>,
}

/// One interface.
#[derive(Clone, Debug, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: Seen<String>,
    /// Mbit/s; virtual ones often have none.
    pub speed: Seen<u64>,
    /// Receive queues.
    pub receive_queues: Seen<usize>,
    /// Send queues.
    pub send_queues: Seen<usize>,
    /// CPUs that share the work of receiving by software; empty without it.
    pub steering: Seen<CpuList>,
    /// NUMA node of its slot.
    pub node: Seen<u64>,
    /// Its interrupts.
    pub interrupts: Seen<Vec<Interrupt>>,
}

/// One interrupt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interrupt {
    /// Number.
    pub irq: u64,
    /// What the driver calls it.
    pub name: String,
    /// CPUs it may go to.
    pub affinity: Seen<CpuList>,
    /// CPUs it does go to.
    pub effective: Seen<CpuList>,
}

/// Looks at the network.
pub fn look(tree: &Tree) -> Network {
    let number = |name: &str| tree.number(&format!("/proc/sys/net/{name}"));
    Network {
        interfaces: interfaces(tree),
        somaxconn: number("core/somaxconn"),
        syn_backlog: number("ipv4/tcp_max_syn_backlog"),
        port_range: tree.text("/proc/sys/net/ipv4/ip_local_port_range").and_then(|text| {
            let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            match numbers[..] {
                [first, last] if first <= last => Seen::Value((first, last)),
                _ => Seen::hidden(format!("ip_local_port_range holds {text}")),
            }
        }),
        tw_reuse: number("ipv4/tcp_tw_reuse"),
    }
}

fn interfaces(tree: &Tree) -> Seen<Vec<Interface>> {
    tree.names(NET).and_then(|names| {
        let real: Vec<_> = names.iter().filter(|name| tree.has(&format!("{NET}/{name}/device"))).collect();
        if real.is_empty() {
            return Seen::hidden(format!("no interface of {NET} has a device: a container's are the host's"));
        }
        let lines = tree.text("/proc/interrupts");
        Seen::Value(real.into_iter().map(|name| interface(tree, name, &lines)).collect())
    })
}

fn interface(tree: &Tree, name: &str, lines: &Seen<String>) -> Interface {
    let file = |what: &str| format!("{NET}/{name}/{what}");
    let queues = |kind: &str| {
        tree.names(&file("queues")).map(|names| names.iter().filter(|name| name.starts_with(kind)).count())
    };
    Interface {
        driver: tree.link_name(&file("device/driver")),
        // -1: unknown.
        speed: tree.number(&file("speed")),
        receive_queues: queues("rx-"),
        send_queues: queues("tx-"),
        steering: steering(tree, name),
        node: tree.number(&file("device/numa_node")),
        interrupts: interrupts(tree, name, lines),
        name: name.to_owned(),
    }
}

/// The union of `rps_cpus` over all receive queues: masks of 32 bits in hex, the highest first.
fn steering(tree: &Tree, name: &str) -> Seen<CpuList> {
    let folder = format!("{NET}/{name}/queues");
    tree.names(&folder).and_then(|names| {
        let mut cpus = std::collections::BTreeSet::new();
        for queue in names.iter().filter(|name| name.starts_with("rx-")) {
            match tree.text(&format!("{folder}/{queue}/rps_cpus")) {
                Seen::Value(mask) => cpus.extend(mask_cpus(&mask)),
                Seen::Hidden { not_visible } => return Seen::hidden(not_visible),
            }
        }
        Seen::Value(CpuList(cpus.into_iter().collect()))
    })
}

fn mask_cpus(mask: &str) -> Vec<usize> {
    let words = mask.split(',').rev().map(|word| u32::from_str_radix(word.trim(), 16).unwrap_or(0));
    words
        .enumerate()
        .flat_map(|(nth, word)| {
            (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| nth * 32 + bit)
        })
        .collect()
}

/// The device's message-signalled interrupts, or else those that `/proc/interrupts` lists under its name.
fn interrupts(tree: &Tree, name: &str, lines: &Seen<String>) -> Seen<Vec<Interrupt>> {
    let own = tree.names(&format!("{NET}/{name}/device/msi_irqs"));
    // A virtio device has its interrupts under its own name, in a slot that is its parent.
    let device = tree.link_name(&format!("{NET}/{name}/device"));
    let device = device.value().map_or("", String::as_str);
    lines.clone().and_then(|lines| {
        let mut found = Vec::new();
        for (irq, action) in lines.lines().filter_map(interrupt_line) {
            let by_number = own.value().is_some_and(|own| own.contains(&irq.to_string()));
            let by_name = action.split(['-', '@', ':', ',']).any(|part| part == name || part == device);
            if (by_number || by_name) && !action.ends_with("-config") {
                let file = |what: &str| cpu::cpu_list(tree, &format!("/proc/irq/{irq}/{what}"));
                let (affinity, effective) = (file("smp_affinity_list"), file("effective_affinity_list"));
                found.push(Interrupt { irq, name: action.to_owned(), affinity, effective });
            }
        }
        if found.is_empty() {
            return Seen::hidden(format!("/proc/interrupts names none of {name}"));
        }
        Seen::Value(found)
    })
}

/// Number and name: ` 38:  0  4214 PCI-MSIX-0000:00:03.0  1-edge  virtio2-input.0`.
fn interrupt_line(line: &str) -> Option<(u64, &str)> {
    let (irq, rest) = line.split_once(':')?;
    Some((irq.trim().parse().ok()?, rest.split_whitespace().last()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_of_many_cpus_are_read_from_the_right() {
        assert_eq!(mask_cpus("3"), [0, 1]);
        assert_eq!(mask_cpus("00000001,80000000"), [31, 32]);
        assert_eq!(mask_cpus("0"), [0usize; 0]);
    }
}
