//! PURE. The marks a message carries: which run and message it is, when it was sent, what its body sums to.
//!
//! | where | form | read by |
//! | --- | --- | --- |
//! | `X-Load-Id:` | `RRRRRRRR-NNNNNNNNNNNN`, run in hex, number in decimal | sink, at the end of the header |
//! | `X-Load-Time:` | 16 digits, microseconds of CLOCK_MONOTONIC | sink, for injection to arrival |
//! | `X-Load-Sum:` | 8 hex digits, CRC32C of the bytes after the header's empty line | sink |
//! | recipient | `<prefix>NNNNNNNNNNNN-K@domain`, K the recipient's index | sink, at RCPT |
//! | sender | `b-RRRRRRRR-NNNNNNNNNNNN@domain` | sink: whose bounce this is, and whose RCPT was refused |
//!
//! All numbers have fixed width, so that a template is patched and never rebuilt.

/// Digits of a run in hex.
pub const RUN_DIGITS: usize = 8;
/// Digits of a message number.
pub const NUMBER_DIGITS: usize = 12;
/// Digits of a time.
pub const TIME_DIGITS: usize = 16;
/// Bytes of an id.
pub const ID_BYTES: usize = RUN_DIGITS + 1 + NUMBER_DIGITS;

/// One run of a source, so that mail left over from an earlier one is not taken for ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run(pub u32);

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The run it belongs to.
    pub run: Run,
    /// Its number in that run, from 0.
    pub number: u64,
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}-{:012}", self.run.0, self.number)
    }
}

impl Id {
    /// Writes the id over `place`, which must have [`ID_BYTES`] bytes.
    pub fn write(self, place: &mut [u8]) {
        hex(&mut place[..RUN_DIGITS], self.run.0);
        place[RUN_DIGITS] = b'-';
        digits(&mut place[RUN_DIGITS + 1..ID_BYTES], self.number);
    }

    /// Reads an id of exactly [`ID_BYTES`] bytes.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != ID_BYTES || text[RUN_DIGITS] != b'-' {
            return None;
        }
        let run = parse_hex(&text[..RUN_DIGITS])?;
        Some(Self { run: Run(run), number: parse_digits(&text[RUN_DIGITS + 1..])? })
    }
}

/// Writes `value` in decimal over the whole of `place`, leading zeros included; higher digits are cut.
pub fn digits(place: &mut [u8], mut value: u64) {
    for byte in place.iter_mut().rev() {
        *byte = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Writes `value` in hex over the whole of `place`.
pub fn hex(place: &mut [u8], mut value: u32) {
    for byte in place.iter_mut().rev() {
        *byte = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

/// Reads 1 to 19 decimal digits and nothing else.
pub fn parse_digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter()
        .try_fold(0u64, |value, byte| byte.is_ascii_digit().then(|| value * 10 + u64::from(byte - b'0')))
}

/// Reads 1 to 8 hex digits and nothing else.
pub fn parse_hex(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 8 {
        return None;
    }
    text.iter().try_fold(0u32, |value, byte| Some((value << 4) | char::from(*byte).to_digit(16)?))
}

/// What a local part says about the message, if a source of ours made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// `<prefix>NNNNNNNNNNNN-K`: recipient `index` of message `number`.
    Recipient {
        /// Message number.
        number: u64,
        /// Index of the recipient in its message.
        index: u16,
    },
    /// `b-RRRRRRRR-NNNNNNNNNNNN`: the sender of a message, so this is a bounce of it.
    Sender(Id),
    /// Anything else.
    Foreign,
}

impl Local {
    /// Reads a local part.
    pub fn parse(local: &[u8]) -> Self {
        if let Some(id) = local.strip_prefix(b"b-").and_then(Id::parse) {
            return Self::Sender(id);
        }
        Self::recipient(local).unwrap_or(Self::Foreign)
    }

    fn recipient(local: &[u8]) -> Option<Self> {
        let dash = memchr::memrchr(b'-', local)?;
        let index = u16::try_from(parse_digits(&local[dash + 1..])?).ok()?;
        let number = parse_digits(&local[dash.checked_sub(NUMBER_DIGITS)?..dash])?;
        Some(Self::Recipient { number, index })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_written() {
        for (run, number) in [(0, 0), (0xdead_beef, 999_999_999_999), (7, 42)] {
            let id = Id { run: Run(run), number };
            let mut text = [0; ID_BYTES];
            id.write(&mut text);
            assert_eq!(Id::parse(&text), Some(id));
            assert_eq!(text.as_slice(), id.to_string().as_bytes());
        }
    }

    #[test]
    fn only_whole_ids_are_taken() {
        for bad in [&b""[..], b"0000000-0000000000001", b"0000000g-000000000001", b"00000000-00000000001x"] {
            assert_eq!(Id::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn local_parts_say_whose_they_are() {
        let recipient = |number, index| Local::Recipient { number, index };
        assert_eq!(Local::parse(b"load000000000123-7"), recipient(123, 7));
        assert_eq!(Local::parse(b"with-dash000000000001-0"), recipient(1, 0));
        assert_eq!(Local::parse(b"000000000001-0"), recipient(1, 0));
        let id = Id { run: Run(255), number: 9 };
        assert_eq!(Local::parse(b"b-000000ff-000000000009"), Local::Sender(id));
        for foreign in
            [&b"postmaster"[..], b"", b"-", b"a-1", b"load00000000012x-7", b"load000000000123-70000"]
        {
            assert_eq!(Local::parse(foreign), Local::Foreign, "{foreign:?}");
        }
    }
}
