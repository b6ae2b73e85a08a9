//! PURE. Rates as operators write them: `100/min`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const UNITS: &[(&str, u64)] = &[("s", 1), ("min", 60), ("h", 3600), ("d", 86_400)];

/// So many, and no more, in any period of that length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    /// A second, a minute, an hour or a day.
    pub period: Duration,
}

impl Rate {
    /// What it allows in a second, on average.
    pub fn per_second(self) -> f64 {
        f64::from(self.count) / self.period.as_secs_f64()
    }
}

/// A text that is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no rate: write a number, `/`, and `s`, `min`, `h` or `d`, such as \"100/min\"")]
pub struct ParseRateError(pub String);

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, ParseRateError> {
        let parse = || {
            let (count, unit) = text.split_once('/')?;
            let count = count.trim().parse().ok().filter(|count| *count > 0)?;
            let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
            Some(Rate { count, period: Duration::from_secs(*seconds) })
        };
        parse().ok_or_else(|| ParseRateError(text.to_owned()))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.period.as_secs();
        match UNITS.iter().find(|(_, length)| *length == seconds) {
            Some((unit, _)) => write!(f, "{}/{unit}", self.count),
            None => write!(f, "{} in {seconds} s", self.count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_shown_alike() {
        for text in ["1/s", "100/min", "10000/h", "5/d"] {
            assert_eq!(text.parse::<Rate>().map(|rate| rate.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(" 7 / min ".parse::<Rate>().map(|rate| rate.to_string()), Ok("7/min".to_owned()));
    }

    #[test]
    fn texts_that_are_no_rate_are_refused() {
        for text in ["", "5", "/s", "0/s", "-1/s", "1/", "1/week", "1.5/s", "99999999999/s"] {
            assert_eq!(text.parse::<Rate>(), Err(ParseRateError(text.to_owned())));
        }
    }
}
