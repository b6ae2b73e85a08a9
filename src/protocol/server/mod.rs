//! PURE. The receiving side of an SMTP session, RFC 5321 §3 and §4: bytes in, replies and wants out.
//!
//! ```text
//!            MAIL ok          DATA              driver steps again: 354             CR LF . CR LF
//!   Idle ───────────► Mail ──────► BeginData ───────────────────────► Data ──────────────────────► Committing
//!    ▲                  │ BDAT                                                                        ▲ │
//!    │                  └──► BeginChunk ──► Chunk ──octets read──► Between ──BDAT──► Chunk ──LAST─────┘ │
//!    │                                        │ a fault: Swallow, then the refusal                      │
//!    └─── end_transaction(): the one place ◄──┴── RSET, EHLO, a refused body, committed() ◄─────────────┘
//! ```
//!
//! The driver reads bytes, calls [`Session::step`], writes `out`, and does what the [`Want`] says. The session knows no
//! policy (it asks [`Policy`]), no clock and no id. It does not limit time or rate: the driver does, and ends it with
//! [`Session::close`].

mod bodies;
mod login;
mod rules;
mod session;
#[cfg(test)]
mod tests;

pub use session::Session;

use crate::envelope::Parameters;
use crate::limits::RECIPIENTS_MAX;
use crate::protocol::extension::Extensions;
use crate::protocol::reply::{self, Refusal, push_text};
use crate::protocol::sasl::{Mechanism, Secrets};

/// Errors of a client between two accepted messages at which it is sent away. Refusals that are temporary do not count:
/// a client with more recipients than fit one transaction is no nuisance.
pub const ERRORS_MAX: u32 = 20;

/// Settings that all sessions of a listener share.
#[derive(Clone, Debug)]
pub struct Options {
    hostname: String,
    banner: Vec<u8>,
    /// Whether STARTTLS is offered in the clear.
    starttls: bool,
    /// Replies to EHLO, by [`AuthOffer::line`].
    ehlo: [Vec<u8>; 9],
    postmaster: String,
    size_max: u64,
    recipients_max: usize,
    extensions: Extensions,
    lmtp: bool,
}

impl Options {
    /// `hostname` is our name in banner, EHLO and trace; `size_max` the longest message in octets; `recipients_max` is
    /// cut to [`RECIPIENTS_MAX`]. `<Postmaster>` without a domain is taken for `postmaster@hostname`.
    pub fn new(hostname: &str, size_max: u64, recipients_max: usize, extensions: Extensions) -> Self {
        let recipients_max = recipients_max.min(RECIPIENTS_MAX);
        Self {
            hostname: hostname.to_owned(),
            banner: Vec::new(),
            starttls: false,
            ehlo: AuthOffer::LINES.map(|(channel, auth)| {
                let extensions = Extensions { require_tls: channel == Channel::Secured, ..extensions };
                let starttls = channel == Channel::CanBeSecured;
                extensions.ehlo_reply(hostname, size_max, recipients_max, starttls, auth)
            }),
            postmaster: format!("postmaster@{hostname}"),
            size_max,
            recipients_max,
            extensions,
            lmtp: false,
        }
        .with_greeting("ESMTP Ringpost")
    }

    /// Gives `<Postmaster>` another mailbox; `mailbox` has a domain.
    pub fn with_postmaster(mut self, mailbox: &str) -> Self {
        mailbox.clone_into(&mut self.postmaster);
        self
    }

    /// Gives the banner other words behind our name; on one line, whatever is in them.
    pub fn with_greeting(mut self, text: &str) -> Self {
        self.banner.clear();
        self.banner.extend_from_slice(b"220 ");
        push_text(&mut self.banner, &self.hostname);
        self.banner.push(b' ');
        push_text(&mut self.banner, text);
        self.banner.extend_from_slice(b"\r\n");
        self
    }

    /// Offers STARTTLS: the driver can shake hands.
    pub fn with_starttls(mut self) -> Self {
        self.starttls = true;
        self
    }

    /// Speaks LMTP instead of SMTP (RFC 2033): LHLO, and a reply for each recipient at the end of a message.
    pub fn with_lmtp(mut self) -> Self {
        self.lmtp = true;
        self
    }

