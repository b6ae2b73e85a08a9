//! Which CPUs pinned executors take. Two threads of one core share its units and caches, and two nodes have memory of their own, which
//! the kernel gives to a thread from the node that it runs on: so a second thread of a core is taken last, and a node is filled
//! before the next one begins. The order in which the kernel numbers CPUs says neither.

use std::fs;
use std::path::Path;

/// A CPU and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub number: usize,
    /// The lowest number of a CPU of the same core.
    pub core: usize,
    /// The node of its memory.
    pub node: usize,
}

/// PURE. `cpus` in the order in which executors take them.
pub fn order(cpus: &[Cpu]) -> Vec<usize> {
    // How many allowed threads of its core come before it: 0 for the first, whichever that is in this process's set.
    let rank =
        |cpu: &Cpu| cpus.iter().filter(|other| other.core == cpu.core && other.number < cpu.number).count();
    let mut ordered: Vec<_> = cpus.iter().map(|cpu| (rank(cpu), cpu.node, cpu.number)).collect();
    ordered.sort_unstable();
    ordered.into_iter().map(|(_, _, number)| number).collect()
}

/// Where each of `numbers` is, by `system`, which is `/sys/devices/system` on a host. What cannot be seen there, as in some containers, counts as a
/// core of its own and as node 0.
pub fn look(system: &Path, numbers: &[usize]) -> Vec<Cpu> {
    let nodes = nodes(&system.join("node"));
    let cpu = |number: &usize| {
        let siblings = system.join(format!("cpu/cpu{number}/topology/thread_siblings_list"));
        let core = fs::read_to_string(siblings).ok().and_then(|list| cpu_list(&list).into_iter().min());
        let node = nodes.iter().find(|(_, cpus)| cpus.contains(number)).map(|(node, _)| *node);
        Cpu { number: *number, core: core.unwrap_or(*number), node: node.unwrap_or(0) }
    };
    numbers.iter().map(cpu).collect()
}

/// Each node and its CPUs.
fn nodes(directory: &Path) -> Vec<(usize, Vec<usize>)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let node = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        let list = fs::read_to_string(entry.path().join("cpulist")).ok()?;
        Some((number, cpu_list(&list)))
    };
    entries.flatten().filter_map(node).collect()
}

/// The kernel's way to write a set: `0-3,8`. What is no number is left out.
fn cpu_list(text: &str) -> Vec<usize> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree like `/sys/devices/system`: `cores` are the siblings of each core, `nodes` the lists of each node.
    fn tree(cores: &[&str], nodes: &[&str]) -> tempfile::TempDir {
        let tree = tempfile::tempdir().expect("a directory");
        let write = |path: String, text: &str| {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, format!("{text}\n")).expect("a file");
        };
        for siblings in cores {
            for cpu in cpu_list(siblings) {
                write(format!("cpu/cpu{cpu}/topology/thread_siblings_list"), siblings);
            }
        }
        for (node, cpus) in nodes.iter().enumerate() {
            write(format!("node/node{node}/cpulist"), cpus);
        }
        tree
    }

    fn order_of(cores: &[&str], nodes: &[&str], allowed: &[usize]) -> Vec<usize> {
        order(&look(tree(cores, nodes).path(), allowed))
    }

    #[test]
    fn a_second_thread_of_a_core_is_taken_last_however_they_are_numbered() {
        assert_eq!(order_of(&["0-1", "2-3"], &["0-3"], &[0, 1, 2, 3]), [0, 2, 1, 3], "neighbours");
        assert_eq!(order_of(&["0,2", "1,3"], &["0-3"], &[0, 1, 2, 3]), [0, 1, 2, 3], "halves");
    }

    #[test]
    fn a_node_is_filled_before_the_next_one_begins() {
        // Nodes that take turns in the numbering, as some servers have them.
        let nodes = ["0,2,4,6", "1,3,5,7"];
        let cores = ["0,4", "2,6", "1,5", "3,7"];
        assert_eq!(order_of(&cores, &nodes, &[0, 1, 2, 3, 4, 5, 6, 7]), [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn a_core_of_which_only_the_second_thread_is_allowed_counts_as_a_core() {
        assert_eq!(order_of(&["0-1", "2-3"], &["0-3"], &[1, 2, 3]), [1, 2, 3]);
    }

    #[test]
    fn where_nothing_can_be_seen_the_numbers_are_the_order() {
        assert_eq!(order_of(&[], &[], &[3, 5, 7]), [3, 5, 7]);
    }
}
