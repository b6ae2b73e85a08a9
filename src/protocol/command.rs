//! PURE. Understands command lines: verb, arguments, ESMTP parameters (RFC 5321 §4.1.1). Everything is borrowed.
//!
//! Says nothing about order: which command may come when is `server::rules`.

use crate::envelope::{Notify, Parameters, Return};
use crate::protocol::address::{Path, parse_path};
use crate::protocol::extension::Extensions;
use crate::protocol::reply::{self, Refusal};

/// Longest ENVID, characters. RFC 3461 §4.4.
const ENVID_BYTES_MAX: usize = 100;
/// Longest ORCPT, characters. RFC 3461 §4.2.
const ORCPT_BYTES_MAX: usize = 500;

/// First word of a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verb {
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Ehlo,
    Helo,
    Lhlo,
    Noop,
    Quit,
    Vrfy,
    Expn,
    Help,
    StartTls,
    Auth,
    Xclient,
    /// A browser that was made to speak to us: nothing it sends is meant for a mail server.
    Http,
}

/// Words and verbs, those of each message first.
const VERBS: &[(&str, Verb)] = &[
    ("MAIL", Verb::Mail),
    ("RCPT", Verb::Rcpt),
    ("DATA", Verb::Data),
    ("BDAT", Verb::Bdat),
    ("RSET", Verb::Rset),
    ("EHLO", Verb::Ehlo),
    ("HELO", Verb::Helo),
    ("LHLO", Verb::Lhlo),
    ("NOOP", Verb::Noop),
    ("QUIT", Verb::Quit),
    ("VRFY", Verb::Vrfy),
    ("EXPN", Verb::Expn),
    ("HELP", Verb::Help),
    ("STARTTLS", Verb::StartTls),
    ("AUTH", Verb::Auth),
    ("XCLIENT", Verb::Xclient),
    ("GET", Verb::Http),
    ("POST", Verb::Http),
    ("PUT", Verb::Http),
    ("HEAD", Verb::Http),
    ("OPTIONS", Verb::Http),
    ("CONNECT", Verb::Http),
    ("DELETE", Verb::Http),
    ("PATCH", Verb::Http),
    ("PRI", Verb::Http),
];

/// Verb and arguments of `line`, which has no CR LF. Arguments have no blanks around them.
pub fn split(line: &[u8]) -> Result<(Verb, &str), Refusal> {
    let text = std::str::from_utf8(line).map_err(|_| reply::NOT_A_COMMAND)?;
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(reply::NOT_A_COMMAND);
    }
    let (word, arguments) = text.split_once(' ').unwrap_or((text, ""));
    if word.is_empty() {
        return Err(reply::NOT_A_COMMAND);
    }
    let known = VERBS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
    known.map(|(_, verb)| (*verb, arguments.trim_matches(' '))).ok_or(reply::UNKNOWN_COMMAND)
}

/// Arguments of MAIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mail<'a> {
    /// Mailbox, or empty for the null sender.
    pub sender: &'a str,
    /// SIZE, octets (RFC 1870).
    pub size: Option<u64>,
    /// BODY, SMTPUTF8, RET.
    pub parameters: Parameters,
    /// ENVID, still xtext; empty if none was given.
    pub envid: &'a str,
}

/// Arguments of RCPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rcpt<'a> {
    /// Mailbox, or `None` for `<Postmaster>` without a domain.
    pub mailbox: Option<&'a str>,
    /// NOTIFY.
    pub notify: Notify,
    /// ORCPT (`rfc822;xtext`), empty if none was given.
    pub original: &'a str,
}

/// Arguments of BDAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bdat {
    /// Octets that follow the command.
    pub size: u64,
    /// The body ends with them.
    pub last: bool,
}

