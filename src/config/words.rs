//! PURE. Kinds of values made of words: names of tenants, senders, delimiters.

use toml::Spanned;
use toml::de::DeValue;

use super::value::{Kind, Wrong, found, quoted};
use crate::routing::is_domain;

/// A list of words that pass a test.
pub(super) struct Words {
    pub allowed: &'static str,
    pub is_one: fn(&str) -> bool,
}

/// Names of tenants.
pub(super) const TENANTS: Words = Words {
    allowed: "names of tenants, without spaces",
    is_one: |name| !name.is_empty() && !name.contains(|c: char| c.is_control() || c.is_whitespace()),
};

/// Senders.
pub(super) const SENDERS: Words = Words {
    allowed: "mailboxes such as \"news@example.com\", or \"*@example.com\" for all of a domain",
    is_one: |sender| {
        sender.rsplit_once('@').is_some_and(|(local, domain)| !local.is_empty() && is_domain(domain))
    },
};

impl Kind for Words {
    type Value = Vec<String>;

    fn read(&self, value: &DeValue<'_>) -> Result<Vec<String>, Wrong> {
        let word = |item: &Spanned<DeValue<'_>>| {
            let word = item.get_ref().as_str().filter(|word| (self.is_one)(word));
            let refused = || Wrong::Reason(format!("{} is not allowed in it", found(item.get_ref())));
            word.map(str::to_owned).ok_or_else(refused)
        };
        value.as_array().ok_or(Wrong::Form)?.iter().map(word).collect()
    }

    fn show(&self, value: &Vec<String>) -> String {
        format!("[{}]", value.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", "))
    }

    fn allowed(&self) -> String {
        format!("a list of {}", self.allowed)
    }
}

/// Two different letters of those that mailboxes may have and that mean nothing to SMTP.
pub(super) struct Delimiters;

/// As Postfix allows them.
const DELIMITERS: &str = "-+=_#%";

impl Kind for Delimiters {
    type Value = String;

    fn read(&self, value: &DeValue<'_>) -> Result<String, Wrong> {
        let text = value.as_str().ok_or(Wrong::Form)?;
        let letters: Vec<char> = text.chars().collect();
        match letters[..] {
            [first, second] if first != second && letters.iter().all(|c| DELIMITERS.contains(*c)) => {
                Ok(text.to_owned())
            }
            _ => Err(Wrong::Form),
        }
    }

    fn show(&self, value: &String) -> String {
        quoted(value)
    }

    fn allowed(&self) -> String {
        format!("two different letters of \"{DELIMITERS}\"")
    }
}
