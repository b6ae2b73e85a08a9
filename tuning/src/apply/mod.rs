//! Writes what a host should change, and takes it back.
//!
//! Files only: what makes them count (`sysctl -p`, `systemctl`) is printed for the administrator to run. A file of the same name that
//! was there before is kept beside the record of what was done, and `--undo` puts it back.

mod plan;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::check::Wanted;
use crate::host::Host;
use plan::Planned;

/// Where the record of what was done is, below the root.
const RECORD: &str = "var/lib/ringpost-tune/applied.json";

/// What `--write` has done.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    files: Vec<Written>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    path: String,
    /// What we wrote, to see whether somebody has changed it since.
    content: String,
    /// What was there before; `None` if nothing was.
    before: Option<String>,
    /// Commands that bring the kernel back.
    restore: Vec<String>,
}

/// What would be done, in full.
pub fn dry_run(host: &Host, wanted: &Wanted, root: &Path) -> String {
    let mut text = String::new();
    for file in plan::plan(host, wanted) {
        let place = root.join(file.path);
        text += &format!("# ==> {}{}\n{}\n", place.display(), difference(&place, &file), file.content);
        text += &format!("# then: {}\n", file.activate);
        for command in &file.restore {
            text += &format!("# undo: {command}\n");
        }
        text += "\n";
    }
    for hint in plan::hints(host, wanted) {
        text += &format!("# mind: {hint}\n");
    }
    text + "# Nothing was changed. --write writes these files; --undo takes them back.\n"
}

fn difference(place: &Path, file: &Planned) -> &'static str {
    match fs::read_to_string(place) {
        Ok(text) if text == file.content => " (is there already)",
        Ok(_) => " (replaces one that is there)",
        Err(_) => "",
    }
}

/// Writes the files, and says what to run.
///
/// # Errors
/// When a file cannot be written; those before it are in the record.
pub fn write(host: &Host, wanted: &Wanted, root: &Path) -> Result<String, String> {
    let mut record = read_record(root)?.unwrap_or_default();
    let mut text = String::new();
    for file in plan::plan(host, wanted) {
        let place = root.join(file.path);
        let there = read_if_there(&place)?;
        if there.as_deref() == Some(file.content.as_str()) {
            text += &format!("as it should be: {}\n", place.display());
            continue;
        }
        // The first state counts, however often this is called: ours is not worth going back to.
        if !record.files.iter().any(|known| known.path == file.path) {
            let restore = file.restore.clone();
            record.files.push(Written {
                path: file.path.into(),
                content: String::new(),
                before: there,
                restore,
            });
        }
        let known = record.files.iter_mut().find(|known| known.path == file.path).expect("it is there now");
        known.content.clone_from(&file.content);
        // The record first: a file that is written is always known.
        save_record(root, &record)?;
        put(&place, &file.content, file.is_script)?;
        text += &format!("written: {}\n  run: {}\n", place.display(), file.activate);
    }
    Ok(text)
}

/// Takes back what [`write()`] did.
///
/// # Errors
/// When a file has been changed since, or cannot be written: the record stays, with what is not taken back yet.
pub fn undo(root: &Path) -> Result<String, String> {
    let Some(mut record) = read_record(root)? else {
        return Ok(format!("nothing was applied below {}\n", root.display()));
    };
    let mut text = String::new();
    while let Some(file) = record.files.last() {
        let place = root.join(&file.path);
        match (read_if_there(&place)?, &file.before) {
            (Some(now), _) if now != file.content => {
                return Err(format!(
                    "{} was changed by somebody since: look at it, remove it, and call this again",
                    place.display()
                ));
            }
            (_, Some(before)) => put(&place, before, file.path == plan::SCRIPT)?,
            (Some(_), None) => fs::remove_file(&place).map_err(|error| named(&place, &error))?,
            (None, None) => {}
        }
        text +=
            &format!("{}: {}\n", if file.before.is_some() { "put back" } else { "removed" }, place.display());
        for command in &file.restore {
            text += &format!("  run: {command}\n");
        }
        record.files.pop();
        save_record(root, &record)?;
    }
    let path = record_path(root);
    fs::remove_file(&path).map_err(|error| named(&path, &error))?;
    Ok(text)
}

