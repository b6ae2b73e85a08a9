//! PURE. Values by domain pattern: the most specific pattern wins, so their order means nothing.

use std::collections::BTreeMap;

use super::{is_domain, literal_address};

/// Patterns and their values: the exact domain first, then the longest `*.suffix`, which does not match the suffix itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainMap<T> {
    exact: BTreeMap<Box<str>, T>,
    /// Keyed without the leading `*.`.
    suffixes: BTreeMap<Box<str>, T>,
}

impl<T> Default for DomainMap<T> {
    fn default() -> Self {
        Self { exact: BTreeMap::new(), suffixes: BTreeMap::new() }
    }
}

/// A text that is no domain pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a domain pattern: allowed are a domain, `*.domain` for all below it, and `*` for the rest"
)]
pub struct PatternError(pub String);

impl<T> DomainMap<T> {
    /// Gives `pattern` the value, in place of what it had before.
    ///
    /// # Errors
    /// When `pattern` is neither a domain, nor `*.domain`, nor an address literal such as `[192.0.2.1]`.
    pub fn insert(&mut self, pattern: &str, value: T) -> Result<(), PatternError> {
        let pattern = pattern.to_lowercase();
        if let Some(suffix) = pattern.strip_prefix("*.").filter(|suffix| is_domain(suffix)) {
            self.suffixes.insert(suffix.into(), value);
        } else if is_domain(&pattern) || literal_address(&pattern).is_some() {
            self.exact.insert(pattern.into_boxed_str(), value);
        } else {
            return Err(PatternError(pattern));
        }
        Ok(())
    }

    /// The value for `domain`, which must be in lower case.
    pub fn get(&self, domain: &str) -> Option<&T> {
        if let Some(value) = self.exact.get(domain) {
            return Some(value);
        }
        if self.suffixes.is_empty() {
            return None;
        }
        let mut rest = domain;
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(value) = self.suffixes.get(suffix) {
                return Some(value);
            }
            rest = suffix;
        }
        None
    }

    /// Patterns and values as the configuration writes them.
    pub fn entries(&self) -> impl Iterator<Item = (String, &T)> {
        let exact = self.exact.iter().map(|(domain, value)| (domain.to_string(), value));
        let suffixes = self.suffixes.iter().map(|(suffix, value)| (format!("*.{suffix}"), value));
        exact.chain(suffixes)
    }
}
