//! How fast commits were when `ringpost-tune disk` measured the spool's disk: what the running relay's are held against, so that a disk
//! that has become slow is told from a load that has become large.

use std::path::Path;

use serde::Deserialize;

/// Version of the format that is read.
const VERSION: u32 = 1;

/// Of the profile, what a running relay can be compared with; the format is described in `tuning/src/disk/profile.rs`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DiskProfile {
    version: u32,
    /// Where it was measured.
    pub directory: String,
    /// A commit of 4 KiB, made as the relay makes it, one at a time.
    pub relay_commit: Latency,
}

/// Quantiles, microseconds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Latency {
    /// Half were at most this.
    pub p50_micros: f64,
    /// 99 %.
    pub p99_micros: f64,
}

impl DiskProfile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// In words, with the path and what to do.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            format!("spool.disk_profile: cannot read {shown}: {error}; `ringpost-tune disk DIR --profile {shown}` makes it")
        })?;
        Self::parse(&text).map_err(|error| format!("spool.disk_profile: {shown}: {error}"))
    }

    /// Reads the text of one.
    ///
    /// # Errors
    /// In words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let profile: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if profile.version != VERSION {
            return Err(format!(
                "it is of version {}, and this relay reads {VERSION}: measure again with the `ringpost-tune` of this version",
                profile.version
            ));
        }
        Ok(profile)
    }

    /// For people.
    pub fn text(&self) -> String {
        let millis = |micros: f64| format!("{:.2} ms", micros / 1000.0);
        format!(
            "a commit took {} (p50), {} (p99) when {} was measured",
            millis(self.relay_commit.p50_micros),
            millis(self.relay_commit.p99_micros),
            self.directory
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURED: &str = "version = 1\ndirectory = \"/spool\"\nseconds = 30.0\n\
        [relay_commit]\ncount = 9\np50_micros = 388.0\np90_micros = 4360.0\np99_micros = 15000.0\n";

    #[test]
    fn what_the_tool_writes_is_read_whatever_else_stands_in_it() {
        let profile = DiskProfile::parse(MEASURED).expect("a profile");
        assert_eq!(profile.text(), "a commit took 0.39 ms (p50), 15.00 ms (p99) when /spool was measured");
    }

    #[test]
    fn another_version_and_another_file_are_refused_with_what_to_do() {
        let newer = DiskProfile::parse(&MEASURED.replace("version = 1", "version = 2")).expect_err("too new");
        assert!(newer.contains("version 2") && newer.contains("measure again"), "{newer}");
        let other = DiskProfile::parse("[smtp]\n").expect_err("another file");
        assert!(other.contains("missing field"), "{other}");
        let missing = DiskProfile::read(Path::new("/nowhere/disk-profile.toml")).expect_err("no file");
        assert!(
            missing.contains("/nowhere/disk-profile.toml") && missing.contains("ringpost-tune disk"),
            "{missing}"
        );
    }
}
