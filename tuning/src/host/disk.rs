//! PURE over a [`Tree`]. The file system that holds a directory, and the disks below it.

use serde::Serialize;

use super::mount::{self, Mount};
use super::seen::Seen;
use super::tree::Tree;

/// Where a directory is kept.
#[derive(Clone, Debug, Serialize)]
pub struct Disk {
    /// The directory that was asked about, or the nearest one above it that exists.
    pub directory: String,
    /// Type of its file system.
    pub file_system: Seen<String>,
    /// Where that is mounted.
    pub mounted_at: Seen<String>,
    /// Options of the mount and of the file system.
    pub options: Seen<String>,
    /// Bytes free for this user.
    pub free: Seen<u64>,
    /// Whether this user may write there: `yes`, or why not.
    pub writable: Seen<String>,
    /// The disks; more than one behind a RAID or a volume.
    pub devices: Seen<Vec<Device>>,
}

/// A block device.
#[derive(Clone, Debug, Serialize)]
pub struct Device {
    /// Its name in `/sys/block`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// As its maker calls it.
    pub model: Seen<String>,
    /// Whether it says that it turns. Virtual disks often say so and do not.
    pub rotational: Seen<bool>,
    /// The I/O scheduler in use.
    pub scheduler: Seen<String>,
    /// `write back`: a write is acknowledged from a volatile cache, so each sync waits for a flush.
    pub write_cache: Seen<String>,
    /// Whether one write can be made durable without flushing everything else.
    pub fua: Seen<bool>,
    /// Requests that may wait.
    pub requests: Seen<u64>,
    /// NUMA node of its slot.
    pub node: Seen<u64>,
}

/// By its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// On PCIe.
    Nvme,
    /// SATA, SAS, USB, or a hypervisor's SCSI.
    Scsi,
    /// A hypervisor's.
    Virtio,
    /// Xen's.
    Xen,
    /// A file.
    Loop,
    /// Memory.
    Memory,
    /// Another.
    Other,
}

impl Kind {
    fn of(name: &str) -> Self {
        match name {
            name if name.starts_with("nvme") => Self::Nvme,
            name if name.starts_with("sd") => Self::Scsi,
            name if name.starts_with("vd") => Self::Virtio,
            name if name.starts_with("xvd") => Self::Xen,
            name if name.starts_with("loop") => Self::Loop,
            name if name.starts_with("ram") || name.starts_with("zram") || name.starts_with("pmem") => {
                Self::Memory
            }
            _ => Self::Other,
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvme => "NVMe",
            Self::Scsi => "SCSI or SATA",
            Self::Virtio => "virtio",
            Self::Xen => "Xen",
            Self::Loop => "a file (loop device)",
            Self::Memory => "memory",
            Self::Other => "other",
        }
    }
}

/// Looks at what holds `directory`, which is absolute and free of links.
pub fn look(tree: &Tree, directory: &str, free: Seen<u64>, writable: Seen<String>) -> Disk {
    let mount = mount::mounts(tree).and_then(|mounts| match mount::holding(&mounts, directory) {
        Some(mount) => Seen::Value(mount.clone()),
        None => Seen::hidden(format!("no mount holds {directory}")),
    });
    Disk {
        directory: directory.to_owned(),
        file_system: mount.clone().map(|mount| mount.kind),
        mounted_at: mount.clone().map(|mount| mount.point),
        options: mount.clone().map(|mount| joined(&mount.options, &mount.super_options)),
        free,
        writable,
        devices: mount.and_then(|mount| devices(tree, &mount)),
    }
}

/// The options of both, each once.
fn joined(mount: &str, file_system: &str) -> String {
    let mut options: Vec<&str> = Vec::new();
    for option in mount.split(',').chain(file_system.split(',')) {
        if !options.contains(&option) && !option.is_empty() {
            options.push(option);
        }
    }
    options.join(",")
}

fn devices(tree: &Tree, mount: &Mount) -> Seen<Vec<Device>> {
    let name = match tree.link_name(&format!("/sys/dev/block/{}", mount.device)) {
        Seen::Value(name) => Some(name),
        // btrfs has a number of its own, and overlay no device at all.
        Seen::Hidden { .. } => mount.source.strip_prefix("/dev/").map(str::to_owned),
    };
    let Some(name) = name.filter(|name| tree.has(&place(tree, name))) else {
        return Seen::hidden(match mount.kind.as_str() {
            "tmpfs" | "ramfs" => "it is memory".to_owned(),
            "overlay" => {
                "an overlay shows nothing of the disk below it: name a directory of a volume".to_owned()
            }
            _ => format!("/sys shows no device {} ({})", mount.device, mount.source),
        });
    };
    let mut found = Vec::new();
    physical(tree, &name, &mut found, 0);
    Seen::Value(found.iter().map(|name| device(tree, name)).collect())
}

/// A disk's folder. A partition's is within its disk's, and `/sys/class/block` links both.
fn place(tree: &Tree, name: &str) -> String {
    let whole = format!("/sys/block/{name}");
    if tree.has(&whole) { whole } else { format!("/sys/class/block/{name}") }
}

/// Goes down through volumes and RAIDs, and from a partition to its disk.
fn physical(tree: &Tree, name: &str, found: &mut Vec<String>, depth: usize) {
    let folder = place(tree, name);
    let slaves = tree.names(&format!("{folder}/slaves"));
    match slaves.value().filter(|slaves| !slaves.is_empty() && depth < 8) {
        Some(slaves) => slaves.iter().for_each(|slave| physical(tree, slave, found, depth + 1)),
        None => {
            let disk = if tree.has(&format!("{folder}/partition")) { disk_of(name) } else { name };
            if !found.iter().any(|known| known == disk) {
                found.push(disk.to_owned());
            }
        }
    }
}

/// `nvme0n1p2` → `nvme0n1`, `sda1` → `sda`.
fn disk_of(partition: &str) -> &str {
    let stem = partition.trim_end_matches(|c: char| c.is_ascii_digit());
    match stem.strip_suffix('p') {
        Some(disk) if disk.ends_with(|c: char| c.is_ascii_digit()) => disk,
        _ => stem,
    }
}

fn device(tree: &Tree, name: &str) -> Device {
    let folder = place(tree, name);
    let file = |what: &str| format!("{folder}/{what}");
    Device {
        kind: Kind::of(name),
        model: tree.text(&file("device/model")),
        rotational: tree.number(&file("queue/rotational")).map(|flag| flag == 1),
        scheduler: tree.text(&file("queue/scheduler")).map(|text| {
            // `[none] mq-deadline`: the one in brackets is in use.
            let chosen = text.split(['[', ']']).nth(1).unwrap_or(&text);
            chosen.to_owned()
        }),
        write_cache: tree.text(&file("queue/write_cache")),
        fua: tree.number(&file("queue/fua")).map(|flag| flag == 1),
        requests: tree.number(&file("queue/nr_requests")),
        node: tree
            .number(&file("device/numa_node"))
            .or_else(|| tree.number(&file("device/device/numa_node"))),
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_of_its_disk_whatever_the_disk_is_called() {
        for (partition, disk) in
            [("sda1", "sda"), ("vdb12", "vdb"), ("nvme0n1p2", "nvme0n1"), ("mmcblk0p1", "mmcblk0")]
        {
            assert_eq!(disk_of(partition), disk);
        }
    }
}
