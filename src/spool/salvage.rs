//! A message that cannot be read back: who it was from and for, if that can be read anywhere, and its report in `damaged/`.

use std::fmt::Write as _;
use std::io;

use super::aside;
use super::commit::Log;
use super::meta;
use super::record::{self, Kind, RecordError};
use super::replay::segment_path;
use super::report::segment_name;
use super::segment::{Header, TRAILER_BYTES, read_footer};
use super::storage::{Storage, StorageFile, read_range};
use super::window::Window;
use crate::envelope::Envelope;
use crate::id::{Location, MessageId};
use crate::limits::BLOCK_BYTES;

/// Recipients of a damaged message that are named one by one.
const RECIPIENTS_NAMED_MAX: usize = 50;

impl<S: Storage> Log<S> {
    /// The envelope of a message whose Accepted record is at `location`, whatever became of its body: from the record, or
    /// from the footer of its segment, which has it too. `None` if both are damaged.
    pub async fn salvage(&self, id: MessageId, location: Location) -> io::Result<Option<Envelope>> {
        let Some((file, size)) = self.open_segment(location.segment).await? else { return Ok(None) };
        let salt = self.0.state.borrow_mut().ring.segment(location.segment).map(|segment| segment.salt);
        let Some(salt) = salt else { return Ok(None) };
        let ours = |header: &record::Header| {
            (header.kind, header.id, header.offset) == (Some(Kind::Accepted), id, location.offset)
        };
        let envelope = |meta: &[u8]| meta::accepted(meta).ok().map(|accepted| accepted.envelope);
        let bytes = read_range(&file, location.offset.into(), location.bytes as usize).await?;
        if let Ok(header) = record::Header::decode(&bytes, salt)
            && ours(&header)
            && let Ok(meta) = header.meta(&bytes, salt)
        {
            return Ok(envelope(meta));
        }
        let block = file.read_at(u64::from(size - TRAILER_BYTES), BLOCK_BYTES).await?;
        let trailer = Header::decode_trailer(&block).ok().filter(|(header, _)| header.salt == salt);
        let Some((_, footer)) = trailer else { return Ok(None) };
        let entries = read_range(&file, footer.offset.into(), footer.bytes as usize).await?;
        let mut found = None;
        if salt.checksum(&entries) == footer.checksum {
            let read =
                read_footer::<RecordError>(&entries, salt, location.segment, &mut |header, meta, _| {
                    if ours(header) {
                        found = envelope(meta);
                    }
                    Ok(())
                });
            read.map_err(io::Error::other)?;
        }
        Ok(found)
    }

    /// Puts a copy of the message's damaged record at `at` into `damaged/`, with a text.
    pub async fn set_message_aside(
        &self,
        id: MessageId,
        at: Location,
        envelope: Option<&Envelope>,
    ) -> io::Result<()> {
        let name = format!("{}-at-{}.message", segment_name(self.part(), at.segment), at.offset);
        let file = self.open_segment(at.segment).await?;
        let mut copied = None;
        if let Some((file, size)) = &file {
            let range = at.offset.min(*size)..at.offset.saturating_add(at.bytes).min(*size);
            aside::copy(&self.0.storage, &mut Window::new(file, *size), &range, &name).await?;
            copied = Some(&*name);
        }
        let text = text(id, &segment_path(&self.0.dir, at.segment), at, copied, envelope);
        aside::write_text(&self.0.storage, &name, &text).await
    }

    /// A segment's file and its size; `None` if it is gone.
    async fn open_segment(&self, number: u32) -> io::Result<Option<(S::File, u32)>> {
        match self.0.storage.open(&segment_path(&self.0.dir, number)).await {
            Ok(file) => {
                let size = file.size().await?;
                let size = u32::try_from(size).unwrap_or(u32::MAX) / BLOCK_BYTES as u32 * BLOCK_BYTES as u32;
                Ok((size >= TRAILER_BYTES).then_some((file, size)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The text beside the copy of a damaged record.
fn text(id: MessageId, path: &str, at: Location, copy: Option<&str>, envelope: Option<&Envelope>) -> String {
    let Location { offset, bytes, .. } = at;
    let mut text = format!(
        "Ringpost found a message damaged when it read it back from the spool.\n\n\
         what     message {id}: its record of {bytes} bytes is not what was written\n\
         where    {path} at {offset}\n"
    );
    let copy = copy.map_or("none, the segment is gone".to_owned(), |name| {
        format!("{name} beside this file, filled up with zeros to whole blocks")
    });
    let _ = writeln!(text, "copy     {copy}");
    match envelope {
        Some(envelope) => {
            let _ = writeln!(text, "from     <{}>", envelope.sender());
            let mut label = "to";
            for recipient in envelope.recipients().take(RECIPIENTS_NAMED_MAX) {
                let _ = writeln!(text, "{label:<9}<{}>", recipient.mailbox);
                label = "";
            }
            let more = envelope.recipients().count().saturating_sub(RECIPIENTS_NAMED_MAX);
            if more > 0 {
                let _ = writeln!(text, "         and {more} more");
            }
            text.push_str(
                "\nIt is not sent to those who had not got it yet. Its sender is told to send it again, unless there is none\n\
                 or it asked not to be told. Look at the disk and its file system.\n",
            );
        }
        None => text.push_str(
            "\nWho it was from and for is damaged, too: it is not sent, and nobody can be told but you. The lines that the log\n\
             has of its acceptance name them. Look at the disk and its file system.\n",
        ),
    }
    text
}