/// Understands `FROM:<path> parameters`.
pub fn parse_mail<'a>(arguments: &'a str, offered: &Extensions) -> Result<Mail<'a>, Refusal> {
    let path = after_keyword(arguments, "FROM:").ok_or(reply::BAD_ARGUMENTS)?;
    let (path, rest) = parse_path(path).map_err(|_| reply::BAD_SENDER)?;
    let sender = match path {
        Path::Null => "",
        Path::Mailbox(mailbox) => mailbox.as_str(),
        Path::Postmaster => return Err(reply::BAD_SENDER),
    };
    let mut mail = Mail { sender, size: None, parameters: Parameters::default(), envid: "" };
    let mut seen = Seen::default();
    for (name, value) in parameters(rest)? {
        if name.eq_ignore_ascii_case("SIZE") {
            seen.once(1)?;
            mail.size = Some(number(value).ok_or(reply::BAD_PARAMETER)?);
        } else if name.eq_ignore_ascii_case("BODY") {
            seen.once(2)?;
            match value.ok_or(reply::BAD_PARAMETER)? {
                value if value.eq_ignore_ascii_case("7BIT") => {}
                value if value.eq_ignore_ascii_case("8BITMIME") => mail.parameters.eight_bit = true,
                value if offered.chunking && value.eq_ignore_ascii_case("BINARYMIME") => {
                    mail.parameters.binary = true;
                }
                _ => return Err(reply::BAD_PARAMETER),
            }
        } else if offered.smtputf8 && name.eq_ignore_ascii_case("SMTPUTF8") {
            seen.once(4)?;
            mail.parameters.smtputf8 = value.is_none().then_some(true).ok_or(reply::BAD_PARAMETER)?;
        } else if offered.dsn && name.eq_ignore_ascii_case("RET") {
            seen.once(8)?;
            mail.parameters.ret = [Return::Full, Return::Headers][one_of(value, ["FULL", "HDRS"])?];
        } else if offered.dsn && name.eq_ignore_ascii_case("ENVID") {
            seen.once(16)?;
            let envid = value.filter(|value| is_xtext(value) && value.len() <= ENVID_BYTES_MAX);
            mail.envid = envid.ok_or(reply::BAD_PARAMETER)?;
        } else if offered.require_tls && name.eq_ignore_ascii_case("REQUIRETLS") {
            seen.once(64)?;
            mail.parameters.require_tls = value.is_none().then_some(true).ok_or(reply::BAD_PARAMETER)?;
        } else if offered.auth && name.eq_ignore_ascii_case("AUTH") {
            // RFC 4954 §5: taken from everybody, and not passed on, as if it were `<>`.
            seen.once(32)?;
            value.filter(|value| is_xtext(value)).ok_or(reply::BAD_PARAMETER)?;
        } else {
            return Err(reply::UNKNOWN_PARAMETER);
        }
    }
    if mail.parameters.smtputf8 || sender.is_ascii() { Ok(mail) } else { Err(reply::NEEDS_SMTPUTF8) }
}

/// Understands `TO:<path> parameters`; `smtputf8` is that of the transaction.
pub fn parse_rcpt<'a>(arguments: &'a str, offered: &Extensions, smtputf8: bool) -> Result<Rcpt<'a>, Refusal> {
    let path = after_keyword(arguments, "TO:").ok_or(reply::BAD_ARGUMENTS)?;
    let (path, rest) = parse_path(path).map_err(|_| reply::BAD_RECIPIENT)?;
    let mailbox = match path {
        Path::Null => return Err(reply::BAD_RECIPIENT),
        Path::Postmaster => None,
        Path::Mailbox(mailbox) => Some(mailbox.as_str()),
    };
    let mut rcpt = Rcpt { mailbox, notify: Notify::DEFAULT, original: "" };
    let mut seen = Seen::default();
    for (name, value) in parameters(rest)? {
        if offered.dsn && name.eq_ignore_ascii_case("NOTIFY") {
            seen.once(1)?;
            rcpt.notify = value.and_then(parse_notify).ok_or(reply::BAD_PARAMETER)?;
        } else if offered.dsn && name.eq_ignore_ascii_case("ORCPT") {
            seen.once(2)?;
            let original = value.filter(|value| is_original(value, smtputf8));
            rcpt.original = original.ok_or(reply::BAD_PARAMETER)?;
        } else {
            return Err(reply::UNKNOWN_PARAMETER);
        }
    }
    if smtputf8 || mailbox.is_none_or(str::is_ascii) { Ok(rcpt) } else { Err(reply::NEEDS_SMTPUTF8) }
}

