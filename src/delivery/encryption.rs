//! PURE. What a connection does about TLS, by the policy of its path.

use crate::outcome::{Enhanced, Reply};
use crate::routing::{Security, TlsPolicy, Way};

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask for TLS.
    Encrypt,
    /// Go on in the clear; after a handshake that failed, on a new connection.
    InTheClear,
    /// Send nothing over this connection: the path rests, and this is why.
    GiveUp(Reply),
}

/// The remote said what it offers, in the clear.
pub fn after_offer(policy: TlsPolicy, offers: bool) -> Step {
    match (policy, offers) {
        (TlsPolicy::Off, _) => Step::InTheClear,
        (_, true) => Step::Encrypt,
        (_, false) => without(policy, NOT_OFFERED, "TLS is required here and the remote does not offer it"),
    }
}

/// The remote offered STARTTLS and refuses it.
pub fn after_refusal(policy: TlsPolicy, reply: &Reply) -> Step {
    let text = format!("TLS is required here and the remote refuses it: {} {}", reply.code, reply.text);
    without(policy, NOT_OFFERED, &text)
}

/// The handshake failed, for the reason `why`.
pub fn after_failed_handshake(policy: TlsPolicy, why: &str) -> Step {
    without(policy, FAILED, &format!("TLS is required here and could not be agreed on: {why}"))
}

/// Whether the way to a remote is as safe as REQUIRETLS wants it (RFC 8689 §4.2.1): encrypted, to a host whose name nobody but
/// the operator gave, as MX records are neither signed nor held against a policy of their domain here; `judge` says whether
/// its certificate is good for that name. Else what is lacking.
pub fn secured(
    security: Security,
    is_encrypted: bool,
    judge: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    if !is_encrypted {
        return Err("the connection to the remote is not encrypted".to_owned());
    }
    if security.way == Way::Mx {
        return Err("the name of the remote comes from MX records that nobody has signed".to_owned());
    }
    if security.tls == TlsPolicy::Verified {
        return Ok(());
    }
    judge().map_err(|why| format!("the remote's certificate is not to be trusted: {why}"))
}

/// RFC 3463 §3.8: the security that the message needs is not there…
const NOT_OFFERED: Enhanced = Enhanced(4, 7, 4);
/// …or its cryptography failed.
const FAILED: Enhanced = Enhanced(4, 7, 5);

fn without(policy: TlsPolicy, enhanced: Enhanced, text: &str) -> Step {
    if policy.falls_back() { Step::InTheClear } else { Step::GiveUp(Reply::new(0, enhanced, text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_opportunistic_path_ever_goes_on_in_the_clear() {
        let refused = Reply::new(454, Enhanced(4, 7, 0), "not now");
        for policy in [TlsPolicy::Required, TlsPolicy::Verified] {
            assert_eq!(after_offer(policy, true), Step::Encrypt);
            for (step, detail) in [
                (after_offer(policy, false), 4),
                (after_refusal(policy, &refused), 4),
                (after_failed_handshake(policy, "expired"), 5),
            ] {
                let Step::GiveUp(reply) = step else { panic!("{policy:?}: {step:?}") };
                assert_eq!((reply.code, reply.enhanced), (0, Enhanced(4, 7, detail)));
            }
        }
        let policy = TlsPolicy::Opportunistic;
        assert_eq!(after_offer(policy, true), Step::Encrypt);
        assert_eq!(after_offer(policy, false), Step::InTheClear);
        assert_eq!(after_refusal(policy, &refused), Step::InTheClear);
        assert_eq!(after_failed_handshake(policy, "no cipher"), Step::InTheClear);
        assert_eq!(after_offer(TlsPolicy::Off, true), Step::InTheClear);
    }

    #[test]
    fn the_way_is_secured_only_by_a_good_certificate_for_a_name_that_the_operator_gave() {
        let ask = |tls, way, is_encrypted, good: bool| {
            let security = Security { tls, way, ..Security::default() };
            secured(security, is_encrypted, || good.then_some(()).ok_or_else(|| "expired".to_owned())).is_ok()
        };
        let (any, verified) = (TlsPolicy::Opportunistic, TlsPolicy::Verified);
        assert!(ask(any, Way::Named, true, true) && ask(any, Way::NamedTls, true, true));
        assert!(ask(verified, Way::Named, true, false), "the handshake has judged it");
        assert!(!ask(any, Way::Named, true, false));
        assert!(!ask(any, Way::Named, false, true));
        assert!(!ask(verified, Way::Mx, true, true));
    }

    #[test]
    fn the_words_say_what_was_wrong() {
        let Step::GiveUp(reply) = after_failed_handshake(TlsPolicy::Verified, "certificate expired") else {
            panic!("it falls back")
        };
        assert!(reply.text.contains("certificate expired"), "{reply:?}");
    }
}
