//! PURE. An accepted recipient that stands for others, and what becomes of its DSN parameters.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::Notify;

/// Who gets the mail of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aliases<'a> {
    /// The recipient itself.
    pub itself: bool,
    /// And these, none of whom is an alias.
    pub others: &'a [Box<str>],
}

impl Aliases<'_> {
    /// The recipient alone: it is no alias.
    pub const NONE: Self = Self { itself: true, others: &[] };

    /// NOTIFY and ORCPT of those who get the mail of `mailbox` in its place (RFC 3461 §5.2.7). One alone is as good as
    /// the recipient itself. With several the sender would hear of each success, but asked for one recipient's: SUCCESS is left
    /// out. ORCPT says to whom the sender wrote, and if there is none that is `mailbox` (§5.2.1).
    pub(super) fn passed_on<'o>(
        &self,
        mailbox: &str,
        notify: Notify,
        original: &'o str,
    ) -> (Notify, Cow<'o, str>) {
        let several = self.others.len() + usize::from(self.itself) > 1;
        let notify = match notify.0 & !Notify::SUCCESS {
            _ if !several => notify,
            0 if notify.0 != 0 => Notify(Notify::NEVER),
            rest => Notify(rest),
        };
        // Of type rfc822 only ASCII can be said; who wrote to an internationalised address is told of the final one alone.
        if !original.is_empty() || !mailbox.is_ascii() {
            return (notify, Cow::Borrowed(original));
        }
        let mut said = String::from("rfc822;");
        for byte in mailbox.bytes() {
            if byte.is_ascii_graphic() && !matches!(byte, b'+' | b'=') {
                said.push(char::from(byte));
            } else {
                let _ = write!(said, "+{byte:02X}");
            }
        }
        (notify, Cow::Owned(said))
    }
}

#[cfg(test)]
mod tests {
    use super::super::EnvelopeBuilder;
    use super::*;
    use crate::clock::WallTime;
    use crate::envelope::Parameters;

    fn check(aliases: &[&str], itself: bool, notify: u8, original: &str, want: &[(&str, u8, &str)]) {
        let others: Vec<Box<str>> = aliases.iter().map(|other| (*other).into()).collect();
        let mut builder = EnvelopeBuilder::default();
        builder.begin("s@a.test", Parameters::default(), "");
        builder.push_recipient("known@o.test", Notify::DEFAULT, "").expect("fits");
        let aliases = Aliases { itself, others: &others };
        builder.push_aliased("a+b@o.test", aliases, Notify(notify), original).expect("fits");
        assert_eq!(builder.accepted_count(), 2);
        let envelope = builder.encode(WallTime(0), WallTime(0));
        let all: Vec<_> = envelope.recipients().map(|r| (r.mailbox, r.notify.0, r.original)).collect();
        assert_eq!(all[1..], *want);
    }

    #[test]
    fn one_alias_is_as_good_as_the_recipient_and_of_several_no_success_is_told() {
        let success = Notify::SUCCESS;
        check(&[], true, success, "", &[("a+b@o.test", success, "")]);
        check(&["x@o.test"], false, success, "", &[("x@o.test", success, "rfc822;a+2Bb@o.test")]);
        check(&["x@o.test"], false, 0, "rfc822;z", &[("x@o.test", 0, "rfc822;z")]);
        let both = |notify| [("a+b@o.test", notify, "rfc822;z"), ("x@o.test", notify, "rfc822;z")];
        check(&["x@o.test"], true, success, "rfc822;z", &both(Notify::NEVER));
        check(&["x@o.test"], true, success | Notify::FAILURE, "rfc822;z", &both(Notify::FAILURE));
        check(&["x@o.test"], true, 0, "rfc822;z", &both(0));
    }

    #[test]
    fn whoever_is_a_recipient_already_gets_no_second_copy_through_an_alias() {
        check(&["Known@O.test", "x@o.test"], false, 0, "rfc822;z", &[("x@o.test", 0, "rfc822;z")]);
    }

    #[test]
    fn an_alias_that_does_not_fit_leaves_nothing_behind() {
        let mut builder = EnvelopeBuilder::default();
        builder.begin("s@a.test", Parameters::default(), "");
        let others: Vec<Box<str>> =
            (0..=crate::limits::RECIPIENTS_MAX).map(|n| format!("{n}@o.test").into()).collect();
        let aliases = Aliases { itself: false, others: &others };
        assert!(builder.push_aliased("all@o.test", aliases, Notify::DEFAULT, "").is_err());
        assert_eq!((builder.accepted_count(), builder.recipient_count()), (0, 0));
        builder
            .push_aliased("all@o.test", Aliases { itself: false, others: &others[..2] }, Notify::DEFAULT, "")
            .expect("fits");
        let envelope = builder.encode(WallTime(0), WallTime(0));
        assert_eq!(envelope.recipients().map(|r| r.mailbox).collect::<Vec<_>>(), ["0@o.test", "1@o.test"]);
    }
}
