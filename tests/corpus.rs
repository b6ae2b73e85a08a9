//! The inputs of `fuzz/corpus` through the checks of `fuzz/src`, with the ordinary toolchain: what fuzzing once found
//! stays fixed, and the fuzz targets keep compiling.

#[path = "../fuzz/src/lib.rs"]
mod checks;

use std::fs;
use std::path::Path;

/// Runs `check` on each input, on each of its beginnings, and on it with single bytes changed.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() >= 3, "{} holds {} inputs", folder.display(), paths.len());
    for path in paths {
        // What a check says does not name its input; this line does, when it fails.
        println!("{}", path.display());
        let bytes = fs::read(&path).expect("an input");
        check(&bytes);
        let step = bytes.len() / 64 + 1;
        for at in (0..bytes.len()).step_by(step) {
            check(&bytes[..at]);
            let mut changed = bytes.clone();
            for byte in [b'\r', b'\n', b'.', 0xFF] {
                changed[at] = byte;
                check(&changed);
            }
        }
    }
}

#[test]
fn sessions_hold_for_the_corpus() {
    replay("session", checks::session::check);
}

#[test]
fn clients_hold_for_the_corpus() {
    replay("client", checks::client::check);
}

#[test]
fn addresses_hold_for_the_corpus() {
    replay("address", checks::address::check);
}

#[test]
fn bodies_hold_for_the_corpus() {
    replay("body", checks::body::check);
}

#[test]
fn records_hold_for_the_corpus() {
    replay("record", checks::record::check);
}

#[test]
fn parts_hold_for_the_corpus() {
    replay("part", checks::part::check);
}

#[test]
fn answers_of_the_dns_hold_for_the_corpus() {
    replay("dns", checks::dns::check);
}

#[test]
fn headers_of_proxies_and_logins_hold_for_the_corpus() {
    replay("door", checks::door::check);
}

#[test]
fn configurations_hold_for_the_corpus() {
    replay("config", checks::config::check);
}

#[test]
fn envelopes_hold_for_the_corpus() {
    replay("envelope", checks::envelope::check);
}