/// Understands `size [LAST]` (RFC 3030 §2).
pub fn parse_bdat(arguments: &str) -> Option<Bdat> {
    let (size, rest) = arguments.split_once(' ').unwrap_or((arguments, ""));
    let last = rest.trim_start_matches(' ');
    let size = number(Some(size))?;
    (last.is_empty() || last.eq_ignore_ascii_case("LAST")).then_some(Bdat { size, last: !last.is_empty() })
}

/// What follows `keyword` and blanks; RFC 5321 §3.3 has none there, but clients do.
fn after_keyword<'a>(arguments: &'a str, keyword: &str) -> Option<&'a str> {
    let (word, rest) = arguments.split_at_checked(keyword.len())?;
    word.eq_ignore_ascii_case(keyword).then(|| rest.trim_start_matches(' '))
}

/// Splits ` NAME=value NAME` (RFC 5321 §4.1.2 `Mail-parameters`); `rest` must start with a blank if there is anything.
fn parameters(rest: &str) -> Result<impl Iterator<Item = (&str, Option<&str>)>, Refusal> {
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err(reply::BAD_ARGUMENTS);
    }
    let words = rest.split(' ').filter(|word| !word.is_empty());
    let pair = |word| match str::split_once(word, '=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    Ok(words.map(pair))
}

/// Which parameters have been given, a bit each.
#[derive(Default)]
struct Seen(u8);

impl Seen {
    fn once(&mut self, bit: u8) -> Result<(), Refusal> {
        if self.0 & bit != 0 {
            return Err(reply::BAD_PARAMETER);
        }
        self.0 |= bit;
        Ok(())
    }
}

/// Place of `value` in `words`.
fn one_of(value: Option<&str>, words: [&str; 2]) -> Result<usize, Refusal> {
    let value = value.ok_or(reply::BAD_PARAMETER)?;
    words.iter().position(|word| value.eq_ignore_ascii_case(word)).ok_or(reply::BAD_PARAMETER)
}

/// 1 to 20 digits that fit a `u64`. `str::parse` alone would take a plus sign.
fn number(value: Option<&str>) -> Option<u64> {
    let value = value?;
    let digits = (1..=20).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| value.parse().ok())?
}

fn parse_notify(value: &str) -> Option<Notify> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(Notify(Notify::NEVER));
    }
    value.split(',').try_fold(Notify(0), |sum, word| {
        let words = [("SUCCESS", Notify::SUCCESS), ("FAILURE", Notify::FAILURE), ("DELAY", Notify::DELAY)];
        let (_, bit) = words.iter().find(|(name, _)| word.eq_ignore_ascii_case(name))?;
        Some(Notify(sum.0 | bit))
    })
}

