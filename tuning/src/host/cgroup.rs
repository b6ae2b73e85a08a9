//! PURE over a [`Tree`]. Limits of the control group, version 1 or 2: what a container may use of its host.

use serde::Serialize;

use super::cpu::{self, CpuList};
use super::mount::{Mount, mounts};
use super::seen::Seen;
use super::tree::Tree;

/// What the group allows.
#[derive(Clone, Debug, Serialize)]
pub struct Cgroup {
    /// 1 or 2.
    pub version: Seen<u8>,
    /// CPUs' worth of time, over all CPUs.
    pub cpu_max: Seen<Limit<f64>>,
    /// Bytes.
    pub memory_max: Seen<Limit<u64>>,
    /// CPUs the group may use.
    pub cpuset: Seen<CpuList>,
}

/// A limit, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit<T> {
    /// At most so much.
    Of(T),
    /// As much as there is.
    None,
}

impl<T: PartialOrd> Limit<T> {
    /// The stricter of two.
    fn min(self, other: Self) -> Self {
        match (self, other) {
            (Self::Of(one), Self::Of(two)) => Self::Of(if two < one { two } else { one }),
            (Self::Of(one), Self::None) | (Self::None, Self::Of(one)) => Self::Of(one),
            (Self::None, Self::None) => Self::None,
        }
    }
}

/// Memory limits from here on are version 1's way to say that there is none.
const V1_NO_LIMIT: u64 = 1 << 62;

/// Looks at the group of this process.
pub fn look(tree: &Tree) -> Cgroup {
    let (groups, mounts) = (tree.text("/proc/self/cgroup"), mounts(tree));
    let (Seen::Value(groups), Seen::Value(mounts)) = (&groups, &mounts) else {
        let why = match (groups, mounts) {
            (Seen::Hidden { not_visible }, _) | (_, Seen::Hidden { not_visible }) => not_visible,
            _ => String::new(),
        };
        return nothing(&why);
    };
    // Both may be mounted: a controller lives in one of them, so version 1 counts where its controller is.
    let v1 = |controller: &str| place(groups, mounts, Some(controller));
    let v2 = place(groups, mounts, None);
    let has_v2 = v2.as_ref().is_some_and(|place| tree.has(&format!("{}/cgroup.controllers", place.mount)));
    match (v1("cpu"), v1("memory"), v1("cpuset"), v2) {
        (None, None, None, Some(place)) if has_v2 => of_v2(tree, &place),
        (None, None, None, _) => nothing("no control group file system is mounted here"),
        (cpu, memory, cpuset, _) => Cgroup {
            version: Seen::Value(1),
            cpu_max: limit(tree, cpu.as_ref(), "cpu.cfs_quota_us", v1_quota),
            memory_max: limit(tree, memory.as_ref(), "memory.limit_in_bytes", |tree, folder| {
                tree.number(&format!("{folder}/memory.limit_in_bytes"))
                    .map(|bytes| if bytes >= V1_NO_LIMIT { Limit::None } else { Limit::Of(bytes) })
            }),
            cpuset: cpuset_of(tree, cpuset.as_ref(), &["cpuset.effective_cpus", "cpuset.cpus"]),
        },
    }
}

fn nothing(why: &str) -> Cgroup {
    Cgroup {
        version: Seen::hidden(why),
        cpu_max: Seen::hidden(why),
        memory_max: Seen::hidden(why),
        cpuset: Seen::hidden(why),
    }
}

/// Where a group's files are.
struct Place {
    mount: String,
    /// Below the mount, without slashes around it.
    inside: String,
}

impl Place {
    /// The group's own folder, then those above it up to the mount.
    fn folders(&self) -> Vec<String> {
        let names: Vec<_> = self.inside.split('/').filter(|name| !name.is_empty()).collect();
        (0..=names.len())
            .rev()
            .map(|count| [&[self.mount.as_str()], &names[..count]].concat().join("/"))
            .collect()
    }
}