    /// Our name.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// Longest message, octets.
    pub fn size_max(&self) -> u64 {
        self.size_max
    }
}

/// What a session's words go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    /// In the clear, and nothing to be done about it.
    Clear,
    /// In the clear; STARTTLS is offered.
    CanBeSecured,
    /// TLS.
    Secured,
}

/// Which ways to log in a session offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthOffer {
    /// None: AUTH is unknown here.
    #[default]
    None,
    /// None yet: passwords are taken over TLS only.
    AfterTls,
    /// By password.
    Passwords,
    /// By password, or by the certificate of the handshake.
    PasswordsAndCertificate,
}

impl AuthOffer {
    const PASSWORDS: &str = "AUTH SCRAM-SHA-256 PLAIN LOGIN";
    const ALL: &str = "AUTH EXTERNAL SCRAM-SHA-256 PLAIN LOGIN";
    /// For whom each reply to EHLO is, and its line of AUTH.
    const LINES: [(Channel, &str); 9] = [
        (Channel::Clear, ""),
        (Channel::Clear, Self::PASSWORDS),
        (Channel::Clear, Self::ALL),
        (Channel::CanBeSecured, ""),
        (Channel::CanBeSecured, Self::PASSWORDS),
        (Channel::CanBeSecured, Self::ALL),
        (Channel::Secured, ""),
        (Channel::Secured, Self::PASSWORDS),
        (Channel::Secured, Self::ALL),
    ];

    /// Place of the reply to EHLO in [`Self::LINES`].
    fn line(self, channel: Channel) -> usize {
        let auth = match self {
            Self::None | Self::AfterTls => 0,
            Self::Passwords => 1,
            Self::PasswordsAndCertificate => 2,
        };
        auth + 3 * channel as usize
    }

    /// Why a mechanism cannot be used.
    fn refusal(self, mechanism: Mechanism) -> Option<Refusal> {
        match (self, mechanism) {
            (Self::None, _) => Some(reply::NOT_OFFERED),
            (Self::AfterTls, _) => Some(reply::ENCRYPT_FIRST),
            (Self::Passwords, Mechanism::External) => Some(reply::UNKNOWN_MECHANISM),
            _ => None,
        }
    }
}

/// Decisions that are the driver's. Called while a command is handled, so they may not wait for anything.
pub trait Policy: Secrets {
    /// Whether a transaction may begin. `sender` is empty for the null sender; `declared_size` is SIZE, octets, and
    /// within the limit. Asked once per MAIL that is otherwise right.
    fn mail(
        &mut self,
        sender: &str,
        parameters: &Parameters,
        declared_size: Option<u64>,
    ) -> Result<(), Refusal>;

    /// Whether `mailbox` may be a recipient of the open transaction.
    fn recipient(&mut self, mailbox: &str) -> Result<(), Refusal>;
}

/// What the session needs before it can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// More bytes. Flush `out` first if the client waits for it.
    Read,
    /// A body is about to come. Clear `body`, append the trace header, step again with the rest of the input; or
    /// [`Session::refuse_body`], and step again.
    BeginBody,
    /// `body` is full: move its bytes to the spool, clear it, step again with the rest of the input.
    Chunk,
    /// The message is complete: envelope in [`Session::envelope`], what is left of it in `body`. Make it durable, then
    /// [`Session::committed`], then step again with the rest of the input.
    Commit,
    /// The body begun will not be completed: forget its chunks, clear `body`, step again. May come twice for one body.
    Discard,
    /// Write `out`, shake hands, then [`Session::tls_established`]. Bytes that came behind the command were sent in the
    /// clear, perhaps by somebody else: with any in the buffer, close the connection (RFC 3207 §6, CVE-2011-0411).
    StartTls,
    /// A proxy has said for whom it speaks: [`Session::introduce`], then write the banner, or refuse that client.
    NewClient,
    /// A client says who it is: [`Session::claim`]. Find out whether that is so, then [`Session::authenticated`], and step
    /// again.
    Authenticate,
    /// Write `out`, then close the connection.
    Close,
}
