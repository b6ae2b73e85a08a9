//! PURE. Reads the mailboxes file: every line that is wrong at once, each with what would be right.
//!
//! Aliases are followed here, once, so that a loop is an error of the file and no surprise of a message, and so that a
//! session has one look-up to do.

use std::collections::HashSet;
use std::path::Path;

use super::{ALIAS_RECIPIENTS_MAX, Entry, Found, Mailbox, Mailboxes};
use crate::limits::MAILBOX_BYTES_MAX;
use crate::routing::{RouteTable, Target, is_domain};
use crate::users::Fault;

/// Aliases that may lead to each other before it is no longer believed to be meant.
const DEPTH_MAX: usize = 20;
const ALLOWED: &str = "maildir:/PATH, route, or addresses, with commas between them";

impl Mailboxes {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Every line that is wrong; at least one.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        let (mut written, mut faults) = (Self::default(), Vec::new());
        for (nth, line) in text.lines().enumerate() {
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let line = nth + 1;
            let added = parse_line(line, content).and_then(|(address, entry)| written.add(address, entry));
            faults.extend(added.err().map(|what| Fault { line, what }));
        }
        // Who is missing may be missing for a line that is wrong.
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut followed = written.clone();
        let entries = followed
            .domains
            .values_mut()
            .flat_map(|domain| domain.entries.values_mut().chain(&mut domain.rest));
        for entry in entries {
            match written.follow(entry) {
                Ok(others) => entry.others = others.into(),
                Err(what) => faults.push(Fault { line: entry.line, what }),
            }
        }
        faults.sort_by_key(|fault| fault.line);
        if faults.is_empty() { Ok(followed) } else { Err(faults) }
    }

    fn add(&mut self, address: &str, entry: Entry) -> Result<(), String> {
        let (local, domain) = address.rsplit_once('@').expect("looked at by parse_line");
        let domain = self.domains.entry(domain.to_lowercase().into()).or_default();
        let place = match local {
            "" => &mut domain.rest,
            _ => {
                let known = domain.entries.get(local.to_lowercase().as_str()).map(|known| known.line);
                if known.is_none() {
                    domain.entries.insert(local.to_lowercase().into(), entry);
                    return Ok(());
                }
                return Err(twice(address, known.unwrap_or_default()));
            }
        };
        match place {
            Some(known) => Err(twice(address, known.line)),
            None => {
                *place = Some(entry);
                Ok(())
            }
        }
    }

    /// Everybody who gets the mail of `entry` besides its own mailbox.
    fn follow(&self, entry: &Entry) -> Result<Vec<Box<str>>, String> {
        let mut following =
            Following { trail: vec![entry.line], seen: HashSet::new(), recipients: Vec::new() };
        self.follow_into(entry, &mut following)?;
        Ok(following.recipients)
    }

    fn follow_into(&self, entry: &Entry, following: &mut Following) -> Result<(), String> {
        for other in &entry.others {
            let next = match self.find(other) {
                Found::NotOurs => {
                    following.push(other)?;
                    continue;
                }
                Found::Nobody => {
                    return Err(format!(
                        "{other} is in a domain of this file and has no line; allowed is an address that has one"
                    ));
                }
                Found::Entry(next) => next,
            };
            if following.trail.contains(&next.line) {
                let lines: Vec<_> =
                    following.trail.iter().chain([&next.line]).map(usize::to_string).collect();
                let lines = lines.join(" → ");
                return Err(format!("{other} leads back to itself (lines {lines}); allowed is an end of it"));
            }
            if next.mailbox.is_some() {
                following.push(other)?;
            }
            if next.others.is_empty() || !following.seen.insert(next.line) {
                continue;
            }
            if following.trail.len() == DEPTH_MAX {
                return Err(format!("{other} is an alias behind {DEPTH_MAX} others; allowed are fewer"));
            }
            following.trail.push(next.line);
            self.follow_into(next, following)?;
            following.trail.pop();
        }
        Ok(())
    }

    /// Lines that the routes make no sense of: a Maildir in a domain that goes elsewhere, or a domain that would come back
    /// to us.
    pub fn against(&self, routes: &RouteTable) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (name, domain) in &self.domains {
            let target = routes.target(name);
            for entry in domain.entries.values().chain(&domain.rest) {
                let what = match (&entry.mailbox, target) {
                    (None, _) | (Some(Mailbox::Maildir(_)), Target::Maildir) => continue,
                    (Some(Mailbox::Maildir(_)), _) => format!(
                        "a Maildir, but the route of {name} is \"{target}\"; allowed is \"{name}\" = \"maildir\" under [routes]"
                    ),
                    (Some(Mailbox::Route), Target::Mx) => format!(
                        "its mail goes where the route of {name} leads, which is \"mx\": back to us; allowed is \
                         \"{name}\" = \"lmtp:/PATH\", or another target, under [routes]"
                    ),
                    (Some(Mailbox::Route), Target::Maildir) => format!(
                        "the route of {name} is \"maildir\", and this line names none; allowed is maildir:/PATH"
                    ),
                    (Some(Mailbox::Route), _) => continue,
                };
                faults.push(Fault { line: entry.line, what });
            }
        }
        faults.sort_by_key(|fault| fault.line);
        faults
    }
}

