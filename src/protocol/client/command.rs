//! PURE. Writes the commands of a transaction, and refuses text that could become a command of its own.
//!
//! What comes here was checked when it was accepted; it is checked again because an address that carries a line end
//! would let its owner speak SMTP with the relay's standing at every remote.

use super::Capabilities;
use crate::envelope::{Notify, Parameters, Recipient, Return};
use std::io::Write;

/// Whether a mailbox can stand between angle brackets: no control characters, no angle brackets.
pub(super) fn is_safe_mailbox(mailbox: &str) -> bool {
    !mailbox.chars().any(|c| c.is_control() || c == '<' || c == '>')
}

/// Whether a parameter's value is printable ASCII without spaces (xtext is, RFC 3461 §4).
fn is_safe_value(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'<' && byte != b'>')
}

/// The sender's side of a transaction, as MAIL says it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mail<'a> {
    pub(super) sender: &'a str,
    pub(super) parameters: Parameters,
    pub(super) envid: Option<&'a str>,
    pub(super) size: u64,
}

/// Appends MAIL with the parameters that the remote understands; the others are dropped.
pub(super) fn write_mail(mail: Mail<'_>, offered: &Capabilities, out: &mut Vec<u8>) {
    assert!(is_safe_mailbox(mail.sender), "senders are checked before a transaction begins");
    for part in ["MAIL FROM:<", mail.sender, ">"] {
        out.extend_from_slice(part.as_bytes());
    }
    if offered.size.is_some() {
        write!(out, " SIZE={}", mail.size).expect("writing to memory succeeds");
    }
    if mail.parameters.binary {
        out.extend_from_slice(b" BODY=BINARYMIME");
    } else if offered.eight_bit && mail.parameters.eight_bit {
        out.extend_from_slice(b" BODY=8BITMIME");
    }
    if offered.smtputf8 && (mail.parameters.smtputf8 || !mail.sender.is_ascii()) {
        out.extend_from_slice(b" SMTPUTF8");
    }
    if offered.require_tls && mail.parameters.require_tls {
        out.extend_from_slice(b" REQUIRETLS");
    }
    if offered.dsn {
        match mail.parameters.ret {
            Return::Unspecified => {}
            Return::Full => out.extend_from_slice(b" RET=FULL"),
            Return::Headers => out.extend_from_slice(b" RET=HDRS"),
        }
        if let Some(envid) = mail.envid.filter(|envid| is_safe_value(envid)) {
            out.extend_from_slice(b" ENVID=");
            out.extend_from_slice(envid.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends RCPT, with NOTIFY and ORCPT if the remote understands them.
pub(super) fn write_rcpt(recipient: &Recipient<'_>, offered: &Capabilities, out: &mut Vec<u8>) {
    assert!(is_safe_mailbox(recipient.mailbox), "recipients are checked before they are written");
    for part in ["RCPT TO:<", recipient.mailbox, ">"] {
        out.extend_from_slice(part.as_bytes());
    }
    if offered.dsn {
        write_notify(recipient.notify, out);
        if is_safe_value(recipient.original) {
            out.extend_from_slice(b" ORCPT=");
            out.extend_from_slice(recipient.original.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn write_notify(notify: Notify, out: &mut Vec<u8>) {
    if notify == Notify::DEFAULT {
        return;
    }
    // NEVER excludes the others (RFC 3461 §4.1).
    if notify.0 & Notify::NEVER != 0 {
        out.extend_from_slice(b" NOTIFY=NEVER");
        return;
    }
    let mut separator: &[u8] = b" NOTIFY=";
    for (bit, word) in [(Notify::SUCCESS, "SUCCESS"), (Notify::FAILURE, "FAILURE"), (Notify::DELAY, "DELAY")]
    {
        if notify.0 & bit != 0 {
            out.extend_from_slice(separator);
            out.extend_from_slice(word.as_bytes());
            separator = b",";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(offered: &Capabilities) -> String {
        let parameters =
            Parameters { eight_bit: true, smtputf8: true, ret: Return::Headers, ..Parameters::default() };
        let mail = Mail { sender: "a@b.test", parameters, envid: Some("e+20x"), size: 7 };
        let mut out = Vec::new();
        write_mail(mail, offered, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn rcpt(notify: u8, original: &str, dsn: bool) -> String {
        let recipient = Recipient { index: 0, mailbox: "r@b.test", notify: Notify(notify), original };
        let mut out = Vec::new();
        write_rcpt(&recipient, &Capabilities { dsn, ..Capabilities::default() }, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn parameters_are_given_when_offered_and_dropped_when_not() {
        assert_eq!(mail(&Capabilities::default()), "MAIL FROM:<a@b.test>\r\n");
        let all = Capabilities {
            eight_bit: true,
            smtputf8: true,
            size: Some(0),
            dsn: true,
            ..Capabilities::default()
        };
        let want = "MAIL FROM:<a@b.test> SIZE=7 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=e+20x\r\n";
        assert_eq!(mail(&all), want);
    }

    #[test]
    fn notify_and_orcpt_are_passed_on() {
        assert_eq!(rcpt(12, "rfc822;o@b.test", false), "RCPT TO:<r@b.test>\r\n");
        assert_eq!(
            rcpt(12, "rfc822;o@b.test", true),
            "RCPT TO:<r@b.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;o@b.test\r\n"
        );
        assert_eq!(rcpt(1, "", true), "RCPT TO:<r@b.test> NOTIFY=NEVER\r\n");
        assert_eq!(rcpt(0, "", true), "RCPT TO:<r@b.test>\r\n");
    }

    #[test]
    fn a_parameter_that_could_end_the_command_is_left_out() {
        for original in ["rfc822;a b", "rfc822;a\r\nQUIT", "rfc822;é", "a>b"] {
            assert_eq!(rcpt(0, original, true), "RCPT TO:<r@b.test>\r\n", "{original:?}");
        }
    }

    #[test]
    fn mailboxes_that_could_end_the_command_are_unsafe() {
        for bad in ["a@b>", "<a@b", "a\r\n@b", "a\n@b", "a\0@b", "a\u{7f}@b", "a\u{85}@b"] {
            assert!(!is_safe_mailbox(bad), "{bad:?}");
        }
        for good in ["a@b", "\"a b\"@c", "é@b", ""] {
            assert!(is_safe_mailbox(good), "{good:?}");
        }
    }
}
