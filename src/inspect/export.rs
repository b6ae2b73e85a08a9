//! `ringpost spool export`: a message's body as it would be sent, long ones a piece at a time.

use std::io::Write;

use super::{InspectError, Verdict, View};
use crate::id::MessageId;
use crate::spool::reader::{self, ReadError};

/// Writes the body of message `id`, all of it or nothing: it is read twice, so that no byte leaves before the last one was
/// verified.
pub(super) async fn export(
    view: &View,
    id: MessageId,
    out: &mut impl Write,
) -> Result<Verdict, InspectError> {
    match body(view, id, &mut std::io::sink()).await {
        Ok(_) => {}
        Err(InspectError::Read(error @ ReadError::Damaged { .. })) => {
            eprintln!("ringpost: {error}: nothing was written");
            return Ok(Verdict::Damaged);
        }
        Err(error) => return Err(error),
    }
    body(view, id, out).await?;
    Ok(Verdict::Sound)
}

/// Reads a message from its first byte to its last, verified piece by piece, and gives its length in bytes.
pub(super) async fn body(view: &View, id: MessageId, out: &mut impl Write) -> Result<u64, InspectError> {
    let (part, pinned) = view.pin(id)?;
    let opened = reader::open(part.storage(), &pinned).await?;
    let mut bytes = opened.rest.len() as u64;
    let mut piece = Vec::new();
    for chunk in opened.chunks {
        piece.clear();
        reader::read_chunk(part.storage(), &pinned, chunk, &mut piece).await?;
        bytes += piece.len() as u64;
        out.write_all(&piece)?;
    }
    out.write_all(&opened.rest)?;
    Ok(bytes)
}
