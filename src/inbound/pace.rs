//! PURE. How long a client may take: for a whole command and for a message, not for each byte of them.
//!
//! A time-out that each byte starts anew lets one byte in four minutes hold a connection for days. So a command has its
//! time from the reply before it, and a message must keep up a rate. While connections are scarce there is less of both.

use std::time::Duration;

use crate::clock::Moment;

/// Longest wait for a command, and for more of a message, while connections are scarce: whoever sends mail has it ready.
pub const SCARCE_WAIT: Duration = Duration::from_secs(10);

/// Longest handshake, whatever a command may take: two round trips, and no person at a keyboard.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(60);

/// What clients are given.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From a reply to the end of the next command.
    pub command: Duration,
    /// Between bytes of a message; and once for each message, before the rate counts.
    pub data: Duration,
    /// Least rate of a message, bytes a second; 0 is none.
    pub rate_min: u64,
}

impl Patience {
    /// What is left of it while connections are scarce.
    pub fn when_scarce(&self) -> Self {
        Self { command: self.command.min(SCARCE_WAIT), data: self.data.min(SCARCE_WAIT), ..*self }
    }

    /// How long a TLS handshake may take, all of it.
    pub fn handshake(&self) -> Duration {
        self.command.min(HANDSHAKE_WAIT)
    }

    /// By when a command must be whole, the last reply being of `asked`.
    pub fn command_by(&self, asked: Moment) -> Moment {
        asked + self.command
    }

    /// By when a message of `bytes` so far must have more, having begun at `began`; and whether that is for its rate.
    pub fn message_by(&self, began: Moment, bytes: u64, now: Moment) -> (Moment, bool) {
        let silence = now + self.data;
        let Some(due_after) = bytes.saturating_mul(1000).checked_div(self.rate_min) else {
            return (silence, false);
        };
        let rate = began + self.data + Duration::from_millis(due_after);
        (silence.min(rate), rate < silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { command: Duration::from_secs(300), data: Duration::from_secs(60), rate_min: 500 };

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000)
    }

    #[test]
    fn bytes_do_not_start_the_time_of_a_command_anew() {
        assert_eq!(PATIENCE.command_by(at(7)), at(307));
        assert_eq!(PATIENCE.when_scarce().command_by(at(7)), at(17));
    }

    #[test]
    fn a_message_that_trickles_is_out_of_time_when_its_grace_is_used_up() {
        // One byte in ten seconds: silence is never long, the rate is what ends it.
        let (mut now, mut bytes) = (at(0), 0);
        while PATIENCE.message_by(at(0), bytes, now).0 > now {
            (now, bytes) = (now + Duration::from_secs(10), bytes + 1);
        }
        assert_eq!((now, bytes), (at(70), 7));
        // At the rate, for ever.
        for seconds in 0..10_000 {
            assert!(PATIENCE.message_by(at(0), seconds * 500, at(seconds)).0 > at(seconds));
        }
        assert_eq!(PATIENCE.when_scarce().message_by(at(0), 0, at(0)), (at(10), false));
    }

    #[test]
    fn without_a_rate_only_silence_counts() {
        let patience = Patience { rate_min: 0, ..PATIENCE };
        assert_eq!(patience.message_by(at(0), 1, at(5000)), (at(5060), false));
    }
}
