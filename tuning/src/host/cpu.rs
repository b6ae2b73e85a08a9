//! PURE over a [`Tree`]. CPUs, their threads, caches and NUMA nodes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::seen::Seen;
use super::tree::Tree;

const CPUS: &str = "/sys/devices/system/cpu";
const NODES: &str = "/sys/devices/system/node";

/// The processors.
#[derive(Clone, Debug, Serialize)]
pub struct Cpus {
    /// Name of the first one.
    pub model: Seen<String>,
    /// Those that run.
    pub online: Seen<CpuList>,
    /// Those this process may run on.
    pub allowed: Seen<CpuList>,
    /// Packages in their sockets.
    pub sockets: Seen<usize>,
    /// Cores, over all sockets.
    pub cores: Seen<usize>,
    /// Hardware threads that share a core; 1 without SMT.
    pub threads_per_core: Seen<usize>,
    /// The online CPUs, by core: the first list is of one thread of each core.
    pub cores_first: Seen<CpuList>,
    /// Caches of the first CPU.
    pub caches: Seen<Vec<Cache>>,
    /// NUMA nodes.
    pub nodes: Seen<Vec<Node>>,
}

/// Numbers of CPUs in rising order; shown as the kernel does (`0-3,8`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

/// A cache of the first CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// 1 is nearest.
    pub level: u64,
    /// Data, Instruction or Unified.
    pub kind: String,
    /// As the kernel writes it: `32K`.
    pub size: String,
    /// How many CPUs share it.
    pub shared_by: usize,
}

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its number.
    pub node: u64,
    /// Its CPUs.
    pub cpus: CpuList,
    /// Its memory.
    pub memory_kib: Seen<u64>,
}

impl CpuList {
    /// Reads the kernel's form.
    pub fn parse(text: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            // A host has some thousand at most: a damaged file must not fill the memory.
            if last < first || last > 1 << 16 {
                return None;
            }
            cpus.extend(first..=last);
        }
        Some(Self(cpus.into_iter().collect()))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl std::fmt::Display for CpuList {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = self.0.as_slice();
        let mut comma = "";
        while let [first, ..] = rest {
            let run = rest.iter().zip(*first..).take_while(|(cpu, expected)| *cpu == expected).count();
            match run {
                1 => write!(out, "{comma}{first}")?,
                _ => write!(out, "{comma}{first}-{}", first + run - 1)?,
            }
            (rest, comma) = (&rest[run..], ",");
        }
        Ok(())
    }
}

impl Serialize for CpuList {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A file with a list of CPUs.
pub fn cpu_list(tree: &Tree, path: &str) -> Seen<CpuList> {
    tree.text(path).and_then(|text| match CpuList::parse(&text) {
        Some(list) => Seen::Value(list),
        None => Seen::hidden(format!("{path} holds no list of CPUs: {text}")),
    })
}

/// Looks at the CPUs.
pub fn look(tree: &Tree) -> Cpus {
    let online = cpu_list(tree, &format!("{CPUS}/online")).or_else(|| from_cpuinfo(tree));
    let topology = online.clone().and_then(|online| topology(tree, &online));
    Cpus {
        model: model(tree),
        allowed: allowed(tree),
        sockets: topology
            .clone()
            .map(|cores| cores.keys().map(|(socket, _)| socket).collect::<BTreeSet<_>>().len()),
        cores: topology.clone().map(|cores| cores.len()),
        threads_per_core: topology.clone().map(|cores| cores.values().map(Vec::len).max().unwrap_or(1)),
        cores_first: topology.map(|cores| {
            let most = cores.values().map(Vec::len).max().unwrap_or(0);
            CpuList(
                (0..most)
                    .flat_map(|nth| cores.values().filter_map(move |core| core.get(nth).copied()))
                    .collect(),
            )
        }),
        caches: caches(tree),
        nodes: nodes(tree),
        online,
    }
}

/// The value behind `key :` in a file such as `/proc/cpuinfo`; the first one.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.trim() == key)
        .map(|(_, value)| value.trim())
}

