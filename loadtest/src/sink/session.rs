//! PURE. The server side of one connection. Fed received bytes, it appends replies and tells the [`Host`] of messages.
//! It copies nothing but a command line that two reads share; content streams through as slices.

use crate::sink::script::{Action, Pending, Script, Stage};
use crate::wire::content::{Content, DotFinder};
use crate::wire::mark::{Id, Local, parse_digits};
use crate::wire::receipt::Receipt;
use crate::wire::reply::LineCutter;

/// What the sink offers after EHLO, beside 8BITMIME, SIZE, ENHANCEDSTATUSCODES, SMTPUTF8 and DSN.
#[derive(Clone, Copy, Debug)]
pub struct Offers {
    /// PIPELINING.
    pub pipelining: bool,
    /// CHUNKING: BDAT is understood (RFC 3030).
    pub chunking: bool,
}

/// Counted by the session's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// 4xx by the script.
    Deferred,
    /// 5xx by the script.
    Rejected,
    /// The script drops the connection.
    Dropped,
    /// 5xx to a bad command.
    Error,
}

/// A message that gets its 250.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// What its header and body say.
    pub receipt: &'a Receipt,
    /// Its recipients.
    pub recipients: &'a [Local],
    /// From the null sender.
    pub null_sender: bool,
    /// The whole content if the host keeps it, else empty.
    pub content: &'a [u8],
}

/// What a session needs from whoever drives it.
pub trait Host {
    /// A message was taken.
    fn delivered(&mut self, delivery: &Delivery<'_>);
    /// The recipient at `index` of message `id` was refused for good.
    fn failed(&mut self, id: Id, index: u16);
    /// Something to count.
    fn count(&mut self, counted: Counted);
    /// Any random number.
    fn chance(&mut self) -> u64;
}

/// What does not change between sessions of a thread.
#[derive(Debug)]
pub struct Fixed<'a> {
    /// Who is refused.
    pub script: &'a Script,
    /// Capabilities.
    pub offers: Offers,
    /// Whole contents are handed to the host.
    pub keep: bool,
    /// The thread's search for dots.
    pub finder: &'a DotFinder,
}

/// What the driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Write the replies, read on.
    Continue,
    /// Write the replies, then close.
    Close,
    /// Close without writing.
    Drop,
}

#[derive(Debug)]
enum State {
    Command,
    Data(Content),
    /// Inside a BDAT chunk.
    Chunk {
        left: u64,
        last: bool,
    },
    /// Inside a BDAT chunk that nobody wants.
    Discard {
        left: u64,
    },
}

/// The envelope under way. Kept between transactions for its buffers.
#[derive(Debug, Default)]
struct Envelope {
    /// MAIL was taken; the sender's id if it is one of a source's.
    from: Option<Option<Id>>,
    null_sender: bool,
    recipients: Vec<Local>,
    /// The first rules for later stages that concern a recipient.
    at_data: Option<Pending>,
    at_dot: Option<Pending>,
    /// BDAT has begun.
    chunking: bool,
    receipt: Receipt,
    content: Vec<u8>,
}

impl Envelope {
    fn reset(&mut self) {
        self.from = None;
        self.null_sender = false;
        self.recipients.clear();
        (self.at_data, self.at_dot) = (None, None);
        self.chunking = false;
        self.receipt.reset();
        self.content.clear();
    }

    fn take(&mut self, keep: bool, piece: &[u8]) {
        self.receipt.take(piece);
        if keep {
            self.content.extend_from_slice(piece);
        }
    }
}

/// One connection's session.
#[derive(Debug)]
pub struct Session {
    state: State,
    cutter: LineCutter,
    envelope: Envelope,
}

/// Sent on connect.
pub const BANNER: &[u8] = b"220 sink.load.invalid ESMTP ringpost-load\r\n";
const SEQUENCE: &[u8] = b"503 5.5.1 Bad sequence of commands\r\n";
const SYNTAX: &[u8] = b"501 5.5.4 Syntax error in parameters\r\n";

impl Default for Session {
    fn default() -> Self {
        Self { state: State::Command, cutter: LineCutter::default(), envelope: Envelope::default() }
    }
}

