//! PURE. Label values: closed sets, so that every series exists from the start and none can grow without bound.

use std::marker::PhantomData;
use std::ops::Index;

use super::measure::Measure;
use crate::outcome::{Enhanced, Reply};

/// A closed set of label values.
pub trait Label: Copy + 'static {
    /// How many there are.
    const COUNT: usize;
    /// Its place, below `COUNT`.
    fn index(self) -> usize;
    /// The value with that place, as shown.
    fn name(index: usize) -> String;
}

/// One measure for each value of a label. `N` is `L::COUNT`.
#[derive(Debug)]
pub struct By<L, M, const N: usize> {
    measures: [M; N],
    label: PhantomData<fn(L)>,
}

impl<L: Label, M: Default, const N: usize> Default for By<L, M, N> {
    fn default() -> Self {
        const { assert!(N == L::COUNT, "as many measures as label values") };
        Self { measures: std::array::from_fn(|_| M::default()), label: PhantomData }
    }
}

impl<L: Label, M, const N: usize> Index<L> for By<L, M, N> {
    type Output = M;
    fn index(&self, label: L) -> &M {
        &self.measures[label.index()]
    }
}

impl<L, M: Measure, const N: usize> Measure for By<L, M, N> {
    /// In the order of the label's indexes.
    type Snapshot = Vec<M::Snapshot>;
    fn snapshot(&self) -> Vec<M::Snapshot> {
        self.measures.iter().map(Measure::snapshot).collect()
    }
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$value_doc])* #[doc = concat!("Shown as `", $text, "`.")] $value,)*
        }
        impl $name {
            const NAMES: &'static [&'static str] = &[$($text),*];
        }
        impl Label for $name {
            const COUNT: usize = Self::NAMES.len();
            fn index(self) -> usize {
                self as usize
            }
            fn name(index: usize) -> String {
                Self::NAMES[index].to_owned()
            }
        }
    )*};
}

labels! {
    /// How an inbound connection began.
    ConnectionResult {
        Accepted = "accepted",
        /// Told 421: too many.
        Refused = "refused",
        /// Accepting failed: descriptors or memory.
        Failed = "failed",
    }
    /// First digit of a reply we gave.
    ReplyClass {
        Success = "2xx",
        Intermediate = "3xx",
        Transient = "4xx",
        Permanent = "5xx",
    }
    /// Why a client's transaction was refused.
    RejectReason {
        /// No permission to relay.
        Relay = "relay",
        /// A login that failed, or was not looked at.
        Auth = "auth",
        /// Message, or declared size, over the limit.
        Size = "size",
        /// Too many recipients.
        Recipients = "recipients",
        /// A budget in bytes or connections is used up.
        Budget = "budget",
        /// The disk is full, or the spool fenced.
        Storage = "storage",
        /// Wrong command, order or parameter.
        Syntax = "syntax",
        /// Bare CR or LF, looping mail.
        Content = "content",
        /// The client was too slow.
        Timeout = "timeout",
        Other = "other",
    }
    /// What became of a login.
    LoginResult {
        Granted = "granted",
        /// Wrong name, password, proof or certificate.
        Refused = "refused",
        /// Nobody looked: too many failures of the user, or too many logins at once.
        Later = "later",
        /// Nobody looked: too many failures of the address or its network.
        Limited = "limited",
    }
    /// A limit that a client met.
    LimitKind {
        /// Too many open at once from its address or network.
        Connections = "connections",
        /// Opened too quickly.
        ConnectionRate = "connection_rate",
        /// Too many messages a minute.
        MessageRate = "message_rate",
        /// Too many commands answered 5xx a minute.
        ErrorRate = "error_rate",
        /// Too many failures of AUTH a minute.
        AuthFailures = "auth_failures",
        /// It spoke before the banner.
        EarlyTalk = "early_talk",
        /// A whole command took too long.
        CommandTime = "command_time",
        /// A message came too slowly.
        DataRate = "data_rate",
        /// It was slow while connections were scarce.
        Stress = "stress",
        /// Its proxy did not say who it is.
        Proxy = "proxy",
    }
    /// State of a waiting leg.
    LegStateLabel {
        /// Its path is not known yet.
        Unrouted = "unrouted",
        /// Due, waiting for a credit.
        Ready = "ready",
        /// At a worker.
        Sent = "in_flight",
        /// Waiting for its time.
        Deferred = "deferred",
        /// Kept by route or by hand.
        Held = "held",
        /// Failed; its bounce is not queued yet.
        BounceOwed = "bounce_owed",
    }
    /// What of the spool is not as it was written.
    DamageKind {
        /// The end of a write that was never acknowledged.
        Torn = "torn",
        /// Acknowledged bytes.
        Rot = "rot",
        /// One or both copies of a segment's header.
        Header = "header",
        /// A segment's footer, whose batches were read instead.
        Footer = "footer",
        /// A whole segment.
        Unreadable = "unreadable",
        /// A segment that is gone.
        Missing = "missing",
        /// A message that could not be read back: it is not sent.
        Message = "message",
    }
    /// Part of a delivery attempt.
    AttemptStage {
        Connect = "connect",
        Banner = "banner",
        Ehlo = "ehlo",
        Mail = "mail",
        Rcpt = "rcpt",
        Data = "data",
        Dot = "dot",
        /// From the job's arrival to its outcome.
        Total = "total",
    }
    /// What became of recipients that were tried.
    DeliveryResult {
        Delivered = "delivered",
        Deferred = "deferred",
        Failed = "failed",
        /// Given back before the body: no attempt.
        NotTried = "not_tried",
        /// Broken after the body: may have arrived.
        Unknown = "unknown",
    }
    /// Why a bounce was owed, by the subject of its enhanced status (RFC 3463 §3).
    BounceClass {
        Address = "address",
        Mailbox = "mailbox",
        System = "system",
        Network = "network",
        Protocol = "protocol",
        Content = "content",
        Policy = "policy",
        /// Too old.
        Expired = "expired",
        Other = "other",
    }
}

