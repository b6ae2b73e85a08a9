//! PURE. Sorts final failures into a few classes, for metrics and suppression lists.

use crate::outcome::Reply;

/// Why a message bounced, coarsely. Few enough to be a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BounceClass {
    /// The mailbox does not exist, is disabled, or its address is wrong.
    BadMailbox,
    /// The domain does not exist or takes no mail.
    BadDomain,
    /// Refused by a rule of the remote: authentication (SPF, DKIM, DMARC), reputation, rights.
    Policy,
    /// The content or the source was taken for spam.
    Spam,
    /// The mailbox is full.
    Quota,
    /// The message is larger than the remote takes.
    TooLarge,
    /// The two sides did not understand each other.
    Protocol,
    /// It could not be delivered in time.
    Expired,
    /// The remote does not take mail for this domain from us.
    RelayDenied,
    /// None of these.
    Other,
}

impl BounceClass {
    /// The label of metrics and events.
    pub fn label(self) -> &'static str {
        match self {
            BounceClass::BadMailbox => "bad-mailbox",
            BounceClass::BadDomain => "bad-domain",
            BounceClass::Policy => "policy",
            BounceClass::Spam => "spam",
            BounceClass::Quota => "quota",
            BounceClass::TooLarge => "too-large",
            BounceClass::Protocol => "protocol",
            BounceClass::Expired => "expired",
            BounceClass::RelayDenied => "relay-denied",
            BounceClass::Other => "other",
        }
    }
}

/// The class of a failure, by subject and detail of its enhanced status (RFC 3463, and the IANA registry for 5.7.x and
/// 5.1.10); the words only where remotes use one code for two things. Without a status, by the reply code.
pub fn classify(reply: &Reply) -> BounceClass {
    use BounceClass::*;
    match (reply.enhanced.1, reply.enhanced.2) {
        (1, 2 | 10) => BadDomain,
        (1, 7 | 8) => Policy,
        (1, _) | (2, 0 | 1) => BadMailbox,
        (2, 2) => Quota,
        (2, 3) | (3, 4) => TooLarge,
        (3, 1) => Quota,
        (4, 7) => Expired,
        (4, 1 | 3 | 4) => BadDomain,
        (5, _) | (6, _) => Protocol,
        (7, _) => of_security(reply),
        _ => of_code(reply),
    }
}

fn of_security(reply: &Reply) -> BounceClass {
    if says_any(reply, &["relay"]) {
        BounceClass::RelayDenied
    } else if says_any(reply, SPAM_WORDS) {
        BounceClass::Spam
    } else {
        BounceClass::Policy
    }
}

fn of_code(reply: &Reply) -> BounceClass {
    match reply.code {
        500..=504 => BounceClass::Protocol,
        552 if says_any(reply, &["quota", "full"]) => BounceClass::Quota,
        552 => BounceClass::TooLarge,
        550 | 551 | 553 | 554 if says_any(reply, &["relay"]) => BounceClass::RelayDenied,
        550 | 551 | 553 | 554 if says_any(reply, SPAM_WORDS) => BounceClass::Spam,
        550 | 551 | 553 if says_any(reply, &["user", "mailbox", "recipient", "address"]) => {
            BounceClass::BadMailbox
        }
        556 => BounceClass::BadDomain,
        _ => BounceClass::Other,
    }
}

/// Words, in lower case, by which remotes tell spam from other policy.
const SPAM_WORDS: &[&str] = &["spam", "blocklist", "block list", "blacklist", "rbl", "junk", "bulk mail"];

fn says_any(reply: &Reply, words: &[&str]) -> bool {
    let text = reply.text.as_bytes();
    words.iter().any(|word| text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Enhanced;

    #[test]
    fn replies_of_large_providers_fall_into_the_class_an_operator_expects() {
        use BounceClass::*;
        for (code, (a, b, c), text, want) in [
            (550, (5, 1, 1), "The email account that you tried to reach does not exist", BadMailbox),
            (550, (5, 2, 1), "The account is disabled", BadMailbox),
            (556, (5, 1, 10), "Recipient address has null MX", BadDomain),
            (0, (5, 4, 4), "no such domain", BadDomain),
            (552, (5, 2, 2), "The recipient's inbox is out of storage space", Quota),
            (552, (5, 3, 4), "Message size exceeds fixed limit", TooLarge),
            (550, (5, 7, 26), "Unauthenticated email is not accepted due to DMARC policy", Policy),
            (550, (5, 7, 1), "Our system has detected that this message is likely SPAM", Spam),
            (554, (5, 7, 1), "Service unavailable; client host blocked using Spamhaus", Spam),
            (554, (5, 7, 1), "<a@b.test>: Relay access denied", RelayDenied),
            (550, (5, 7, 54), "Unable to relay recipient in non-accepted domain", RelayDenied),
            (0, (4, 4, 7), "expired", Expired),
            (500, (5, 5, 2), "syntax error", Protocol),
            (0, (5, 6, 7), "needs SMTPUTF8", Protocol),
            (550, (5, 0, 0), "No such user here", BadMailbox),
            (552, (5, 0, 0), "Quota exceeded", Quota),
            (502, (0, 0, 0), "what", Protocol),
            (554, (5, 0, 0), "Transaction failed", Other),
        ] {
            assert_eq!(classify(&Reply::new(code, Enhanced(a, b, c), text)), want, "{code} {text}");
        }
    }
}