impl Session {
    /// Takes received bytes and appends replies to `out`.
    pub fn receive(
        &mut self,
        fixed: &Fixed<'_>,
        mut bytes: &[u8],
        out: &mut Vec<u8>,
        host: &mut impl Host,
    ) -> Flow {
        let mut cutter = std::mem::take(&mut self.cutter);
        let mut flow = Flow::Continue;
        while flow == Flow::Continue && !bytes.is_empty() {
            flow = match &mut self.state {
                State::Command => match cutter.next(&mut bytes) {
                    Ok(Some(line)) => self.command(fixed, line, out, host),
                    Ok(None) => Flow::Continue,
                    Err(_) => {
                        out.extend_from_slice(b"500 5.5.2 Line too long\r\n");
                        Flow::Close
                    }
                },
                State::Data(content) => {
                    let envelope = &mut self.envelope;
                    match content.scan(fixed.finder, bytes, |piece| envelope.take(fixed.keep, piece)) {
                        Some(rest) => {
                            bytes = rest;
                            self.finish(fixed, out, host)
                        }
                        None => break,
                    }
                }
                State::Chunk { .. } | State::Discard { .. } => self.chunk(fixed, &mut bytes, out, host),
            };
        }
        self.cutter = cutter;
        flow
    }

    fn command(&mut self, fixed: &Fixed<'_>, line: &[u8], out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        let verb_end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
        let argument = line[verb_end..].trim_ascii();
        let mut verb = [0u8; 8];
        if let Some(place) = verb.get_mut(..verb_end) {
            place.copy_from_slice(&line[..verb_end]);
            place.make_ascii_uppercase();
        }
        let reply: &[u8] = match &verb[..verb_end.min(8)] {
            b"MAIL" => self.mail(argument),
            b"RCPT" => return self.rcpt(fixed, argument, out, host),
            b"DATA" => return self.data(fixed, out, host),
            b"BDAT" if fixed.offers.chunking => return self.bdat(fixed, argument, out, host),
            b"EHLO" => {
                self.envelope.reset();
                return hello(fixed.offers, out);
            }
            b"HELO" => {
                self.envelope.reset();
                b"250 sink.load.invalid\r\n"
            }
            b"RSET" => {
                self.envelope.reset();
                b"250 2.0.0 Ok\r\n"
            }
            b"NOOP" => b"250 2.0.0 Ok\r\n",
            b"VRFY" => b"252 2.0.0 Send some mail\r\n",
            b"QUIT" => {
                out.extend_from_slice(b"221 2.0.0 Bye\r\n");
                return Flow::Close;
            }
            _ => b"500 5.5.1 Command not known\r\n",
        };
        if reply[0] == b'5' {
            host.count(Counted::Error);
        }
        out.extend_from_slice(reply);
        Flow::Continue
    }

