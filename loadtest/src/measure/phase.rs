//! PURE. The phases of a session and their latencies, as service time and from the intended time, side by side.
//!
//! A phase begins when its command is queued or the reply before it is read, whichever is later, and ends when its reply
//! is read: with pipelining no phase is charged with the one before. The end of data begins when the socket has taken
//! the final dot. From the intended time means: from when the message should have begun to this phase's reply.

use hdrhistogram::Histogram;

use crate::clock::Micros;

/// Latencies in microseconds, three significant digits, up to an hour.
pub type Latency = Histogram<u64>;

/// An empty histogram.
pub fn latency() -> Latency {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are constants that the crate allows")
}

/// Records a latency; what is beyond the bounds counts as the bound.
pub fn record(histogram: &mut Latency, micros: Micros) {
    histogram.saturating_record(micros.max(1));
}

/// A part of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// `connect(2)` to the socket being connected.
    Connect,
    /// Connected (and secured, with TLS from the start) to the greeting.
    Banner,
    /// EHLO, LHLO or HELO to its reply.
    Hello,
    /// STARTTLS, or connected with TLS from the start, to the handshake's end.
    Tls,
    /// AUTH to its reply.
    Auth,
    /// MAIL to its reply.
    Mail,
    /// RCPT to its reply; each counts.
    Rcpt,
    /// DATA to 354.
    Data,
    /// The socket has taken the final dot (or last chunk), to its reply.
    EndOfData,
    /// MAIL queued, to the last reply.
    Whole,
}

impl Phase {
    /// All, in the order in which they happen.
    pub const ALL: [Self; 10] = [
        Self::Connect,
        Self::Banner,
        Self::Hello,
        Self::Tls,
        Self::Auth,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::EndOfData,
        Self::Whole,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Banner => "banner",
            Self::Hello => "EHLO",
            Self::Tls => "TLS",
            Self::Auth => "AUTH",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::EndOfData => "end of data",
            Self::Whole => "whole",
        }
    }
}

/// The histograms of all phases.
pub struct Phases {
    service: Vec<Latency>,
    intended: Vec<Latency>,
}

impl Default for Phases {
    fn default() -> Self {
        let all = || Phase::ALL.iter().map(|_| latency()).collect();
        Self { service: all(), intended: all() }
    }
}

impl Phases {
    /// Records one phase of one message or connection; `intended` only in open loop.
    pub fn record(&mut self, phase: Phase, service: Micros, intended: Option<Micros>) {
        record(&mut self.service[phase as usize], service);
        if let Some(micros) = intended {
            record(&mut self.intended[phase as usize], micros);
        }
    }

    /// Time that the peer took.
    pub fn service(&self, phase: Phase) -> &Latency {
        &self.service[phase as usize]
    }

    /// Time since the message should have begun. Empty in closed loop and for phases before MAIL.
    pub fn intended(&self, phase: Phase) -> &Latency {
        &self.intended[phase as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_its_own_place() {
        let mut phases = Phases::default();
        for (index, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, index);
            phases.record(phase, index as u64 + 1, (index > 4).then_some(7));
        }
        assert_eq!(phases.service(Phase::Tls).max(), 4);
        assert_eq!((phases.intended(Phase::Banner).len(), phases.intended(Phase::Rcpt).max()), (0, 7));
    }
}
