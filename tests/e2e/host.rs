//! Hosts, files and flags that will not do: `serve` ends at once, says in one line what to change, and changes nothing.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::relay::{Config, Ended, Lab};
use crate::harness::{eventually, has_program, host_is_able, skip};

/// The relay must have ended within a second; a busy machine gets more.
const AT_ONCE: Duration = Duration::from_secs(5);

/// It ended at once with an error, in one line that holds all of `words`.
fn refused(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.took < AT_ONCE, "{ended:?}");
    assert_eq!(ended.out, "", "{ended:?}");
    let lines: Vec<_> = ended.err.lines().collect();
    assert_eq!(lines.len(), 1, "one line: {}", ended.err);
    for word in words {
        assert!(ended.err.contains(word), "`{word}` is missing: {}", ended.err);
    }
    assert!(!ended.err.contains("panicked"), "{}", ended.err);
}

/// Every file below a directory: path → length and time of change.
fn tree(path: &Path) -> BTreeMap<String, (u64, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    let mut open = vec![path.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory").flatten() {
            let data = entry.metadata().expect("metadata");
            found.insert(entry.path().display().to_string(), (data.len(), data.modified().expect("a time")));
            if data.is_dir() {
                open.push(entry.path());
            }
        }
    }
    found
}

/// `serve` behind a shell's preparation.
fn after(lab: &Lab, preparation: &str, config: &Config) -> Command {
    let serve = lab.command(config);
    let mut command = Command::new("bash");
    command
        .arg("-c")
        .arg(format!("{preparation}; exec \"$0\" \"$@\""))
        .arg(serve.get_program())
        .args(serve.get_args());
    command
}

#[test]
fn too_little_memory_to_lock_is_told_with_the_number_needed() {
    if !has_program("bash") {
        return skip("no bash");
    }
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let ended = lab.run(after(&lab, "ulimit -l 64", &Config::new()));
    refused(&ended, &["memlock", "64 KiB", "512 KiB", "ulimit -l 512", "--ulimit memlock=524288"]);
    assert!(!lab.spool().exists(), "nothing was made");
}

#[test]
fn a_host_without_io_uring_is_told_what_to_change() {
    if !has_program("strace") {
        return skip("no strace to deny io_uring with");
    }
    let lab = Lab::new();
    let serve = lab.command(&Config::new());
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(lab.path().join("trace")).args(["-e", "trace=io_uring_setup"]);
    command.args(["-e", "inject=io_uring_setup:error=EPERM"]).arg(serve.get_program()).args(serve.get_args());
    let ended = lab.run(command);
    if ended.err.contains("ptrace") || ended.err.contains("strace:") {
        return skip(format!("strace may not trace here: {}", ended.err.trim()));
    }
    refused(&ended, &["io_uring", "kernel.io_uring_disabled", "--security-opt seccomp"]);
    assert!(!lab.spool().exists(), "nothing was made");
}

