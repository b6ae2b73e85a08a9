//! The program as it is called: each command that needs neither a relay nor rights. `sweep` has a row of tests/tier-b.

use std::path::Path;
use std::process::{Command, Output};

fn tune(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost-tune"));
    command.current_dir(directory).args(arguments).output().expect("it runs")
}

/// Its standard output; it must have ended with `code`.
fn said(directory: &Path, arguments: &[&str], code: i32) -> String {
    let output = tune(directory, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

fn directory() -> tempfile::TempDir {
    // Beside the build: /tmp may be memory.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

#[test]
fn detect_shows_this_host_as_text_and_as_json() {
    let here = directory();
    let text = said(here.path(), &["detect"], 0);
    assert!(text.contains("io_uring") && text.contains("disk under"), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&said(here.path(), &["detect", "--json"], 0)).expect("JSON");
    assert!(json["kernel"]["release"].is_string(), "{json}");
}

#[test]
fn check_tells_a_wrong_configuration_from_a_host_that_will_not_do() {
    let here = directory();
    std::fs::write(here.path().join("wrong.toml"), "[threads]\nshrads = 1\n").expect("written");
    let output = tune(here.path(), &["check", "--config", "wrong.toml"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors.contains("wrong.toml") && errors.contains("shrads"), "{errors}");
    // More executors than any host has memory to lock for, or a spool in a directory that cannot be written.
    std::fs::write(here.path().join("memory.toml"), "[spool]\ndirectory = '/proc/ringpost'\n")
        .expect("written");
    let text = said(here.path(), &["check", "--config", "memory.toml"], 1);
    assert!(text.contains("red "), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&said(here.path(), &["check", "--config", "memory.toml", "--json"], 1))
            .expect("JSON");
    assert!(
        json.as_array().is_some_and(|findings| findings.iter().any(|one| one["state"] == "red")),
        "{json}"
    );
}

#[test]
fn a_disk_is_measured_and_its_profile_is_read_by_check() {
    let here = directory();
    let output = tune(here.path(), &["disk", ".", "--seconds", "0.2", "--html", "disk.html"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(2) && errors.contains("O_DIRECT") {
        return eprintln!("SKIP: measuring a disk: {errors}");
    }
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(std::fs::read_to_string(here.path().join("disk.html")).expect("a page").ends_with("</html>\n"));
    let output = tune(here.path(), &["check", "--profile", "disk-profile.toml"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("disk, measured"));
    let mut names: Vec<_> = std::fs::read_dir(here.path())
        .expect("it is there")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    assert_eq!(names, ["disk-profile.toml", "disk.html"], "nothing else is left");
}

#[test]
fn apply_changes_nothing_until_it_is_told_to_and_takes_it_back() {
    let here = directory();
    let root = here.path().join("root");
    let root = root.to_str().expect("text");
    let text = said(here.path(), &["apply", "--root", root], 0);
    assert!(text.contains("LimitNOFILE=") && text.contains("Nothing was changed"), "{text}");
    assert!(!Path::new(root).exists());
    assert!(said(here.path(), &["apply", "--write", "--root", root], 0).contains("60-tuning.conf"));
    assert!(said(here.path(), &["apply", "--undo", "--root", root], 0).contains("removed"));
    let output = tune(here.path(), &["apply", "--undo", "--write"]);
    assert_eq!(output.status.code(), Some(2), "both at once make no sense");
}

#[test]
fn model_without_a_sweep_says_what_to_run_first() {
    let here = directory();
    let output = tune(here.path(), &["model"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors.contains("ringpost-tune sweep"), "{errors}");
}

#[test]
fn a_sweep_without_its_programs_says_where_they_are_looked_for() {
    let here = directory();
    let output = tune(here.path(), &["sweep", "--relay", "no-such-relay"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors.contains("--relay") && errors.contains("no-such-relay"), "{errors}");
}