/// An alias being followed to its ends.
struct Following {
    /// Lines from the first alias to here.
    trail: Vec<usize>,
    /// Lines that have been followed.
    seen: HashSet<usize>,
    recipients: Vec<Box<str>>,
}

impl Following {
    fn push(&mut self, recipient: &str) -> Result<(), String> {
        if self.recipients.iter().any(|known| known.eq_ignore_ascii_case(recipient)) {
            return Ok(());
        }
        if self.recipients.len() == ALIAS_RECIPIENTS_MAX {
            return Err(format!(
                "an alias for more than {ALIAS_RECIPIENTS_MAX} recipients; allowed are fewer: a list manager does more"
            ));
        }
        self.recipients.push(recipient.into());
        Ok(())
    }
}

fn twice(address: &str, line: usize) -> String {
    format!("{address} has a line already, {line}; allowed is one for each address")
}

fn parse_line(line: usize, content: &str) -> Result<(&str, Entry), String> {
    let (address, places) = content.split_once(char::is_whitespace).unwrap_or((content, ""));
    match address.rsplit_once('@') {
        Some(("", domain)) if is_domain(domain) => {}
        Some(_) if is_address(address) => {}
        _ => {
            return Err(format!(
                "found {address:?}; allowed is user@domain, or @domain for everybody else in it"
            ));
        }
    }
    if places.trim().is_empty() {
        return Err(format!("{address} goes nowhere; allowed is {ALLOWED}"));
    }
    let mut entry = Entry { line, mailbox: None, others: Box::default() };
    let mut others = Vec::new();
    for place in places.split(',').map(str::trim) {
        let mailbox = if place == "route" {
            Mailbox::Route
        } else if let Some(path) = place.strip_prefix("maildir:") {
            Mailbox::Maildir(maildir_path(path)?)
        } else if is_address(place) {
            others.push(place.into());
            continue;
        } else {
            return Err(format!("found {place:?}; allowed is {ALLOWED}"));
        };
        if entry.mailbox.replace(mailbox).is_some() {
            return Err(format!("{address} has two mailboxes; allowed is one, with aliases for others"));
        }
    }
    entry.others = others.into();
    Ok((address, entry))
}

fn maildir_path(path: &str) -> Result<Box<Path>, String> {
    if path.starts_with('/') && path.len() > 1 && !path.contains(char::is_control) {
        return Ok(Path::new(path).into());
    }
    Err(format!("found the Maildir {path:?}; allowed is an absolute path"))
}

