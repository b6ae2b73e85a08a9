//! The program as it is run: commands, files, exit codes. A sink that forgets everything stands in for a bad relay.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

type Failure = Box<dyn std::error::Error>;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringpost-load");

fn load(arguments: &[&str]) -> Result<Output, Failure> {
    Ok(Command::new(PROGRAM).args(arguments).output()?)
}

/// A loopback address that nobody listens on.
fn free() -> Result<String, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn directory(name: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

#[test]
fn a_run_writes_every_file_it_is_asked_for() -> Result<(), Failure> {
    let (address, directory) = (free()?, directory("files")?);
    let at = |name: &str| directory.join(name).display().to_string();
    let (json, html, csv, hgrm) = (at("a.json"), at("a.html"), at("a.csv"), at("hgrm"));
    let arguments = ["run", "smoke", "--target", &address, "--sink", &address, "--rate", "poisson:2000"];
    let files =
        ["--json", &json, "--html", &html, "--csv", &csv, "--hgrm", &hgrm, "--note", "durability=none"];
    let output = load(&[&arguments[..], &files].concat())?;
    let text = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{text}");
    for words in ["PASS", "holds, measured"] {
        assert!(text.contains(words), "`{words}` is missing:\n{text}");
    }
    // On a machine that is too busy the generator must say so instead of showing latencies.
    assert!(text.contains("from intended time") || text.contains("THE GENERATOR WAS THE LIMIT"), "{text}");
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&json)?)?;
    assert_eq!(report["source"]["accepted"], 1000);
    assert_eq!(report["environment"]["notes"][0][0], "durability");
    assert!(std::fs::read_to_string(&html)?.contains("<svg"));
    assert!(std::fs::read_to_string(&csv)?.lines().count() >= 2);
    assert!(directory.join("hgrm/end-of-data.intended.hgrm").exists());
    let compared = String::from_utf8(load(&["compare", &json, &json])?.stdout)?;
    assert!(compared.contains("same") && !compared.contains("WORSE"), "{compared}");
    let again = at("b.html");
    assert!(load(&["page", &json, "-o", &again])?.status.success());
    assert_eq!(std::fs::read_to_string(&again)?, std::fs::read_to_string(&html)?);
    Ok(())
}

#[test]
fn a_started_relay_is_stopped_and_a_missed_bound_is_an_exit_code() -> Result<(), Failure> {
    let (target, sink) = (free()?, free()?);
    let relay = format!("{PROGRAM} sink --listen {{target}}");
    let arguments = ["run", "--target", &target, "--sink", &sink, "--relay", &relay, "--messages", "20"];
    let output = load(&[&arguments[..], &["--drain-timeout", "0", "--bound", "errors<=0%"]].concat())?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("20 lost") && text.contains("the relay stopped within"), "{text}");
    assert!(text.contains("errors<=0%") && text.contains("holds"), "{text}");
    assert!(TcpListener::bind(&target).is_ok(), "the relay is gone");
    Ok(())
}

#[test]
fn a_relay_that_leaves_its_process_group_is_stopped_too() -> Result<(), Failure> {
    let (target, sink) = (free()?, free()?);
    // The shell stays, and what listens makes itself the leader of a session, as Postfix's master does.
    let relay = format!("sh -c 'setsid {PROGRAM} sink --listen {{target}}; true'");
    let arguments = ["run", "--target", &target, "--sink", &sink, "--relay", &relay, "--messages", "5"];
    let output = load(&[&arguments[..], &["--drain-timeout", "0"]].concat())?;
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(TcpListener::bind(&target).is_ok(), "the relay is gone");
    Ok(())
}

#[test]
fn a_relay_that_forgets_is_found_out_by_killing_it() -> Result<(), Failure> {
    let (target, sink) = (free()?, free()?);
    let relay = format!("{PROGRAM} sink --listen {{target}}");
    let arguments = ["crash", "--target", &target, "--sink", &sink, "--relay", &relay, "--kills", "2"];
    let rest = ["--life-min", "50", "--life-max", "200", "--rate", "500", "--drain-timeout", "0"];
    let output = load(&[&arguments[..], &rest].concat())?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("killed 2 times with SIGKILL") && text.contains(" lost, "), "{text}");
    Ok(())
}

#[test]
fn a_search_finds_a_rate_and_ends() -> Result<(), Failure> {
    let address = free()?;
    let arguments = ["search", "--target", &address, "--sink", &address, "--from", "50", "--to", "100"];
    let rest =
        ["--duration", "1", "--confirm", "1", "--linger", "0", "--bound", "p99<=30s", "--precision", "50"];
    let output = load(&[&arguments[..], &rest].concat())?;
    let text = String::from_utf8(output.stdout)?;
    assert!(text.contains("found      "), "{text}");
    assert!(text.contains("50/s"), "{text}");
    Ok(())
}

#[test]
fn what_cannot_be_done_is_said_with_code_2() -> Result<(), Failure> {
    for arguments in [
        &["run", "no-such-scenario"][..],
        &["run", "--bound", "p98<=1s"],
        &["source", "--target", "192.0.2.1:25"],
        &["sink", "--listen", "0.0.0.0:0"],
        &["run", "--sink", "0.0.0.0:0", "--messages", "1"],
        &["crash", "--kills", "1"],
        &["sink", "--profile", "no-such-profile"],
        &["compare", "/nowhere/a.json", "/nowhere/b.json"],
    ] {
        let output = load(arguments)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
    Ok(())
}

/// The words that a shell makes of a line with single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match (character, words.last_mut()) {
            ('\'', _) => quoted = !quoted,
            (' ', _) if !quoted => words.push(String::new()),
            (other, Some(word)) => word.push(other),
            (_, None) => {}
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn every_command_and_profile_of_the_readme_is_understood() {
    let readme = include_str!("../README.md");
    let joined = readme.replace("\\\n", " ");
    let commands: Vec<&str> = joined.lines().filter(|line| line.starts_with("    ringpost-load ")).collect();
    assert!(commands.len() >= 7, "{commands:?}");
    for command in commands {
        let options =
            ringpost_load::options::scenario::options(words(command).into_iter().map(Into::into).collect());
        let checked = options.map_err(|error| error.to_string()).and_then(|options| {
            options.command.run().map_or(Ok(()), |run| run.check().map_err(|error| error.to_string()))
        });
        assert_eq!(checked, Ok(()), "{command}");
    }
    let profiles: Vec<&str> =
        readme.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(profiles.len(), 1);
    for profile in profiles {
        let read = ringpost_load::sink::profile::read(profile);
        assert!(read.is_ok(), "{:?}", read.err());
    }
}