    fn mail(&mut self, argument: &[u8]) -> &'static [u8] {
        if self.envelope.from.is_some() {
            return SEQUENCE;
        }
        let Some(address) = path(argument, b"FROM:") else { return SYNTAX };
        self.envelope.null_sender = address.is_empty();
        self.envelope.from = Some(match Local::parse(local(address)) {
            Local::Sender(id) => Some(id),
            Local::Recipient { .. } | Local::Foreign => None,
        });
        b"250 2.1.0 Ok\r\n"
    }

    fn rcpt(&mut self, fixed: &Fixed<'_>, argument: &[u8], out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        let address = path(argument, b"TO:").filter(|address| !address.is_empty());
        let (Some(from), Some(address)) = (self.envelope.from, address) else {
            host.count(Counted::Error);
            out.extend_from_slice(if address.is_some() { SEQUENCE } else { SYNTAX });
            return Flow::Continue;
        };
        let recipient = Local::parse(local(address));
        if !fixed.script.is_empty() {
            let chance = host.chance();
            if let Some(action) = fixed
                .script
                .matching(Stage::Rcpt, address, chance)
                .and_then(|pending| fixed.script.apply(pending))
            {
                if action.is_permanent() {
                    failed(from, recipient, host);
                }
                return refuse(action, out, host);
            }
            let envelope = &mut self.envelope;
            let later = |stage, salt: u64| fixed.script.matching(stage, address, chance ^ salt);
            envelope.at_data = envelope.at_data.or_else(|| later(Stage::Data, 1 << 40));
            envelope.at_dot = envelope.at_dot.or_else(|| later(Stage::Dot, 2 << 40));
        }
        self.envelope.recipients.push(recipient);
        out.extend_from_slice(b"250 2.1.5 Ok\r\n");
        Flow::Continue
    }

    fn data(&mut self, fixed: &Fixed<'_>, out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        if self.envelope.recipients.is_empty() || self.envelope.chunking {
            host.count(Counted::Error);
            out.extend_from_slice(SEQUENCE);
            return Flow::Continue;
        }
        if let Some(action) = self.envelope.at_data.and_then(|pending| fixed.script.apply(pending)) {
            return self.refuse_all(action, out, host);
        }
        out.extend_from_slice(b"354 End data with <CR><LF>.<CR><LF>\r\n");
        self.state = State::Data(Content::default());
        Flow::Continue
    }

    fn bdat(&mut self, fixed: &Fixed<'_>, argument: &[u8], out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        let mut words = argument.split(|byte| *byte == b' ');
        let (left, last) = (words.next().and_then(parse_digits), words.next());
        let last = match (left, last) {
            (Some(_), None) => false,
            (Some(_), Some(word)) if word.eq_ignore_ascii_case(b"LAST") => true,
            // Where the chunk ends is not known, so nothing behind it can be understood.
            _ => {
                host.count(Counted::Error);
                out.extend_from_slice(SYNTAX);
                return Flow::Close;
            }
        };
        let left = left.unwrap_or(0);
        let mut flow = Flow::Continue;
        let mut wanted = !self.envelope.recipients.is_empty();
        if !wanted {
            host.count(Counted::Error);
            out.extend_from_slice(SEQUENCE);
        } else if !self.envelope.chunking
            && let Some(action) = self.envelope.at_data.and_then(|pending| fixed.script.apply(pending))
        {
            wanted = false;
            flow = self.refuse_all(action, out, host);
        }
        self.envelope.chunking = wanted;
        self.state = if wanted { State::Chunk { left, last } } else { State::Discard { left } };
        if flow == Flow::Continue && left == 0 {
            // No byte will come to end it.
            flow = self.chunk(fixed, &mut &b""[..], out, host);
        }
        flow
    }

    fn chunk(
        &mut self,
        fixed: &Fixed<'_>,
        bytes: &mut &[u8],
        out: &mut Vec<u8>,
        host: &mut impl Host,
    ) -> Flow {
        let (State::Chunk { left, .. } | State::Discard { left }) = &mut self.state else {
            return Flow::Continue;
        };
        let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
        let (piece, rest) = bytes.split_at(here);
        *bytes = rest;
        *left -= here as u64;
        let ended = *left == 0;
        match self.state {
            State::Chunk { last, .. } => {
                self.envelope.take(fixed.keep, piece);
                if ended && last {
                    return self.finish(fixed, out, host);
                }
                if ended {
                    out.extend_from_slice(b"250 2.0.0 Ok\r\n");
                    self.state = State::Command;
                }
            }
            _ if ended => self.state = State::Command,
            _ => {}
        }
        Flow::Continue
    }

    /// The whole message is here.
    fn finish(&mut self, fixed: &Fixed<'_>, out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        self.state = State::Command;
        if let Some(action) = self.envelope.at_dot.and_then(|pending| fixed.script.apply(pending)) {
            return self.refuse_all(action, out, host);
        }
        let Envelope { receipt, recipients, null_sender, content, .. } = &self.envelope;
        host.delivered(&Delivery { receipt, recipients, null_sender: *null_sender, content });
        out.extend_from_slice(b"250 2.0.0 Ok\r\n");
        self.envelope.reset();
        Flow::Continue
    }

    /// Refuses the transaction for all its recipients and forgets it.
    fn refuse_all(&mut self, action: &Action, out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
        if let Some(from) = self.envelope.from
            && action.is_permanent()
        {
            self.envelope.recipients.iter().for_each(|recipient| failed(from, *recipient, host));
        }
        self.envelope.reset();
        refuse(action, out, host)
    }
}

