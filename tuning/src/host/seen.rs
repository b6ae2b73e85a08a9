//! PURE. A value of the host, or why it could not be seen: nothing is left out silently, and nothing is guessed.

use serde::Serialize;

/// What was seen. In JSON: the value itself, or `{"not_visible": "why"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Seen<T> {
    /// It was there.
    Value(T),
    /// It was not, and why.
    Hidden {
        /// Where it was looked for and what came back.
        not_visible: String,
    },
}

impl<T> Seen<T> {
    /// Not seen.
    pub fn hidden(why: impl Into<String>) -> Self {
        Self::Hidden { not_visible: why.into() }
    }

    /// The value, for those who can do without.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Hidden { .. } => None,
        }
    }

    /// The value, made into another one.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Seen<U> {
        self.and_then(|value| Seen::Value(make(value)))
    }

    /// The value, made into one that may not be seen.
    pub fn and_then<U>(self, make: impl FnOnce(T) -> Seen<U>) -> Seen<U> {
        match self {
            Self::Value(value) => make(value),
            Self::Hidden { not_visible } => Seen::Hidden { not_visible },
        }
    }

    /// This one, or another where it is hidden. If both are, the first says why.
    pub fn or_else(self, other: impl FnOnce() -> Seen<T>) -> Seen<T> {
        match (self, ()) {
            (Self::Value(value), ()) => Self::Value(value),
            (first, ()) => match other() {
                Self::Value(value) => Self::Value(value),
                Self::Hidden { .. } => first,
            },
        }
    }

    /// For people.
    pub fn show(&self, show: impl FnOnce(&T) -> String) -> String {
        match self {
            Self::Value(value) => show(value),
            Self::Hidden { not_visible } => format!("not visible: {not_visible}"),
        }
    }
}
