//! PURE. The mail that is queued: a message follows from the seed and its number, so that two spools made alike hold the
//! same mail.

use ringpost::clock::WallTime;
use ringpost::envelope::{Envelope, EnvelopeBuilder, Notify, Parameters};

/// Letters in a line of a body, without CRLF.
const LINE: usize = 76;
/// Bytes that bodies are cut from: several times the longest piece of a record, so that few bodies are alike.
const TEXT: usize = 1 << 20;

/// What mail looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of a body.
    pub size: usize,
    /// Recipients of a message, each in a domain of its own.
    pub legs: usize,
    /// Domains in all.
    pub domains: u64,
    /// Tells one run's mail from another's.
    pub seed: u64,
}

/// Makes mail of one shape.
#[derive(Debug)]
pub struct Mail {
    shape: Shape,
    text: Vec<u8>,
}

impl Mail {
    /// Mail of `shape`.
    pub fn new(shape: Shape) -> Self {
        let mut text = Vec::with_capacity(TEXT);
        for word in 0.. {
            for byte in mix(shape.seed ^ (word << 32)).to_le_bytes() {
                text.push(b'a' + byte % 26);
            }
            if text.len() >= TEXT {
                break;
            }
        }
        for end in (LINE..TEXT - 1).step_by(LINE + 2) {
            text[end..end + 2].copy_from_slice(b"\r\n");
        }
        Self { shape, text }
    }

    /// The envelope of message `number`.
    pub fn envelope(&self, number: u64, accepted: WallTime, expires: WallTime) -> Envelope {
        let mut builder = EnvelopeBuilder::default();
        builder.begin(&format!("sender{}@source.invalid", number % 97), Parameters::default(), "");
        let first = mix(self.shape.seed ^ number) % self.shape.domains;
        for leg in 0..self.shape.legs as u64 {
            let domain = (first + leg) % self.shape.domains;
            let mailbox = format!("recipient{number}@domain{domain}.invalid");
            builder.push_recipient(&mailbox, Notify::DEFAULT, "").expect("the command line bounds them");
        }
        builder.encode(accepted, expires)
    }

    /// The body of message `number`: a header that names it, then text up to the size.
    pub fn body(&self, number: u64) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.shape.size);
        body.extend_from_slice(format!("Subject: message {number}\r\n\r\n").as_bytes());
        // At the start of a line, so that no line is longer than the others.
        let lines = self.text.len() as u64 / (LINE as u64 + 2);
        let mut from = (mix(self.shape.seed ^ !number) % lines) as usize * (LINE + 2);
        while body.len() < self.shape.size {
            let piece = (self.shape.size - body.len()).min(self.text.len() - from);
            body.extend_from_slice(&self.text[from..from + piece]);
            from = 0;
        }
        body.truncate(self.shape.size.max(2));
        let end = body.len() - 2;
        body[end..].copy_from_slice(b"\r\n");
        body
    }
}

/// Bits that look random, by splitmix64.
pub fn mix(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_mail_of_the_wanted_shape() {
        let shape = Shape { size: 3000, legs: 3, domains: 3, seed: 7 };
        let (mail, again, other) =
            (Mail::new(shape), Mail::new(shape), Mail::new(Shape { seed: 8, ..shape }));
        for number in 0..100 {
            let body = mail.body(number);
            assert_eq!(body, again.body(number));
            assert_ne!(body, other.body(number));
            assert_eq!(body.len(), 3000);
            assert!(body.ends_with(b"\r\n"));
            let mut lines = body.split(|byte| *byte == b'\n');
            assert!(lines.all(|line| line.len() <= LINE + 1), "a line is too long for SMTP");
            let envelope = mail.envelope(number, WallTime(1), WallTime(2));
            assert_eq!(envelope.legs().count(), 3);
        }
        assert_ne!(mail.body(1), mail.body(2));
    }
}