fn named(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

fn record_path(root: &Path) -> PathBuf {
    root.join(RECORD)
}

fn read_if_there(path: &Path) -> Result<Option<String>, String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(named(path, &error)),
    }
}

fn read_record(root: &Path) -> Result<Option<Record>, String> {
    let path = record_path(root);
    let text = read_if_there(&path)?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| named(&path, &error))).transpose()
}

fn save_record(root: &Path, record: &Record) -> Result<(), String> {
    put(&record_path(root), &serde_json::to_string_pretty(record).expect("plain structs"), false)
}

/// Writes a file so that it is the old or the new one, whatever happens.
fn put(path: &Path, content: &str, is_script: bool) -> Result<(), String> {
    let folder = path.parent().expect("below the root");
    let beside = path.with_extension("ringpost-new");
    let write = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(&beside, content)?;
        let mode = if is_script { 0o755 } else { 0o644 };
        fs::set_permissions(&beside, fs::Permissions::from_mode(mode))?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| named(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::shapes;

    fn wanted() -> Wanted {
        Wanted { executors: 4, descriptors: 21_024, spool_free: 1, memory: 1, messages_per_connection: 100 }
    }

    fn host() -> Host {
        shapes::server_with_two_sockets().host("/spool")
    }

    #[test]
    fn a_dry_run_touches_nothing_and_shows_everything() {
        let root = tempfile::tempdir().expect("a directory");
        let text = dry_run(&host(), &wanted(), root.path());
        for words in [
            "60-ringpost.conf",
            "LimitMEMLOCK",
            "smp_affinity_list",
            "# undo: sysctl -w net.core.somaxconn='128'",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert_eq!(fs::read_dir(root.path()).expect("it is there").count(), 0);
    }

    #[test]
    fn what_was_written_is_taken_back_to_what_was_there_before() {
        let root = tempfile::tempdir().expect("a directory");
        let sysctl = root.path().join(plan::SYSCTL);
        put(&sysctl, "net.core.somaxconn = 1\n", false).expect("written");
        write(&host(), &wanted(), root.path()).expect("applied");
        // Again, as after an update of the configuration: the first state still counts.
        let more = Wanted { executors: 8, ..wanted() };
        write(&host(), &more, root.path()).expect("applied");
        let script = root.path().join(plan::SCRIPT);
        assert_eq!(fs::metadata(&script).expect("a script").permissions().mode() & 0o777, 0o755);
        assert!(fs::read_to_string(&sysctl).expect("ours").contains("4096"));
        let text = undo(root.path()).expect("taken back");
        assert!(text.contains("sysctl -w net.core.somaxconn='128'"), "{text}");
        assert_eq!(fs::read_to_string(&sysctl).expect("theirs"), "net.core.somaxconn = 1\n");
        assert!(
            !script.exists()
                && !root.path().join(plan::DROP_IN).exists()
                && !record_path(root.path()).exists()
        );
        assert!(undo(root.path()).expect("nothing to do").contains("nothing was applied"));
    }

    #[test]
    fn a_file_that_somebody_changed_since_is_left_alone() {
        let root = tempfile::tempdir().expect("a directory");
        write(&host(), &wanted(), root.path()).expect("applied");
        let drop_in = root.path().join(plan::DROP_IN);
        fs::write(&drop_in, "[Service]\nLimitNOFILE=7\n").expect("changed");
        assert!(undo(root.path()).expect_err("changed").contains("was changed by somebody"));
        assert!(fs::read_to_string(&drop_in).expect("still there").contains("=7"));
        fs::remove_file(&drop_in).expect("removed");
        undo(root.path()).expect("the rest is taken back");
        assert!(!root.path().join(plan::SYSCTL).exists());
    }
}