fn failed(from: Option<Id>, recipient: Local, host: &mut impl Host) {
    // The envelope alone says whose message this is: at RCPT there is no header yet.
    if let (Some(id), Local::Recipient { number, index }) = (from, recipient)
        && id.number == number
    {
        host.failed(id, index);
    }
}

fn refuse(action: &Action, out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
    match action {
        Action::Reply(text) => {
            host.count(if action.is_permanent() { Counted::Rejected } else { Counted::Deferred });
            out.extend_from_slice(text.as_bytes());
            Flow::Continue
        }
        Action::Drop => {
            host.count(Counted::Dropped);
            Flow::Drop
        }
    }
}

fn hello(offers: Offers, out: &mut Vec<u8>) -> Flow {
    out.extend_from_slice(b"250-sink.load.invalid\r\n");
    if offers.pipelining {
        out.extend_from_slice(b"250-PIPELINING\r\n");
    }
    if offers.chunking {
        out.extend_from_slice(b"250-CHUNKING\r\n");
    }
    out.extend_from_slice(
        b"250-8BITMIME\r\n250-SIZE 0\r\n250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250 SMTPUTF8\r\n",
    );
    Flow::Continue
}

/// The address in `FROM:<address> parameters`, lenient about spaces.
fn path<'a>(argument: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (word, rest) = argument.split_at_checked(keyword.len())?;
    if !word.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let rest = rest.trim_ascii_start().strip_prefix(b"<")?;
    // A quoted local part may hold `>`; the last one before the parameters is not worth finding in a sink.
    Some(&rest[..memchr::memchr(b'>', rest)?])
}

