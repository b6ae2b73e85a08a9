//! PURE. The envelope under way, and what has come of its message.

use crate::sink::script::Decision;
use crate::sink::session::{Delivery, Host};
use crate::wire::mark::{Id, Local};
use crate::wire::receipt::Receipt;

/// The envelope under way. Kept between transactions for its buffers.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    /// MAIL was taken; the sender's id if it is one of a source's.
    pub(super) from: Option<Option<Id>>,
    /// MAIL was refused, so what a pipelining client has sent behind it is no mistake of its (RFC 2920 §3.1).
    pub(super) turned_away: bool,
    pub(super) null_sender: bool,
    pub(super) recipients: Vec<Local>,
    /// What the script has for later stages, of the first recipient for which it has anything.
    pub(super) at_data: Decision,
    pub(super) at_dot: Decision,
    /// With LMTP, what it has for each recipient after the dot.
    pub(super) each_at_dot: Vec<Decision>,
    /// BDAT has begun.
    pub(super) chunking: bool,
    pub(super) receipt: Receipt,
    /// Both filled only for a host that keeps messages.
    pub(super) header_lines: Vec<u8>,
    pub(super) content: Vec<u8>,
}

impl Envelope {
    pub(super) fn reset(&mut self) {
        self.from = None;
        self.turned_away = false;
        self.null_sender = false;
        self.recipients.clear();
        (self.at_data, self.at_dot) = (Decision::default(), Decision::default());
        self.each_at_dot.clear();
        self.chunking = false;
        self.receipt.reset();
        self.header_lines.clear();
        self.content.clear();
    }

    /// Notes an address of the envelope as a header line.
    pub(super) fn note(&mut self, keep: bool, [before, address, behind]: [&[u8]; 3]) {
        if keep {
            for part in [before, address, behind] {
                self.header_lines.extend_from_slice(part);
            }
        }
    }

    /// Hands the message on, for the recipients that are left.
    pub(super) fn deliver(&self, host: &mut impl Host) {
        let Self { receipt, recipients, null_sender, header_lines: envelope, content, .. } = self;
        host.delivered(&Delivery { receipt, recipients, null_sender: *null_sender, envelope, content });
    }

    pub(super) fn take(&mut self, keep: bool, piece: &[u8]) {
        self.receipt.take(piece);
        if keep {
            self.content.extend_from_slice(piece);
        }
    }
}
