//! Any arguments of a command: what is taken for an address can be said again, and nothing of it could end a command.

use ringpost::limits::MAILBOX_BYTES_MAX;
use ringpost::protocol::address::{Mailbox, Path, parse_path};
use ringpost::protocol::command;
use ringpost::protocol::extension::Extensions;

fn check_mailbox(mailbox: Mailbox<'_>) {
    let text = mailbox.as_str();
    assert!(text.len() <= MAILBOX_BYTES_MAX, "{} bytes", text.len());
    assert!(!text.contains(char::is_control), "{text:?}");
    assert_eq!(format!("{}@{}", mailbox.local_part(), mailbox.domain()), text);
    assert!(!mailbox.local_part().is_empty() && !mailbox.domain().is_empty(), "{text:?}");
    assert_eq!(Mailbox::parse(text), Ok(mailbox), "an address that is one once only");
    let path = format!("<{text}> X");
    assert_eq!(parse_path(&path), Ok((Path::Mailbox(mailbox), " X")), "a path that cannot be said again");
}

fn check_command(line: &[u8]) {
    let Ok((_, arguments)) = command::split(line) else { return };
    let offered = Extensions::default();
    if let Ok(mail) = command::parse_mail(arguments, &offered) {
        assert!(mail.sender.is_empty() || Mailbox::parse(mail.sender).is_ok(), "{:?}", mail.sender);
    }
    for smtputf8 in [false, true] {
        if let Ok(rcpt) = command::parse_rcpt(arguments, &offered, smtputf8)
            && let Some(mailbox) = rcpt.mailbox
        {
            assert!(Mailbox::parse(mailbox).is_ok(), "{mailbox:?}");
            assert!(smtputf8 || mailbox.is_ascii(), "{mailbox:?}");
        }
    }
    let _ = command::parse_bdat(arguments);
}

/// The input is read as a line, as a path and as a mailbox.
pub fn check(bytes: &[u8]) {
    check_command(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(mailbox) = Mailbox::parse(text) {
        check_mailbox(mailbox);
    }
    if let Ok((path, rest)) = parse_path(text) {
        assert!(text.ends_with(rest) && text[..text.len() - rest.len()].ends_with('>'), "{text:?}");
        if let Path::Mailbox(mailbox) = path {
            check_mailbox(mailbox);
        }
    }
}