#[test]
fn what_the_host_lacks_is_told_before_an_address_in_use_is() {
    if !has_program("bash") {
        return skip("no bash");
    }
    if !host_is_able() {
        return;
    }
    let (lab, taken) = (Lab::new(), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let address = taken.local_addr().expect("bound");
    let config = Config::new().set("admin.listen", format!("'{address}'"));
    refused(&lab.run(after(&lab, "ulimit -l 64", &config)), &["memlock", "64 KiB"]);
}

#[test]
fn a_disk_profile_that_is_none_is_told_with_the_command_that_makes_one() {
    let lab = Lab::new();
    let ended = lab.run(lab.command(&Config::new().set("spool.disk_profile", "'/nowhere/disk.toml'")));
    refused(&ended, &["spool.disk_profile", "/nowhere/disk.toml", "ringpost-tune disk"]);
    assert!(!lab.spool().exists(), "nothing was made");
}

#[test]
fn a_kernel_that_is_too_old_is_named_with_the_one_that_is_needed() {
    // A process of this personality is told that it runs on Linux 2.6.
    let old = |command: &mut Command| {
        command.args([std::env::consts::ARCH, "--uname-2.6"]);
    };
    let mut uname = Command::new("setarch");
    old(&mut uname);
    let told = uname.args(["uname", "-r"]).output();
    if !told.is_ok_and(|told| told.stdout.starts_with(b"2.6.")) {
        return skip("no setarch, or personalities are forbidden");
    }
    let lab = Lab::new();
    let serve = lab.command(&Config::new());
    let mut command = Command::new("setarch");
    old(&mut command);
    command.arg(serve.get_program()).args(serve.get_args());
    let ended = lab.run(command);
    refused(&ended, &["kernel is 2.6.", "5.8"]);
    assert!(!lab.spool().exists(), "nothing was made");
}

#[test]
fn a_second_relay_on_the_same_spool_or_port_is_refused_and_the_first_goes_on() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let relay = lab.start(&Config::new().route("*", "hold"));
    // The first one prepares segments for a while.
    let mut before = tree(&lab.spool());
    eventually("the spool to be still", || {
        std::thread::sleep(Duration::from_millis(200));
        let last = std::mem::replace(&mut before, tree(&lab.spool()));
        (last == before).then_some(())
    });
    let ended = lab.run(lab.command(&Config::new()));
    refused(&ended, &[&lab.spool().display().to_string(), "another"]);
    assert_eq!(before, tree(&lab.spool()), "the second has changed the first one's spool");
    let other = Lab::new();
    let taken = Config::new().set("smtp.listen", format!("['{}']", relay.smtp()));
    let ended = other.run(other.command(&taken));
    refused(&ended, &[&relay.smtp().to_string(), "--listen"]);
    assert!(!other.spool().exists(), "nothing was made");
    let admin = Config::new().set("admin.listen", format!("'{}'", relay.admin()));
    let ended = other.run(other.command(&admin));
    refused(&ended, &[&relay.admin().to_string(), "--admin"]);
    assert!(!other.spool().exists(), "nothing was made");
    relay.client().mail("a@b.test", &["c@d.test"], b"Subject: x\r\n\r\n");
    relay.stop();
}

#[test]
fn a_port_that_another_program_has_is_named() {
    if !host_is_able() {
        return;
    }
    let (lab, taken) = (Lab::new(), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let address = taken.local_addr().expect("bound").to_string();
    let ended = lab.run(lab.command(&Config::new().set("smtp.listen", format!("['{address}']"))));
    refused(&ended, &[&address, "--listen"]);
    assert!(!lab.spool().exists(), "nothing was made");
}

#[test]
fn spools_that_cannot_be_used_are_left_as_they_are() {
    if !host_is_able() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let check = |prepare: &dyn Fn(&Path), words: &[&str]| {
        let lab = Lab::new();
        prepare(&lab.spool());
        lab.write(&Config::new());
        let before = tree(lab.path());
        let ended = lab.run(lab.command(&Config::new()));
        refused(&ended, words);
        let mut after = tree(lab.path());
        // The harness writes its configuration again.
        let config = lab.path().join("ringpost.toml").display().to_string();
        after.insert(config.clone(), before[&config]);
        assert_eq!(before, after, "{words:?}");
    };
    let mkdir = |path: &Path, mode: u32| {
        std::fs::create_dir(path).expect("a directory");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
    };
    check(&|path| mkdir(path, 0o777), &["mode 777", "700"]);
    check(&|path| std::fs::write(path, "a file").expect("a file"), &["no directory"]);
    check(
        &|path| {
            mkdir(path, 0o700);
            std::fs::write(path.join("holiday.jpg"), "not mail").expect("a file");
        },
        &["spool"],
    );
    check(
        &|path| {
            mkdir(path, 0o700);
            std::fs::write(path.join("format"), "ringpost spool\nversion 999\nnext-part 1\n")
                .expect("a file");
        },
        &["format"],
    );
    if rustix::process::geteuid().is_root() {
        check(
            &|path| {
                mkdir(path, 0o700);
                std::os::unix::fs::chown(path, Some(12345), None).expect("root may give away");
            },
            &["12345"],
        );
    } else {
        skip("only root can make a spool that belongs to somebody else");
    }
}

#[test]
fn a_spool_without_a_parent_is_not_made() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let serve = |directory: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--spool", directory]);
        command
    };
    let missing = lab.path().join("no/such/place");
    let ended = lab.run(serve(&missing.display().to_string()));
    refused(&ended, &["no/such/place", "--spool"]);
    assert!(!lab.path().join("no").exists());
}

