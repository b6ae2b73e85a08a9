//! Scenarios: a command line written down. A key is an option's long name, a list repeats it, `true` sets a flag. What
//! is given on the real command line wins.

use std::ffi::OsString;
use std::path::Path;

use clap::Parser;

use crate::options::{Command, OptionError, Options};

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
    let name = match &options.command {
        Command::Run(command) => command.scenario.as_deref(),
        Command::Search(command) => command.run.scenario.as_deref(),
        Command::Crash(command) => command.run.scenario.as_deref(),
        _ => None,
    };
    let Some(name) = name else { return Ok(options) };
    let wrong =
        |error: OptionError| clap::Error::raw(clap::error::ErrorKind::InvalidValue, format!("{error}\n"));
    let written = arguments_of(&text(name).map_err(wrong)?).map_err(wrong)?;
    // The scenario's name stays where it is; its options go in front of those given, which override them.
    let (front, back) = arguments.split_at(2.min(arguments.len()));
    let all =
        front.iter().cloned().chain(written.into_iter().map(OsString::from)).chain(back.iter().cloned());
    Options::try_parse_from(all)
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

/// The options a scenario stands for. `description` is for its readers.
fn arguments_of(text: &str) -> Result<Vec<String>, OptionError> {
    let table: toml::Table = text.parse().map_err(|error| OptionError(format!("scenario: {error}")))?;
    let mut arguments = Vec::new();
    for (key, value) in &table {
        if key == "description" {
            continue;
        }
        let option = format!("--{}", key.replace('_', "-"));
        let values = match value {
            toml::Value::Array(values) => values.as_slice(),
            single => std::slice::from_ref(single),
        };
        for value in values {
            match value {
                toml::Value::Boolean(true) => arguments.push(option.clone()),
                toml::Value::Boolean(false) => {}
                toml::Value::String(text) => arguments.push(format!("{option}={text}")),
                toml::Value::Integer(number) => arguments.push(format!("{option}={number}")),
                toml::Value::Float(number) => arguments.push(format!("{option}={number}")),
                _ => {
                    return Err(OptionError(format!("scenario: {key} takes text, a number, true or a list")));
                }
            }
        }
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_is_wrong_in_a_scenario_is_said() {
        assert!(run("no-such-thing").is_err_and(|error| error.contains("smoke, steady")));
        let nested = arguments_of("[a]\nb = 1").map_err(|error| error.0);
        assert!(nested.is_err_and(|error| error.contains("a takes text")));
        let list = arguments_of("local = ['a=1', 'b=2']\nreconnect = true\nbdat = false\nsize = 5");
        assert_eq!(list.unwrap_or_default(), ["--local=a=1", "--local=b=2", "--reconnect", "--size=5"]);
    }
}
