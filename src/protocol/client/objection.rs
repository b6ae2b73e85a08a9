//! PURE. What cannot be sent to this remote, and fails without a word to it.

use super::{Client, Transaction, command};
use crate::envelope::{Parameters, Recipient};
use crate::outcome::{Enhanced, Reply};

impl Client {
    /// Why a transaction cannot be sent to this remote at all.
    pub(super) fn objection(&self, transaction: &Transaction<'_>) -> Option<Reply> {
        let sender = transaction.sender;
        if !command::is_safe_mailbox(sender) {
            return Some(Reply::new(
                0,
                Enhanced(5, 1, 7),
                "sender address cannot be sent: it has control characters or angle brackets",
            ));
        }
        if self.offered.is_too_large(transaction.size) {
            let limit = self.offered.size.unwrap_or(0);
            let text =
                format!("message of {} bytes is larger than the remote's limit of {limit}", transaction.size);
            return Some(Reply::new(0, Enhanced(5, 3, 4), &text));
        }
        let refused = |detail, text| Some(Reply::new(0, Enhanced(5, 6, detail), text));
        let Parameters { eight_bit, binary, smtputf8, require_tls, content, .. } = transaction.parameters;
        if require_tls
            && !sender.is_empty()
            && let Some(reply) = self.insecurity(transaction)
        {
            return Some(reply);
        }
        if !sender.is_ascii() && !self.offered.smtputf8 {
            return refused(7, "sender address needs SMTPUTF8, which the remote does not offer");
        }
        if smtputf8 && content.eight_bit_header && !self.offered.smtputf8 {
            return refused(7, "message header needs SMTPUTF8, which the remote does not offer");
        }
        // Chunks are sent behind a whole envelope, so PIPELINING is needed too; remotes that chunk have it.
        if binary && !(self.offered.binary && self.offered.chunking && self.offered.pipelining) {
            return refused(3, "message is BINARYMIME, which the remote does not offer");
        }
        if eight_bit && content.eight_bit && !self.offered.eight_bit {
            return refused(3, "message is 8BITMIME, which the remote does not offer");
        }
        None
    }

    /// Why a message that requires TLS cannot be sent: RFC 8689 §4.2.1 wants it to fail then, and not to wait.
    fn insecurity(&self, transaction: &Transaction<'_>) -> Option<Reply> {
        if let Err(why) = transaction.secured {
            return Some(Reply::new(0, Enhanced(5, 7, 10), &format!("message is REQUIRETLS, and {why}")));
        }
        let text = "message is REQUIRETLS, which the remote does not offer";
        (!self.offered.require_tls).then(|| Reply::new(0, Enhanced(5, 7, 30), text))
    }

    /// Why a recipient cannot be sent to this remote.
    pub(super) fn objection_to(
        &self,
        recipient: &Recipient<'_>,
        transaction: &Transaction<'_>,
    ) -> Option<Reply> {
        if recipient.mailbox.is_empty() || !command::is_safe_mailbox(recipient.mailbox) {
            return Some(Reply::new(
                0,
                Enhanced(5, 1, 3),
                "recipient address cannot be sent: it is empty, has control characters or angle brackets",
            ));
        }
        let asked = transaction.parameters.smtputf8 || !transaction.sender.is_ascii();
        let speaks_utf8 = self.offered.smtputf8 && asked;
        if !speaks_utf8 && !recipient.mailbox.is_ascii() {
            return Some(Reply::new(
                0,
                Enhanced(5, 6, 7),
                "recipient address needs SMTPUTF8, which the remote does not offer or the sender did not ask for",
            ));
        }
        None
    }
}