fn model(tree: &Tree) -> Seen<String> {
    tree.text("/proc/cpuinfo").and_then(|text| {
        if let Some(name) = field(&text, "model name").or_else(|| field(&text, "Model")) {
            return Seen::Value(name.to_owned());
        }
        // ARM hosts give numbers only.
        match (field(&text, "CPU implementer"), field(&text, "CPU part")) {
            (Some(implementer), Some(part)) => Seen::Value(format!("implementer {implementer}, part {part}")),
            _ => Seen::hidden("/proc/cpuinfo names no model"),
        }
    })
}

fn from_cpuinfo(tree: &Tree) -> Seen<CpuList> {
    tree.text("/proc/cpuinfo").and_then(|text| {
        let count = text.lines().filter(|line| line.starts_with("processor")).count();
        match count {
            0 => Seen::hidden("/proc/cpuinfo lists no processor"),
            count => Seen::Value(CpuList((0..count).collect())),
        }
    })
}

fn allowed(tree: &Tree) -> Seen<CpuList> {
    tree.text("/proc/self/status").and_then(|text| {
        match field(&text, "Cpus_allowed_list").and_then(CpuList::parse) {
            Some(list) => Seen::Value(list),
            None => Seen::hidden("/proc/self/status has no Cpus_allowed_list"),
        }
    })
}

/// Socket and core → its CPUs.
type Cores = BTreeMap<(u64, u64), Vec<usize>>;

fn topology(tree: &Tree, online: &CpuList) -> Seen<Cores> {
    let mut cores = Cores::new();
    for cpu in &online.0 {
        let number = |name: &str| tree.number(&format!("{CPUS}/cpu{cpu}/topology/{name}"));
        match (number("physical_package_id"), number("core_id")) {
            (Seen::Value(socket), Seen::Value(core)) => cores.entry((socket, core)).or_default().push(*cpu),
            (Seen::Hidden { not_visible }, _) | (_, Seen::Hidden { not_visible }) => {
                return Seen::hidden(not_visible);
            }
        }
    }
    Seen::Value(cores)
}

fn caches(tree: &Tree) -> Seen<Vec<Cache>> {
    let folder = format!("{CPUS}/cpu0/cache");
    tree.names(&folder).and_then(|names| {
        let mut caches = Vec::new();
        for name in names.iter().filter(|name| name.starts_with("index")) {
            let file = |what: &str| format!("{folder}/{name}/{what}");
            let level = tree.number(&file("level"));
            let (kind, size) = (tree.text(&file("type")), tree.text(&file("size")));
            let shared = cpu_list(tree, &file("shared_cpu_list"));
            if let (Seen::Value(level), Seen::Value(kind), Seen::Value(size)) = (level, kind, size) {
                caches.push(Cache { level, kind, size, shared_by: shared.value().map_or(1, CpuList::len) });
            }
        }
        if caches.is_empty() { Seen::hidden(format!("{folder} holds no cache")) } else { Seen::Value(caches) }
    })
}

fn nodes(tree: &Tree) -> Seen<Vec<Node>> {
    cpu_list(tree, &format!("{NODES}/online")).map(|nodes| {
        let node = |node: usize| Node {
            node: node as u64,
            cpus: cpu_list(tree, &format!("{NODES}/node{node}/cpulist")).value().cloned().unwrap_or_default(),
            memory_kib: memory(tree, node),
        };
        nodes.0.into_iter().map(node).collect()
    })
}

fn memory(tree: &Tree, node: usize) -> Seen<u64> {
    let path = format!("{NODES}/node{node}/meminfo");
    tree.text(&path).and_then(|text| {
        let line = text.lines().find(|line| line.contains("MemTotal:"));
        match line.and_then(|line| line.split_whitespace().rev().nth(1)).and_then(|kib| kib.parse().ok()) {
            Some(kib) => Seen::Value(kib),
            None => Seen::hidden(format!("{path} has no MemTotal")),
        }
    })
}
