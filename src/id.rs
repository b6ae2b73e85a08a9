//! PURE. Identities: of messages, and of the roles that hold them.
//!
//! A message id is (part, sequence): it says which spool part holds the message, so nothing needs to be looked up to
//! route a question about it. Ids are never reused; the part's log keeps the highest sequence it has given out.

use std::fmt;
use std::str::FromStr;

/// Bits of a [`MessageId`] that hold the sequence; the 16 above hold the part.
const SEQUENCE_BITS: u32 = 48;
/// Letters of the text form: Crockford's base 32, lower case (no i, l, o, u, so it survives being read out aloud).
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Letters in the text form of a [`MessageId`]: 13 × 5 bits hold 64.
const ID_LETTERS: usize = 13;

/// A tenant as roles speak of it to each other: its name's hash. Two tenants with the same one share their turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantKey(pub u64);

impl TenantKey {
    /// Of a tenant's name.
    pub fn of(name: &str) -> Self {
        Self(crate::hash::name_hash(name))
    }
}

/// A tenant that waits for a path, with its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantShare {
    /// Which.
    pub tenant: TenantKey,
    /// Its part of what the path takes, against the weights of the others.
    pub weight: u32,
}

/// Number of a spool part. Never reused within one spool directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId(pub u16);

/// Identity of an accepted message within one spool: part and sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u64);

impl MessageId {
    /// Highest sequence a part can give out.
    pub const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;

    /// The id of `sequence` in `part`; `sequence` must not exceed [`Self::SEQUENCE_MAX`].
    pub fn new(part: PartId, sequence: u64) -> Self {
        assert!(sequence <= Self::SEQUENCE_MAX, "message sequence {sequence} does not fit 48 bits");
        Self((u64::from(part.0) << SEQUENCE_BITS) | sequence)
    }

    /// From the form kept on disk.
    pub fn from_u64(raw: u64) -> Self {
        Self(raw)
    }

    /// The form kept on disk.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The part whose log holds the message.
    pub fn part(self) -> PartId {
        PartId((self.0 >> SEQUENCE_BITS) as u16)
    }

    /// The place in the part's order of acceptance.
    pub fn sequence(self) -> u64 {
        self.0 & Self::SEQUENCE_MAX
    }

    /// The 13 letters of the text form, without allocating.
    pub fn letters(self) -> [u8; ID_LETTERS] {
        std::array::from_fn(|i| {
            let shift = 5 * (ID_LETTERS - 1 - i);
            ALPHABET[((self.0 >> shift) & 31) as usize]
        })
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.letters() {
            fmt::Write::write_char(f, char::from(letter))?;
        }
        Ok(())
    }
}

/// A text that is no message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message id: 13 letters or digits are expected, as in the 250 reply and the Received header")]
pub struct ParseIdError;

impl FromStr for MessageId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.len() != ID_LETTERS {
            return Err(ParseIdError);
        }
        let mut raw: u128 = 0;
        for byte in text.bytes() {
            let byte = byte.to_ascii_lowercase();
            let value = ALPHABET.iter().position(|letter| *letter == byte).ok_or(ParseIdError)?;
            raw = (raw << 5) | value as u128;
        }
        u64::try_from(raw).map(Self).map_err(|_| ParseIdError)
    }
}

/// A shard's place among the shards of this process, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardIndex(pub u16);

/// A delivery worker's place among the workers of this process, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerIndex(pub u16);

/// A path's number, given by control for the life of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

/// A leg's place in its shard's queue. The generation catches a place that has been given to another leg since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LegRef {
    /// Place in the slab of legs.
    pub slot: u32,
    /// How often the place had been given out before.
    pub generation: u32,
}

/// Where a record lies in its part's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Location {
    /// Sequence number of the segment.
    pub segment: u32,
    /// Bytes from the segment's start to the record's header.
    pub offset: u32,
    /// Bytes of the whole record: header, meta, body.
    pub bytes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_at_the_edges() {
        for (part, sequence) in [(0, 0), (0, 1), (7, 123_456_789), (u16::MAX, MessageId::SEQUENCE_MAX)] {
            let id = MessageId::new(PartId(part), sequence);
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!((id.part(), id.sequence()), (PartId(part), sequence));
        }
    }

    #[test]
    fn text_that_is_no_id_is_refused() {
        for text in ["", "0", "00000000000000", "zzzzzzzzzzzzz", "000000000000u", "000000000000é"] {
            assert_eq!(text.parse::<MessageId>(), Err(ParseIdError), "{text}");
        }
    }

    #[test]
    fn order_of_text_is_order_of_acceptance() {
        let earlier = MessageId::new(PartId(1), 31).to_string();
        let later = MessageId::new(PartId(1), 32).to_string();
        assert!(earlier < later);
    }
}