#[test]
fn a_read_only_spool_is_told() {
    if !(rustix::process::geteuid().is_root() && has_program("unshare") && has_program("mount")) {
        return skip("a read-only mount needs root, unshare and mount");
    }
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    std::fs::create_dir(lab.spool()).expect("a directory");
    let serve = lab.command(&Config::new());
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "bash", "-c", script]).arg(lab.spool());
    command.arg(serve.get_program()).args(serve.get_args());
    let ended = lab.run(command);
    if ended.err.starts_with("unshare:") || ended.err.starts_with("mount:") {
        return skip(format!("mounts are not possible here: {}", ended.err.trim()));
    }
    refused(&ended, &["read-only", &lab.spool().display().to_string()]);
    assert!(tree(&lab.spool()).is_empty());
}

#[test]
fn a_wrong_configuration_is_listed_in_full_and_nothing_starts() {
    let lab = Lab::new();
    let file = lab.path().join("wrong.toml");
    std::fs::write(
        &file,
        "[smtp]\nlistne = ['127.0.0.1:0']\nrecipients_max = 'many'\n[spool]\ndirectory = 7\n",
    )
    .expect("a file");
    for verb in ["serve", "check"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
        command.args([verb, "--config"]).arg(&file).current_dir(lab.path());
        let ended = lab.run(command);
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        for words in [
            "wrong.toml: line 2",
            "smtp.listne",
            "`listen`",
            "line 3",
            "recipients_max",
            "line 5",
            "spool.directory",
        ] {
            assert!(ended.err.contains(words), "`{words}` is missing: {}", ended.err);
        }
        assert_eq!(ended.out, "");
    }
    assert_eq!(tree(lab.path()).len(), 1, "nothing was made");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
    command.args(["serve", "--config", "/nonexistent/ringpost.toml"]).current_dir(lab.path());
    refused(&lab.run(command), &["/nonexistent/ringpost.toml"]);
}

#[test]
fn wrong_flags_say_what_is_allowed() {
    let lab = Lab::new();
    let check = |arguments: &[&str], words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
        command.args(arguments).current_dir(lab.path());
        let ended = lab.run(command);
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        assert!(ended.took < AT_ONCE && !ended.err.contains("panicked"), "{ended:?}");
        for word in words {
            assert!(ended.err.contains(word), "{arguments:?}: `{word}` is missing: {}", ended.err);
        }
    };
    check(&["serve", "--rout", "hold"], &["--route"]);
    check(&["serve", "--route", "nowhere"], &["mx", "smtp://HOST:PORT", "discard", "hold"]);
    check(&["serve", "--shards", "0"], &["1..=256"]);
    check(&["serve", "--listen", "2525"], &["--listen"]);
    check(&["sreve"], &["serve"]);
    check(&[], &["serve", "check", "config"]);
    assert!(tree(lab.path()).is_empty(), "nothing was made");
}

#[test]
fn the_printed_defaults_are_a_configuration() {
    let lab = Lab::new();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
        command.args(arguments).current_dir(lab.path());
        lab.run(command)
    };
    let printed = run(&["config", "--default"]);
    assert!(printed.status.success() && printed.err.is_empty(), "{printed:?}");
    std::fs::write(lab.path().join("default.toml"), &printed.out).expect("a file");
    let checked = run(&["check", "--config", "default.toml"]);
    assert!(checked.status.success() && checked.err.is_empty(), "{checked:?}");
    assert!(checked.out.contains("no errors"), "{checked:?}");
    let help = run(&["--help"]);
    assert!(help.status.success() && help.out.contains("ringpost serve"), "{help:?}");
}