/// The group of a version 1 controller, or of version 2.
fn place(groups: &str, mounts: &[Mount], controller: Option<&str>) -> Option<Place> {
    let has = |list: &str, name: &str| list.split(',').any(|found| found == name);
    let path = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, list, path) = (parts.next()?, parts.next()?, parts.next()?);
        let fits = controller.map_or(list.is_empty(), |name| has(list, name));
        fits.then_some(path)
    })?;
    let mount = mounts.iter().find(|mount| match controller {
        Some(name) => mount.kind == "cgroup" && has(&mount.super_options, name),
        None => mount.kind == "cgroup2",
    })?;
    // A container sees its own group at the mount, under a path that is the host's.
    let inside = match mount.root.as_str() {
        "/" => path,
        root => path.strip_prefix(root).unwrap_or(""),
    };
    // `/..` means that the group lies outside of this namespace.
    let inside = if inside.contains("..") { "" } else { inside };
    Some(Place { mount: mount.point.clone(), inside: inside.trim_matches('/').to_owned() })
}

/// The strictest limit on the way up. A group's root has no such files, so those that are missing are passed over.
fn limit<T: PartialOrd>(
    tree: &Tree,
    place: Option<&Place>,
    file: &str,
    read: impl Fn(&Tree, &str) -> Seen<Limit<T>>,
) -> Seen<Limit<T>> {
    let Some(place) = place else { return Seen::hidden(format!("no controller offers {file}")) };
    let folders = place.folders();
    let mut found: Option<Limit<T>> = None;
    for folder in &folders {
        if let Seen::Value(limit) = read(tree, folder) {
            found = Some(match found {
                Some(other) => other.min(limit),
                None => limit,
            });
        }
    }
    match found {
        Some(limit) => Seen::Value(limit),
        // The root group of a host has no limits at all.
        None if place.inside.is_empty() && tree.has(&format!("{}/cgroup.procs", place.mount)) => {
            Seen::Value(Limit::None)
        }
        None => Seen::hidden(format!("{}/{file} is not there", folders[0])),
    }
}

fn of_v2(tree: &Tree, place: &Place) -> Cgroup {
    Cgroup {
        version: Seen::Value(2),
        cpu_max: limit(tree, Some(place), "cpu.max", |tree, folder| {
            tree.text(&format!("{folder}/cpu.max")).and_then(|text| v2_quota(&text))
        }),
        memory_max: limit(tree, Some(place), "memory.max", |tree, folder| {
            tree.text(&format!("{folder}/memory.max")).and_then(|text| match text.as_str() {
                "max" => Seen::Value(Limit::None),
                text => text
                    .parse()
                    .map_or_else(|_| Seen::hidden("no number"), |bytes| Seen::Value(Limit::Of(bytes))),
            })
        }),
        cpuset: cpuset_of(tree, Some(place), &["cpuset.cpus.effective", "cpuset.cpus"]),
    }
}

/// `max 100000` or `150000 100000`.
fn v2_quota(text: &str) -> Seen<Limit<f64>> {
    let mut words = text.split_whitespace();
    match (words.next(), words.next().map(str::parse::<f64>)) {
        (Some("max"), _) => Seen::Value(Limit::None),
        (Some(quota), Some(Ok(period))) if period > 0.0 => match quota.parse::<f64>() {
            Ok(quota) => Seen::Value(Limit::Of(quota / period)),
            Err(_) => Seen::hidden(format!("cpu.max holds {text}")),
        },
        _ => Seen::hidden(format!("cpu.max holds {text}")),
    }
}

fn v1_quota(tree: &Tree, folder: &str) -> Seen<Limit<f64>> {
    let quota = tree.text(&format!("{folder}/cpu.cfs_quota_us"));
    let period = tree.number(&format!("{folder}/cpu.cfs_period_us"));
    match (quota, period) {
        // -1: no limit.
        (Seen::Value(quota), _) if quota.starts_with('-') => Seen::Value(Limit::None),
        (Seen::Value(quota), Seen::Value(period)) => match quota.parse::<f64>() {
            Ok(quota) if period > 0 => Seen::Value(Limit::Of(quota / period as f64)),
            _ => Seen::hidden(format!("cpu.cfs_quota_us holds {quota}")),
        },
        (Seen::Hidden { not_visible }, _) | (_, Seen::Hidden { not_visible }) => Seen::hidden(not_visible),
    }
}

fn cpuset_of(tree: &Tree, place: Option<&Place>, files: &[&str]) -> Seen<CpuList> {
    let Some(place) = place else { return Seen::hidden("no cpuset controller") };
    let mut first = None;
    for folder in place.folders() {
        for file in files {
            match cpu::cpu_list(tree, &format!("{folder}/{file}")) {
                Seen::Value(list) => return Seen::Value(list),
                Seen::Hidden { not_visible } => first = first.or(Some(not_visible)),
            }
        }
    }
    Seen::hidden(first.unwrap_or_default())
}
