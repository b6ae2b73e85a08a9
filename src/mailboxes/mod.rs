//! PURE. Who has a mailbox or an alias in the domains of our own: the mailboxes file.
//!
//! ```text
//! # address           where its mail goes
//! alice@example.org   maildir:/var/vmail/alice            a Maildir; the route of example.org is "maildir"
//! bob@example.org     route                               where the route of example.org leads, whichever it is
//! info@example.org    alice@example.org, eve@example.net  an alias; each of them gets it
//! eve@example.org     route, eve@example.net              both
//! @example.org        alice@example.org                   everybody else in the domain
//! ```
//!
//! A domain with a line here is ours: whoever it does not name is no recipient. Addresses are compared without regard to
//! case. Nothing in a path comes from mail: paths stand in this file, whole.

mod parse;
pub mod store;

use std::collections::HashMap;
use std::path::Path;

use crate::envelope::Aliases;
use crate::hash::HashState;

/// Recipients that one alias may have in the end. Longer lists are a list manager's business, with a sender of their own.
pub const ALIAS_RECIPIENTS_MAX: usize = 100;

/// Where the mail for an address itself goes, leaving aside who else gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mailbox {
    /// Into this Maildir, an absolute path.
    Maildir(Box<Path>),
    /// Where the route of its domain leads.
    Route,
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands, from 1.
    line: usize,
    mailbox: Option<Mailbox>,
    /// Who gets the mail besides, each an address that is no alias; as they are written in the file.
    others: Box<[Box<str>]>,
}

impl Entry {
    /// The mailbox that the address itself has.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        self.mailbox.as_ref()
    }

    /// Who gets the mail besides. At least one if there is no mailbox.
    pub fn others(&self) -> &[Box<str>] {
        &self.others
    }
}

/// What the file says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// Nothing: the domain is not ours.
    NotOurs,
    /// The domain is ours, and there is no such address in it.
    Nobody,
    /// This.
    Entry(&'a Entry),
}

/// All lines of a file. Immutable; a reload makes another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mailboxes {
    domains: HashMap<Box<str>, Domain, HashState>,
}

/// A domain of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Domain {
    /// By local part, in lower case.
    entries: HashMap<Box<str>, Entry, HashState>,
    /// Everybody else.
    rest: Option<Entry>,
}

impl Mailboxes {
    /// Who gets the mail of a mailbox: it alone, unless it is an alias of ours.
    pub fn aliases(&self, mailbox: &str) -> Aliases<'_> {
        match self.find(mailbox) {
            Found::Entry(entry) => Aliases { itself: entry.mailbox().is_some(), others: entry.others() },
            Found::Nobody | Found::NotOurs => Aliases::NONE,
        }
    }

    /// What is said of a mailbox, which has an `@`.
    pub fn find(&self, mailbox: &str) -> Found<'_> {
        if self.domains.is_empty() {
            return Found::NotOurs;
        }
        let Some((local, domain)) = mailbox.rsplit_once('@') else { return Found::NotOurs };
        let Some(domain) = self.domains.get(domain.to_lowercase().as_str()) else { return Found::NotOurs };
        let entry = domain.entries.get(local.to_lowercase().as_str()).or(domain.rest.as_ref());
        entry.map_or(Found::Nobody, Found::Entry)
    }
}