impl ReplyClass {
    /// The class of reply code `code`; codes below 200 do not occur in SMTP and count as 5xx.
    pub fn of(code: u16) -> Self {
        match code / 100 {
            2 => Self::Success,
            3 => Self::Intermediate,
            4 => Self::Transient,
            _ => Self::Permanent,
        }
    }
}

impl BounceClass {
    /// The class of a failure for `reply`; expiry is the caller's to tell.
    pub fn of(reply: &Reply) -> Self {
        match reply.enhanced.1 {
            1 => Self::Address,
            2 => Self::Mailbox,
            3 => Self::System,
            4 => Self::Network,
            5 => Self::Protocol,
            6 => Self::Content,
            7 => Self::Policy,
            _ => Self::Other,
        }
    }
}

/// Class and subject of an enhanced status code (RFC 3463): `2.0` to `5.7`, and `other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnhancedClass(u8);

/// Subjects that RFC 3463 defines: 0 to 7.
const SUBJECTS: u8 = 8;
const CLASSES: [u8; 3] = [2, 4, 5];
const ENHANCED_OTHER: u8 = CLASSES.len() as u8 * SUBJECTS;

impl EnhancedClass {
    /// The class of `enhanced`.
    pub fn of(enhanced: Enhanced) -> Self {
        let subject = u8::try_from(enhanced.1).unwrap_or(u8::MAX);
        match CLASSES.iter().position(|class| *class == enhanced.0) {
            Some(class) if subject < SUBJECTS => Self(class as u8 * SUBJECTS + subject),
            _ => Self(ENHANCED_OTHER),
        }
    }
}

impl Label for EnhancedClass {
    const COUNT: usize = ENHANCED_OTHER as usize + 1;

    fn index(self) -> usize {
        usize::from(self.0)
    }

    fn name(index: usize) -> String {
        let subjects = usize::from(SUBJECTS);
        match CLASSES.get(index / subjects) {
            Some(class) => format!("{class}.{}", index % subjects),
            None => "other".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Counter;

    #[test]
    fn enhanced_codes_of_any_value_have_one_bounded_class() {
        let check = |enhanced: Enhanced, want: &str| {
            let class = EnhancedClass::of(enhanced);
            assert_eq!(EnhancedClass::name(class.index()), want, "{enhanced:?}");
        };
        check(Enhanced(2, 0, 0), "2.0");
        check(Enhanced(4, 7, 28), "4.7");
        check(Enhanced(5, 7, 999), "5.7");
        check(Enhanced(5, 8, 0), "other");
        check(Enhanced(3, 1, 1), "other");
        check(Enhanced(0, 0, 0), "other");
        check(Enhanced(5, u16::MAX, 1), "other");
    }

    #[test]
    fn a_label_finds_its_own_measure() {
        let by: By<ReplyClass, Counter, { ReplyClass::COUNT }> = By::default();
        by[ReplyClass::of(354)].inc();
        by[ReplyClass::of(599)].add(2);
        assert_eq!(by.snapshot(), [0, 1, 0, 2]);
    }
}
