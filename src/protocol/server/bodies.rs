//! PURE. The body of a message in a session: DATA, and the chunks of BDAT.

use super::Want;
use super::session::{Session, State};
use crate::limits::BODY_INLINE_BYTES_MAX;
use crate::protocol::body::{BodyFault, Decoder};
use crate::protocol::command::Bdat;
use crate::protocol::reply::{self, Refusal};

/// Bytes that the end of the last chunk may add to a body: a missing CR LF.
const CHUNK_RESERVE_BYTES: usize = 2;

impl Session {
    pub(super) fn data(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        body: &mut Vec<u8>,
    ) -> (usize, Option<Want>) {
        let State::Data { decoder, refused } = &mut self.state else { unreachable!("called in Data only") };
        if input.is_empty() {
            return (0, Some(Want::Read));
        }
        let room = BODY_INLINE_BYTES_MAX.saturating_sub(body.len());
        let kept = refused.is_none() && decoder.fault().is_none();
        if kept && room == 0 {
            return (0, Some(Want::Chunk));
        }
        let decoded = if refused.is_some() {
            // Nobody wants these octets; the buffer is given back as it was.
            let before = body.len();
            let decoded = decoder.decode(input, body);
            body.truncate(before);
            decoded
        } else {
            decoder.decode(if kept { &input[..input.len().min(room)] } else { input }, body)
        };
        if !decoded.ended {
            return (decoded.consumed, None);
        }
        let refusal = refused.take().or_else(|| decoder.fault().map(refusal_of));
        match refusal {
            None => {
                self.envelope.note_content(decoder.content());
                self.state = State::Committing;
                (decoded.consumed, Some(Want::Commit))
            }
            Some(refusal) => {
                refusal.write_each(self.end_replies(), out);
                self.end_transaction();
                (decoded.consumed, None)
            }
        }
    }

    pub(super) fn begin_chunk(&mut self, decoder: Decoder, bdat: Bdat) {
        self.state = State::Chunk { decoder, bdat, left: bdat.size };
    }

    pub(super) fn chunk(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        body: &mut Vec<u8>,
    ) -> (usize, Option<Want>) {
        let State::Chunk { decoder, bdat, left } = &mut self.state else {
            unreachable!("called in Chunk only")
        };
        let bdat = *bdat;
        let room = (BODY_INLINE_BYTES_MAX - CHUNK_RESERVE_BYTES).saturating_sub(body.len());
        let wanted = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
        if wanted > 0 {
            let kept = decoder.fault().is_none();
            if kept && room == 0 {
                return (0, Some(Want::Chunk));
            }
            let piece = &input[..if kept { wanted.min(room) } else { wanted }];
            decoder.decode(piece, body);
            *left -= piece.len() as u64;
            return (piece.len(), None);
        }
        if *left > 0 {
            return (0, Some(Want::Read));
        }
        if bdat.last {
            decoder.finish_chunks(body);
        }
        if let Some(fault) = decoder.fault() {
            let replies = if bdat.last { self.end_replies() } else { 1 };
            refusal_of(fault).write_each(replies, out);
            self.end_transaction();
            (0, None)
        } else if bdat.last {
            self.envelope.note_content(decoder.content());
            self.state = State::Committing;
            (0, Some(Want::Commit))
        } else {
            reply::push_octets_received(out, bdat.size);
            if let State::Chunk { decoder, .. } = std::mem::replace(&mut self.state, State::Idle) {
                self.state = State::Between(decoder);
            }
            (0, None)
        }
    }

    /// A failed BDAT ends the transaction (RFC 3030 §2), but its octets are on their way and must not be read as commands.
    pub(super) fn fail_chunk(&mut self, bdat: Bdat, left: u64, refusal: Refusal) {
        let replies = if bdat.last { self.end_replies().max(1) } else { 1 };
        self.end_transaction();
        self.state = State::Swallow { left, refusal, replies };
    }

    pub(super) fn swallow(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Option<Want>) {
        let State::Swallow { left, refusal, replies } = &mut self.state else {
            unreachable!("called in Swallow only")
        };
        let dropped = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
        *left -= dropped as u64;
        if *left > 0 {
            return (dropped, Some(Want::Read));
        }
        let (refusal, replies) = (std::mem::replace(refusal, reply::NEED_MAIL), *replies);
        self.state = State::Idle;
        refusal.write_each(replies - 1, out);
        self.refuse(&refusal, out);
        (dropped, None)
    }
}

fn refusal_of(fault: BodyFault) -> Refusal {
    match fault {
        BodyFault::BareNewline => reply::BARE_NEWLINE,
        BodyFault::TooLarge => reply::TOO_LARGE,
        BodyFault::Looping => reply::LOOPING,
        BodyFault::LongHeader => reply::LONG_HEADER,
    }
}