/// RFC 3461 §4: printable ASCII, with `+` only before two hexadecimal digits in upper case, and no `=`.
fn is_xtext(value: &str) -> bool {
    let hex = |byte: Option<&u8>| byte.is_some_and(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    let bytes = value.as_bytes();
    !bytes.is_empty()
        && bytes.iter().enumerate().all(|(at, byte)| match byte {
            b'+' => hex(bytes.get(at + 1)) && hex(bytes.get(at + 2)),
            _ => matches!(byte, b'!'..=b'~') && *byte != b'=',
        })
}

/// ORCPT: address type, semicolon, address in xtext; of type `utf-8` in the forms of RFC 6533 §3.
fn is_original(value: &str, smtputf8: bool) -> bool {
    let Some((kind, address)) = value.split_once(';') else { return false };
    let atom = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let wide = |c: char| c != '=' && (c.is_ascii_graphic() || (smtputf8 && !c.is_ascii() && !c.is_control()));
    let text = if kind.eq_ignore_ascii_case("utf-8") {
        !address.is_empty() && address.chars().all(wide)
    } else {
        is_xtext(address)
    };
    atom && text && value.len() <= ORCPT_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Extensions =
        Extensions { dsn: true, smtputf8: true, chunking: true, auth: false, require_tls: false };

    #[test]
    fn verbs_are_found_in_any_case_and_arguments_lose_their_blanks() {
        for (line, want) in [
            ("NOOP", Ok((Verb::Noop, ""))),
            ("mail  FROM:<> ", Ok((Verb::Mail, "FROM:<>"))),
            ("Data ", Ok((Verb::Data, ""))),
            ("GET / HTTP/1.1", Ok((Verb::Http, "/ HTTP/1.1"))),
            ("DATAX", Err(reply::UNKNOWN_COMMAND)),
            ("MAILFROM:<>", Err(reply::UNKNOWN_COMMAND)),
            ("", Err(reply::NOT_A_COMMAND)),
            (" NOOP", Err(reply::NOT_A_COMMAND)),
            ("NOOP\0", Err(reply::NOT_A_COMMAND)),
            ("MAIL\tFROM:<>", Err(reply::NOT_A_COMMAND)),
        ] {
            assert_eq!(split(line.as_bytes()), want, "{line:?}");
        }
        assert_eq!(split(b"NOOP \xff"), Err(reply::NOT_A_COMMAND));
    }

    /// `Ok` as `sender size flags envid`.
    fn mail(arguments: &str, offered: &Extensions) -> Result<String, u16> {
        let mail = parse_mail(arguments, offered).map_err(|refusal| refusal.code)?;
        let Parameters { eight_bit, binary, smtputf8, ret, .. } = mail.parameters;
        let size = mail.size.map_or("-".into(), |size| size.to_string());
        Ok(format!(
            "{} {size} {} {} {ret:?} {}",
            mail.sender,
            u8::from(eight_bit) + 2 * u8::from(binary),
            u8::from(smtputf8),
            mail.envid
        ))
    }

    #[test]
    fn mail_and_its_parameters() {
        for (arguments, want) in [
            ("FROM:<>", Ok(" - 0 0 Unspecified ")),
            ("from:  <a@b>", Ok("a@b - 0 0 Unspecified ")),
            ("FROM:<a@b>  size=12  body=8bitmime", Ok("a@b 12 1 0 Unspecified ")),
            ("FROM:<a@b> BODY=binarymime", Ok("a@b - 2 0 Unspecified ")),
            ("FROM:<a@b> BODY=7BIT RET=HDRS ENVID=x+2By", Ok("a@b - 0 0 Headers x+2By")),
            ("FROM:<é@b> SMTPUTF8 RET=FULL", Ok("é@b - 0 1 Full ")),
            ("FROM:<é@b>", Err(553)),
            ("FROM:<a@b>SIZE=1", Err(501)),
            ("FROM <a@b>", Err(501)),
            ("FROM:a@b", Err(501)),
            ("FROM:<postmaster>", Err(501)),
            ("TO:<a@b>", Err(501)),
            ("", Err(501)),
            ("é", Err(501)),
            ("FROM:<a@b> SIZE=", Err(501)),
            ("FROM:<a@b> SIZE", Err(501)),
            ("FROM:<a@b> SIZE=+1", Err(501)),
            ("FROM:<a@b> SIZE=99999999999999999999", Err(501)),
            ("FROM:<a@b> SIZE=1 SIZE=1", Err(501)),
            ("FROM:<a@b> BODY=9BITMIME", Err(501)),
            ("FROM:<a@b> SMTPUTF8=1", Err(501)),
            ("FROM:<a@b> RET=ALL", Err(501)),
            ("FROM:<a@b> ENVID=", Err(501)),
            ("FROM:<a@b> ENVID=a+2", Err(501)),
            ("FROM:<a@b> ENVID=a=b", Err(501)),
            ("FROM:<a@b> AUTH=<>", Err(555)),
            ("FROM:<a@b> =1", Err(555)),
        ] {
            assert_eq!(mail(arguments, &ALL), want.map(str::to_owned), "{arguments:?}");
        }
        let long = |bytes: usize| format!("FROM:<> ENVID={}", "x".repeat(bytes));
        assert!(mail(&long(100), &ALL).is_ok() && mail(&long(101), &ALL).is_err());
    }

    #[test]
    fn parameters_of_an_extension_that_is_not_offered_are_unknown() {
        let none =
            Extensions { dsn: false, smtputf8: false, chunking: false, auth: false, require_tls: false };
        for parameter in ["SMTPUTF8", "RET=FULL", "ENVID=x"] {
            assert_eq!(mail(&format!("FROM:<a@b> {parameter}"), &none), Err(555), "{parameter}");
        }
        assert_eq!(parse_rcpt("TO:<a@b> NOTIFY=NEVER", &none, false), Err(reply::UNKNOWN_PARAMETER));
        let auth = Extensions { auth: true, ..none };
        assert_eq!(mail("FROM:<a@b> AUTH=<>", &auth), Ok("a@b - 0 0 Unspecified ".into()));
        assert_eq!(mail("FROM:<a@b> AUTH=", &auth), Err(501));
        assert_eq!(mail("FROM:<a@b> SIZE=1", &none), Ok("a@b 1 0 0 Unspecified ".into()));
    }

    #[test]
    fn rcpt_and_its_parameters() {
        for (arguments, smtputf8, want) in [
            ("TO:<a@b>", false, Ok((Some("a@b"), 0, ""))),
            ("TO: <Postmaster>", false, Ok((None, 0, ""))),
            ("TO:<@r:a@b> NOTIFY=NEVER", false, Ok((Some("a@b"), 1, ""))),
            (
                "TO:<a@b> notify=success,Delay ORCPT=rfc822;x+20y@z",
                false,
                Ok((Some("a@b"), 10, "rfc822;x+20y@z")),
            ),
            ("TO:<é@b> ORCPT=utf-8;é@b", true, Ok((Some("é@b"), 0, "utf-8;é@b"))),
            ("TO:<a@b> ORCPT=utf-8;\\x{E9}@b", false, Ok((Some("a@b"), 0, "utf-8;\\x{E9}@b"))),
            ("TO:<é@b>", false, Err(553)),
            ("TO:<a@b> ORCPT=utf-8;é@b", false, Err(501)),
            ("TO:<>", false, Err(501)),
            ("TO:<a@b", false, Err(501)),
            ("TO:<a@b> NOTIFY=", false, Err(501)),
            ("TO:<a@b> NOTIFY=NEVER,DELAY", false, Err(501)),
            ("TO:<a@b> NOTIFY=DELAY,", false, Err(501)),
            ("TO:<a@b> ORCPT=a@b", false, Err(501)),
            ("TO:<a@b> ORCPT=rfc822;", false, Err(501)),
            ("TO:<a@b> ORCPT=;x", false, Err(501)),
            ("TO:<a@b> SIZE=1", false, Err(555)),
        ] {
            let got = parse_rcpt(arguments, &ALL, smtputf8);
            let got = got.map(|r| (r.mailbox, r.notify.0, r.original)).map_err(|refusal| refusal.code);
            assert_eq!(got, want, "{arguments:?}");
        }
    }

    #[test]
    fn bdat_takes_a_size_and_last_and_nothing_else() {
        for (arguments, want) in [
            ("0 LAST", Some((0, true))),
            ("12", Some((12, false))),
            ("18446744073709551615  last", Some((u64::MAX, true))),
            ("18446744073709551616", None),
            ("", None),
            ("LAST", None),
            ("-1", None),
            ("1x", None),
            ("1 LASTLY", None),
            ("1 LAST x", None),
        ] {
            assert_eq!(parse_bdat(arguments).map(|bdat| (bdat.size, bdat.last)), want, "{arguments:?}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok((_, arguments)) = split(&line) {
                let _ = (parse_mail(arguments, &ALL), parse_bdat(arguments));
            }
            let text = String::from_utf8_lossy(&line);
            let _ = (parse_mail(&text, &ALL), parse_rcpt(&format!("TO:{text}"), &ALL, true));
        }
    }
}
