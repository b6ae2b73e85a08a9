//! PURE. What was measured on a disk: written by `disk`, read by `check`, `sweep` and `model`, and by `ringpost serve`, which compares its
//! commits with `relay_commit`. TOML; times are microseconds.
//!
//! | key | meaning |
//! | --- | --- |
//! | `version` | [`VERSION`] |
//! | `directory`, `device`, `file_system`, `kernel` | where and with what |
//! | `seconds` | how long it took |
//! | `cpu_wait_share` | share of that time in which the measuring thread was ready to run and had no CPU: from 0.1 on latencies tell of the neighbours, not of the disk |
//! | `relay_commit` | one 4 KiB commit as the relay makes it: `O_DIRECT` and `O_DSYNC` into zeroed space |
//! | `fdatasync` | a buffered 4 KiB write and `fdatasync`, in zeroed space: what other programs do |
//! | `[[cells]]` | for each way of writing and each batch: records per second and latency of a batch |
//! | `[[parallel]]` | 1 to 8 logs at once, batches of [`PARALLEL_BATCH`] records the relay's way |

use serde::{Deserialize, Serialize};

/// Version of the format.
pub const VERSION: u32 = 1;
/// From this share of waiting for a CPU on, latencies tell of the neighbours.
pub const CPU_WAIT_WORTH_TELLING: f64 = 0.1;
/// Bytes of a record: what a short message takes.
pub const RECORD_BYTES: usize = 4096;
/// Batches that are tried, records.
pub const BATCHES: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
/// Logs that are tried at once.
pub const LOGS: [usize; 4] = [1, 2, 4, 8];
/// Records of a batch then.
pub const PARALLEL_BATCH: usize = 8;

/// A measured disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// [`VERSION`].
    pub version: u32,
    /// Where.
    pub directory: String,
    /// Names of the disks below it, or why they could not be seen.
    pub device: String,
    /// Type of the file system.
    pub file_system: String,
    /// `uname -r`.
    pub kernel: String,
    /// How long it took.
    pub seconds: f64,
    /// Share of the time in which the measuring thread was ready and had no CPU.
    pub cpu_wait_share: f64,
    /// The relay's commit of one record.
    pub relay_commit: Latency,
    /// A buffered write and `fdatasync` of one record.
    pub fdatasync: Latency,
    /// By way of writing and batch.
    pub cells: Vec<Cell>,
    /// By logs at once.
    pub parallel: Vec<Parallel>,
}

/// A distribution, microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Mean.
    pub mean_micros: f64,
    /// Half are at most this.
    pub p50_micros: f64,
    /// 90 %.
    pub p90_micros: f64,
    /// 99 %.
    pub p99_micros: f64,
    /// 99.9 %.
    pub p99_9_micros: f64,
    /// The longest.
    pub max_micros: f64,
}

/// How a batch is written and made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The relay's: `O_DIRECT` and `O_DSYNC` into zeroed space.
    DirectZeroed,
    /// The same behind the end of the file.
    DirectExtending,
    /// A buffered write into zeroed space, and `fdatasync`.
    BufferedZeroed,
    /// The same behind the end of the file.
    BufferedExtending,
}

impl Way {
    /// All.
    pub const ALL: [Self; 4] =
        [Self::DirectZeroed, Self::DirectExtending, Self::BufferedZeroed, Self::BufferedExtending];

    /// Whether past the page cache.
    pub fn is_direct(self) -> bool {
        matches!(self, Self::DirectZeroed | Self::DirectExtending)
    }

    /// Whether the file grows.
    pub fn is_extending(self) -> bool {
        matches!(self, Self::DirectExtending | Self::BufferedExtending)
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::DirectZeroed => "O_DIRECT+O_DSYNC, zeroed space (the relay's way)",
            Self::DirectExtending => "O_DIRECT+O_DSYNC, growing file",
            Self::BufferedZeroed => "buffered + fdatasync, zeroed space",
            Self::BufferedExtending => "buffered + fdatasync, growing file",
        }
    }
}

/// One way and batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// How.
    pub way: Way,
    /// Records of a batch.
    pub batch: usize,
    /// Records made durable per second, by one log with one batch under way.
    pub records_per_second: f64,
    /// Of a batch.
    pub latency: Latency,
}

/// Several logs at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parallel {
    /// How many.
    pub logs: usize,
    /// Records made durable per second, by all.
    pub records_per_second: f64,
    /// Of a batch of one log.
    pub latency: Latency,
}

impl Profile {
    /// Reads the file.
    pub fn parse(text: &str) -> Result<Self, String> {
        let profile: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if profile.version != VERSION {
            let found = profile.version;
            return Err(format!(
                "it is of version {found}, and this program reads {VERSION}: measure again with `disk`"
            ));
        }
        Ok(profile)
    }

    /// Writes it.
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).expect("plain tables and numbers");
        format!(
            "# A disk as `ringpost-tune disk` measured it; `check`, `sweep` and `model` read it (--profile),\n\
             # and `ringpost serve` (spool.disk_profile in its configuration).\n\
             # Times are microseconds, rates are records of {RECORD_BYTES} bytes per second.\n{body}"
        )
    }
}

#[cfg(test)]
pub mod tests {
    use ringpost::control::disk_profile::DiskProfile;

    use super::*;

    fn latency(mean: f64) -> Latency {
        Latency {
            count: 10,
            mean_micros: mean,
            p50_micros: mean,
            p99_micros: 2.0 * mean,
            ..Latency::default()
        }
    }

    /// A disk whose commit takes 100 µs and 10 µs for each record, and on which up to 4 logs run side by side.
    pub fn profile() -> Profile {
        let cell = |way, batch| Cell {
            way,
            batch,
            records_per_second: batch as f64 * 1e6 / (100.0 + 10.0 * batch as f64),
            latency: latency(100.0 + 10.0 * batch as f64),
        };
        let cells = Way::ALL.iter().flat_map(|way| BATCHES.map(|batch| cell(*way, batch))).collect();
        let row = |logs: usize| Parallel {
            logs,
            records_per_second: logs.min(4) as f64 * 40_000.0,
            latency: latency(180.0),
        };
        Profile {
            version: VERSION,
            directory: "/spool".into(),
            device: "vda".into(),
            file_system: "ext4".into(),
            kernel: "6.1".into(),
            seconds: 30.0,
            cpu_wait_share: 0.0,
            relay_commit: latency(110.0),
            fdatasync: latency(300.0),
            cells,
            parallel: LOGS.map(row).into(),
        }
    }

    #[test]
    fn a_profile_reads_back_as_it_was_written() {
        let profile = profile();
        assert_eq!(Profile::parse(&profile.to_toml()), Ok(profile));
    }

    #[test]
    fn the_relay_reads_what_is_written_here() {
        let read = DiskProfile::parse(&profile().to_toml()).expect("a profile");
        assert_eq!((read.relay_commit.p50_micros, read.relay_commit.p99_micros), (110.0, 220.0));
        assert_eq!(read.directory, "/spool");
    }

    #[test]
    fn a_profile_of_another_version_or_with_a_wrong_key_says_so() {
        let newer = Profile { version: 2, ..profile() }.to_toml();
        assert!(Profile::parse(&newer).expect_err("newer").contains("version 2"));
        let wrong = profile().to_toml().replace("seconds", "secnds");
        assert!(Profile::parse(&wrong).expect_err("wrong").contains("secnds"));
    }
}