fn is_address(text: &str) -> bool {
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, '<' | '>' | ',' | ':');
    let parts = text.rsplit_once('@');
    parts.is_some_and(|(local, domain)| !local.is_empty() && is_domain(domain))
        && text.len() <= MAILBOX_BYTES_MAX
        && text.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Mailboxes {
        Mailboxes::parse(text).unwrap_or_else(|faults| panic!("{faults:?}"))
    }

    fn others<'a>(mailboxes: &'a Mailboxes, mailbox: &str) -> (bool, Vec<&'a str>) {
        let Found::Entry(entry) = mailboxes.find(mailbox) else { panic!("{mailbox} is not there") };
        (entry.mailbox().is_some(), entry.others().iter().map(|other| &**other).collect())
    }

    #[test]
    fn an_address_is_found_in_any_case_or_through_everybody_else_of_its_domain() {
        let mailboxes = read(
            "# ours\nAlice@Example.org maildir:/var/vmail/alice\n\n@example.org  bob@example.net\n\
             carol@one.test route\n",
        );
        let path = |mailbox| match mailboxes.find(mailbox) {
            Found::Entry(entry) => match entry.mailbox() {
                Some(Mailbox::Maildir(path)) => path.display().to_string(),
                _ => "no path".into(),
            },
            Found::Nobody => "nobody".into(),
            Found::NotOurs => "not ours".into(),
        };
        assert_eq!(path("aLICE@eXAMPLE.ORG"), "/var/vmail/alice");
        assert_eq!(path("dave@example.org"), "no path");
        assert_eq!(others(&mailboxes, "dave@example.org"), (false, vec!["bob@example.net"]));
        assert_eq!(path("dave@one.test"), "nobody");
        assert_eq!(path("alice@sub.example.org"), "not ours");
        assert_eq!(path("alice"), "not ours");
        assert_eq!(Mailboxes::default().find("a@b"), Found::NotOurs);
    }

    #[test]
    fn aliases_are_followed_to_their_ends_each_recipient_once() {
        let mailboxes = read(
            "a@o.test maildir:/a\nb@o.test maildir:/b, far@away.test\nc@o.test route\n\
             team@o.test a@o.test, b@o.test, staff@o.test\nstaff@o.test C@o.test, a@o.test, Far@Away.test\n",
        );
        assert_eq!(others(&mailboxes, "a@o.test"), (true, vec![]));
        assert_eq!(others(&mailboxes, "b@o.test"), (true, vec!["far@away.test"]));
        let team = vec!["a@o.test", "b@o.test", "far@away.test", "C@o.test"];
        assert_eq!(others(&mailboxes, "team@o.test"), (false, team));
    }

    /// `want`: line, and words that must stand in the text.
    fn check(text: &str, want: &[(usize, &str)]) {
        let faults = Mailboxes::parse(text).expect_err(text);
        assert_eq!(faults.len(), want.len(), "{text}\n{faults:?}");
        for (fault, (line, words)) in faults.iter().zip(want) {
            assert_eq!(fault.line, *line, "{fault}");
            words
                .split('|')
                .for_each(|word| assert!(fault.what.contains(word), "`{word}` is missing: {fault}"));
        }
    }

    #[test]
    fn every_line_that_is_wrong_says_what_would_be_right() {
        check(
            "a@o.test\nb maildir:/b\nc@o.test maildir:c\nd@o.test lmtp\ne@o.test route, maildir:/e\n",
            &[
                (1, "a@o.test goes nowhere|maildir:/PATH, route, or addresses"),
                (2, "\"b\"|user@domain"),
                (3, "\"c\"|an absolute path"),
                (4, "\"lmtp\"|maildir:/PATH, route"),
                (5, "two mailboxes"),
            ],
        );
        check("a@o.test route\nA@O.test route\n", &[(2, "has a line already, 1")]);
        check("@o.test route\n@o.test x@y.test\n", &[(2, "has a line already, 1")]);
        check("a@o.test b@o.test\n", &[(1, "b@o.test is in a domain of this file and has no line")]);
    }

    #[test]
    fn aliases_without_an_end_are_errors_of_the_file() {
        check("a@o.test b@o.test\nb@o.test a@o.test\n", &[(1, "lines 1 → 2 → 1"), (2, "lines 2 → 1 → 2")]);
        check("a@o.test route, a@o.test\n", &[(1, "leads back to itself")]);
        check("@o.test nobody@o.test\n", &[(1, "nobody@o.test leads back to itself")]);
        let chain: String = (0..30).map(|n| format!("a{n}@o.test a{}@o.test\n", n + 1)).collect();
        let faults = Mailboxes::parse(&(chain + "a30@o.test route\n")).expect_err("too deep");
        assert!(faults[0].what.contains("behind 20 others"), "{faults:?}");
        let many: Vec<_> = (0..=ALIAS_RECIPIENTS_MAX).map(|n| format!("{n}@away.test")).collect();
        check(&format!("a@o.test {}\n", many.join(",")), &[(1, "more than 100 recipients")]);
    }

    #[test]
    fn aliases_that_meet_again_and_again_cost_no_more_than_their_lines() {
        let level = |n: usize| {
            format!("l{n}@o.test l{0}@o.test, r{0}@o.test\nr{n}@o.test l{0}@o.test, r{0}@o.test\n", n + 1)
        };
        let text: String = (0..18).map(level).collect::<String>() + "l18@o.test route\nr18@o.test route\n";
        assert_eq!(others(&read(&text), "l0@o.test"), (false, vec!["l18@o.test", "r18@o.test"]));
    }

    #[test]
    fn a_mailbox_that_its_route_does_not_lead_to_is_told() {
        let mailboxes = read(
            "a@m.test maildir:/a\nb@m.test route\nc@x.test route\nd@x.test maildir:/d\ne@l.test route\n",
        );
        let mut routes = RouteTable::default();
        for (domain, target) in [("m.test", "maildir"), ("x.test", "mx"), ("l.test", "lmtp:/run/lmtp")] {
            routes.insert(domain, target.parse().expect("target")).expect("pattern");
        }
        let faults = mailboxes.against(&routes);
        let lines: Vec<_> = faults.iter().map(|fault| fault.line).collect();
        assert_eq!(lines, [2, 3, 4], "{faults:?}");
        assert!(faults[0].what.contains("allowed is maildir:/PATH"), "{faults:?}");
        assert!(
            faults[1].what.contains("back to us") && faults[1].what.contains("\"x.test\" = "),
            "{faults:?}"
        );
        assert!(faults[2].what.contains("\"x.test\" = \"maildir\" under [routes]"), "{faults:?}");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_the_reader(text in "([a-c]{0,2}@[ab.]{0,3}|route|maildir:/?|[ ,\n#é]{0,2}){0,14}") {
            let _ = Mailboxes::parse(&text).map(|mailboxes| mailboxes.against(&RouteTable::default()));
        }
    }
}