fn local(address: &[u8]) -> &[u8] {
    &address[..memchr::memrchr(b'@', address).unwrap_or(address.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mark::Run;
    use crate::wire::template::Template;

    #[derive(Debug, Default, PartialEq)]
    struct Seen {
        delivered: Vec<(Option<Id>, bool, Vec<Local>, u64)>,
        failed: Vec<(u64, u16)>,
        counted: Vec<Counted>,
    }

    impl Host for Seen {
        fn delivered(&mut self, delivery: &Delivery<'_>) {
            let Delivery { receipt, recipients, content, .. } = delivery;
            assert_eq!(content.len() as u64, receipt.bytes(), "kept whole");
            self.delivered.push((receipt.id(), receipt.intact(), recipients.to_vec(), receipt.bytes()));
        }
        fn failed(&mut self, id: Id, index: u16) {
            self.failed.push((id.number, index));
        }
        fn count(&mut self, counted: Counted) {
            self.counted.push(counted);
        }
        fn chance(&mut self) -> u64 {
            7
        }
    }

    fn feed(rules: &[&str], bytes: &[u8], chunk: usize) -> (String, Flow, Seen) {
        let script = Script::parse(rules).unwrap_or_default();
        assert_eq!(script.is_empty(), rules.is_empty(), "{rules:?}");
        let finder = DotFinder::default();
        let offers = Offers { pipelining: true, chunking: true };
        let fixed = Fixed { script: &script, offers, keep: true, finder: &finder };
        let (mut session, mut out, mut seen) = (Session::default(), Vec::new(), Seen::default());
        let mut flow = Flow::Continue;
        for piece in bytes.chunks(chunk) {
            if flow == Flow::Continue {
                flow = session.receive(&fixed, piece, &mut out, &mut seen);
            }
        }
        (String::from_utf8_lossy(&out).into_owned(), flow, seen)
    }

    /// The first letters of each reply.
    fn codes(replies: &str) -> String {
        replies.lines().map(|line| &line[..3]).collect::<Vec<_>>().join(" ")
    }

    fn check(rules: &[&str], bytes: &[u8], want: &str, flow: Flow) -> Seen {
        let whole = feed(rules, bytes, bytes.len());
        assert_eq!((codes(&whole.0).as_str(), whole.1), (want, flow), "{}", whole.0);
        for chunk in [1, 2, 3, 13] {
            assert_eq!(feed(rules, bytes, chunk), whole, "by {chunk}");
        }
        whole.2
    }

    const ID: Id = Id { run: Run(0xab), number: 5 };

    fn message(dots: bool) -> Vec<u8> {
        let template = Template::new(2000, "s.invalid", "Thu, 01 Jan 1970 00:00:00 +0000", 3);
        let mut wire = Vec::new();
        template.header(ID, 1, &mut wire);
        wire.extend_from_slice(template.body());
        if !dots {
            let text = String::from_utf8_lossy(&wire[..wire.len() - 3]).replace("\r\n..", "\r\n.");
            return text.into_bytes();
        }
        wire
    }

    const ENVELOPE: &str = "MAIL FROM:<b-000000ab-000000000005@s.invalid> SIZE=9\r\n\
        RCPT TO:<load000000000005-0@d.invalid>\r\nrcpt to: <LOAD000000000005-1@d.invalid> NOTIFY=NEVER\r\n";

    #[test]
    fn pipelined_transactions_are_taken_whole_and_byte_by_byte() {
        let one = [ENVELOPE.as_bytes(), b"DATA\r\n", &message(true)].concat();
        let bytes = [b"EHLO me\r\n", &one[..], &one, b"QUIT\r\n"].concat();
        let replies = "250 250 250 250 250 250 250 250 250 250 354 250 250 250 250 354 250 221";
        let seen = check(&[], &bytes, replies, Flow::Close);
        let recipients = [0, 1].map(|index| Local::Recipient { number: 5, index }).to_vec();
        assert_eq!(seen.delivered, vec![(Some(ID), true, recipients, 2000); 2]);
    }

    #[test]
    fn chunks_make_the_same_message_as_data() {
        let content = message(false);
        let (first, second) = content.split_at(700);
        let bytes = [
            ENVELOPE.as_bytes(),
            format!("BDAT {}\r\n", first.len()).as_bytes(),
            first,
            format!("BDAT {}\r\n", second.len()).as_bytes(),
            second,
            b"BDAT 0 LAST\r\nNOOP\r\n",
        ]
        .concat();
        let seen = check(&[], &bytes, "250 250 250 250 250 250 250", Flow::Continue);
        assert_eq!(seen.delivered.len(), 1);
        assert_eq!((seen.delivered[0].1, seen.delivered[0].3), (true, 2000));
    }

    #[test]
    fn a_chunk_without_recipients_is_skipped_and_not_read_as_commands() {
        let bytes = b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n";
        check(&[], bytes, "503 250", Flow::Continue);
        check(&[], b"BDAT x LAST\r\nQUIT\r\n", "501", Flow::Close);
    }

    #[test]
    fn refusals_at_each_stage_fail_the_right_recipients() {
        let bytes = [ENVELOPE.as_bytes(), b"DATA\r\n", &message(true), b"NOOP\r\n"].concat();
        let seen =
            check(&["load*=550 5.1.1 no@rcpt"], &bytes[..ENVELOPE.len()], "250 550 250", Flow::Continue);
        assert_eq!(seen.failed, [(5, 0)]);
        let seen =
            check(&["load*=450 4.2.0 later@rcpt"], &bytes[..ENVELOPE.len()], "250 450 250", Flow::Continue);
        assert_eq!((seen.failed.len(), seen.counted), (0, vec![Counted::Deferred]));
        let seen = check(&["load*=554 5.7.1 spam@dot"], &bytes, "250 250 250 354 554 250", Flow::Continue);
        assert_eq!((seen.failed, seen.delivered.len()), (vec![(5, 0), (5, 1)], 0));
        let seen = check(&["load*=drop@data"], &bytes, "250 250 250", Flow::Drop);
        assert_eq!((seen.delivered.len(), seen.counted), (0, vec![Counted::Dropped]));
    }

    #[test]
    fn commands_out_of_order_and_unknown_ones_are_refused() {
        check(&[], b"RCPT TO:<a@b>\r\nDATA\r\n", "503 503", Flow::Continue);
        check(
            &[],
            b"MAIL FROM:<>\r\nMAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\n",
            "250 503 250 250",
            Flow::Continue,
        );
        check(&[], b"MAIL <a>\r\nVERYLONGCOMMAND\r\n\r\n", "501 500 500", Flow::Continue);
        check(&[], &[b'x'; 5000], "500", Flow::Close);
    }
}
