//! `ringpost user`: writes the users file. The relay only reads it.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::cli::{UserAdd, print};
use crate::users::{Key, Users, prepared};

/// Longest password, bytes: what fits a command line of SMTP with its name, in base64.
const PASSWORD_BYTES_MAX: usize = 1000;

/// `user add`.
pub fn add(wanted: &UserAdd) -> ExitCode {
    match try_add(wanted) {
        Ok(what) => {
            print(&format!("{}: {what} {:?}\n", wanted.file.display(), wanted.name));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ringpost: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What was done with the user.
fn try_add(wanted: &UserAdd) -> Result<&'static str, String> {
    let old = match fs::read_to_string(&wanted.file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(format!("{}: {error}", wanted.file.display())),
    };
    let faults = |faults: Vec<crate::users::Fault>| {
        let lines = faults.iter().map(|fault| format!("{}: {fault}", wanted.file.display()));
        lines.collect::<Vec<_>>().join("\n")
    };
    Users::parse(&old).map_err(faults)?;
    let line = line_of(wanted)?;
    // A name or a sender that cannot be is told before anything is written.
    Users::parse(&line).map_err(|faults| faults[0].what.clone())?;
    let is_own = |other: &str| other.split_whitespace().next() == Some(&wanted.name);
    let replaced = old.lines().any(is_own);
    let mut text = String::new();
    for other in old.lines() {
        text.push_str(if is_own(other) { &line } else { other });
        text.push('\n');
    }
    if !replaced {
        text.push_str(&line);
        text.push('\n');
    }
    replace(&wanted.file, &text).map_err(|error| format!("{}: {error}", wanted.file.display()))?;
    Ok(if replaced { "replaced" } else { "added" })
}

fn line_of(wanted: &UserAdd) -> Result<String, String> {
    if wanted.name.is_empty() || wanted.name.contains(char::is_whitespace) || wanted.name.starts_with('#') {
        return Err(format!(
            "{:?} cannot be a name: allowed is one word that does not begin with #",
            wanted.name
        ));
    }
    let key = if wanted.no_password {
        "-".to_owned()
    } else {
        let password = password().map_err(|error| format!("cannot read the password: {error}"))?;
        let Some(password) = prepared(&password).filter(|_| password.len() <= PASSWORD_BYTES_MAX) else {
            return Err(format!(
                "allowed is a password of 1 to {PASSWORD_BYTES_MAX} bytes, on one line, with no characters that SASLprep \
                 (RFC 4013) forbids, such as control characters"
            ));
        };
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|error| format!("no randomness: {error}"))?;
        match wanted.scram {
            true => Key::scram(password.as_bytes(), &salt).to_string(),
            false => Key::argon2(password.as_bytes(), &salt)?.to_string(),
        }
    };
    let mut line = format!("{} {key}", wanted.name);
    if !wanted.sender.is_empty() {
        line += &format!(" senders={}", wanted.sender.join(","));
    }
    if let Some(tenant) = &wanted.tenant {
        line += &format!(" tenant={tenant}");
    }
    for certificate in &wanted.certificate {
        line += &format!(" certificate={certificate}");
    }
    Ok(line)
}

/// A line of standard input; from a terminal without showing it.
fn password() -> io::Result<String> {
    let input = io::stdin();
    let mut line = String::new();
    if input.is_terminal() {
        eprint!("password: ");
        let shown = tcgetattr(&input)?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&input, OptionalActions::Flush, &hidden)?;
        let read = input.lock().read_line(&mut line);
        tcsetattr(&input, OptionalActions::Flush, &shown)?;
        eprintln!();
        read?;
    } else {
        input.lock().read_line(&mut line)?;
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Writes a new file beside the old one and puts it in its place, so that a relay never reads half of it. For its owner alone.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let beside = Path::new(&name);
    let _ = fs::remove_file(beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(beside, path)
}
