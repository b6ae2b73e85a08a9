//! Scenarios: a command line written down. A key is an option's long name, a list repeats it, `true` sets a flag. What
//! is given on the real command line wins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use clap::Parser;
use toml::Spanned;

use crate::options::{OptionError, Options, RunCommand, place};

/// Scenarios that are always there.
pub const BUILT_IN: [(&str, &str); 6] = [
    ("smoke", include_str!("../../scenarios/smoke.toml")),
    ("steady", include_str!("../../scenarios/steady.toml")),
    ("mixed", include_str!("../../scenarios/mixed.toml")),
    ("bursts", include_str!("../../scenarios/bursts.toml")),
    ("storm", include_str!("../../scenarios/storm.toml")),
    ("soak", include_str!("../../scenarios/soak.toml")),
];

/// Reads the command line, and the scenario it may name.
pub fn options(arguments: Vec<OsString>) -> Result<Options, clap::Error> {
    let options = Options::try_parse_from(&arguments)?;
    let Some(name) = options.command.run().and_then(|run| run.scenario.clone()) else { return Ok(options) };
    let wrong = |error: String| clap::Error::raw(clap::error::ErrorKind::InvalidValue, format!("{error}\n"));
    let text = text(&name).map_err(|error| wrong(error.0))?;
    let entries = entries(&text).map_err(|error| wrong(format!("scenario {name}: {error}")))?;
    // The scenario's name stays where it is; its options go in front of those given, which override them.
    let (front, back) = arguments.split_at(2.min(arguments.len()));
    let written = entries.iter().flat_map(|entry| &entry.arguments).map(OsString::from);
    let all = front.iter().cloned().chain(written).chain(back.iter().cloned());
    read(all).map_err(|error| match entries.iter().find_map(|entry| entry.wrong(&text)) {
        Some(what) => wrong(format!("scenario {name}: {what}")),
        None => error,
    })
}

/// Parses, and reads every value, since only then all of what is wrong is known.
fn read(arguments: impl Iterator<Item = OsString>) -> Result<Options, clap::Error> {
    let options = Options::try_parse_from(arguments)?;
    let checked = options.command.run().map_or(Ok(()), RunCommand::check);
    checked
        .map_err(|error| clap::Error::raw(clap::error::ErrorKind::InvalidValue, format!("{error}\n")))
        .map(|()| options)
}

fn text(name: &str) -> Result<String, OptionError> {
    if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
        return Ok((*text).to_owned());
    }
    std::fs::read_to_string(Path::new(name)).map_err(|error| {
        let known: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        OptionError(format!("scenario {name}: {error}; built in are {}", known.join(", ")))
    })
}

/// What one key of a scenario stands for.
struct Entry {
    /// Where its value begins in the text.
    offset: usize,
    arguments: Vec<String>,
}

impl Entry {
    /// What is wrong with it, if it is wrong by itself.
    fn wrong(&self, text: &str) -> Option<String> {
        let alone = ["ringpost-load", "run"].into_iter().chain(self.arguments.iter().map(String::as_str));
        let error = read(alone.map(OsString::from)).err()?.to_string();
        // The usage behind it is of the command line.
        let what = error.lines().next().unwrap_or_default().trim_start_matches("error: ");
        Some(place::say(text, self.offset, what))
    }
}

/// The options a scenario stands for. `description` is for its readers.
fn entries(text: &str) -> Result<Vec<Entry>, String> {
    let table: BTreeMap<String, Spanned<toml::Value>> =
        toml::from_str(text).map_err(|error| error.to_string())?;
    let entries = table.iter().filter(|(key, _)| *key != "description");
    entries.map(|(key, value)| entry(text, key, value)).collect()
}

fn entry(text: &str, key: &str, value: &Spanned<toml::Value>) -> Result<Entry, String> {
    let option = format!("--{}", key.replace('_', "-"));
    let offset = value.span().start;
    let values = match value.as_ref() {
        toml::Value::Array(values) => values.as_slice(),
        single => std::slice::from_ref(single),
    };
    let mut arguments = Vec::new();
    for value in values {
        match value {
            toml::Value::Boolean(true) => arguments.push(option.clone()),
            toml::Value::Boolean(false) => {}
            toml::Value::String(text) => arguments.push(format!("{option}={text}")),
            toml::Value::Integer(number) => arguments.push(format!("{option}={number}")),
            toml::Value::Float(number) => arguments.push(format!("{option}={number}")),
            _ => {
                let what = format!("{key} takes text, a number, true or a list");
                return Err(place::say(text, offset, &what));
            }
        }
    }
    Ok(Entry { offset, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Command;

    fn run(arguments: &str) -> Result<crate::options::RunCommand, String> {
        let words = format!("ringpost-load run {arguments}");
        let options = options(words.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect());
        match options.map_err(|error| error.to_string())?.command {
            Command::Run(command) => Ok(*command),
            _ => Err("not a run".into()),
        }
    }

    #[test]
    fn every_built_in_scenario_can_be_followed_as_it_stands() {
        for (name, text) in BUILT_IN {
            assert!(text.contains("description"), "{name}");
            match run(name) {
                Ok(command) => {
                    assert!(command.source.plan().is_ok(), "{name}");
                    assert!(command.source.pace(0).is_ok(), "{name}");
                    assert!(command.sink_options.settings(&[]).is_ok(), "{name}");
                    assert!(!command.bounds().unwrap_or_default().is_empty(), "{name} states no bound");
                }
                Err(error) => panic!("{name}: {error}"),
            }
        }
    }

    #[test]
    fn the_command_line_wins_over_the_scenario() -> Result<(), String> {
        let command = run("smoke --messages 7 --size 999")?;
        assert_eq!((command.source.messages, command.source.size.as_str()), (Some(7), "999"));
        Ok(())
    }

    #[test]
    fn what_is_wrong_in_a_scenario_is_said_with_its_line() -> std::io::Result<()> {
        assert!(run("no-such-thing").is_err_and(|error| error.contains("smoke, steady")));
        let path = std::env::temp_dir().join(format!("ringpost-load-scenario-{}.toml", std::process::id()));
        for (text, want) in [
            ("[a]\nb = 1", "a takes text"),
            ("size = '4k'\nrate = 'often'", "line 2: --rate takes RATE"),
            ("size = '4k'\n\nspeed = 1", "line 3: unexpected argument '--speed'"),
            ("messages = 'many'", "line 1: invalid value 'many'"),
            ("size = ", "line 1"),
            ("bound = ['lost<=0',\n 'p98<=1s']\nprofile='no-such'", "line 1: --bound"),
            ("profile='no-such'", "line 1: profile no-such"),
            ("sink = '127.0.0.1'", "line 1: invalid value '127.0.0.1'"),
        ] {
            std::fs::write(&path, text)?;
            let error = run(&path.display().to_string()).map(|_| ()).unwrap_err();
            assert!(error.contains(want) && error.contains("scenario"), "{text}: {error}");
        }
        std::fs::remove_file(path)?;
        let list = entries("local = ['a=1', 'b=2']\nreconnect = true\nbdat = false\nsize = 5");
        let list = list.unwrap_or_default().into_iter().flat_map(|entry| entry.arguments).collect::<Vec<_>>();
        assert_eq!(list, ["--local=a=1", "--local=b=2", "--reconnect", "--size=5"]);
        Ok(())
    }
}
