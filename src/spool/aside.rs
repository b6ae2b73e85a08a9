//! Files in `damaged/`: copies of damaged bytes, and a text beside each. What is there already is left alone, so that a
//! start or a message that finds the same damage again adds nothing.

use std::io;
use std::ops::Range;

use super::recovery::Source;
use super::storage::{DiskBuffer, Storage, StorageFile};
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};

/// Directory within the spool.
const DIR: &str = "damaged";

/// Where the file `name` stands.
pub(super) fn path(name: &str) -> String {
    format!("{DIR}/{name}")
}

/// Copies `range` of `source` to the file `name`.
pub(super) async fn copy<S, B>(storage: &S, source: &mut B, range: &Range<u32>, name: &str) -> io::Result<()>
where
    S: Storage,
    B: Source<Error = io::Error>,
{
    let Some(file) = create(storage, name, range.len()).await? else { return Ok(()) };
    for at in range.clone().step_by(BATCH_BYTES_MAX) {
        let bytes = source.read(at..range.end.min(at + BATCH_BYTES_MAX as u32)).await?;
        let buffer = filled(storage, bytes, 0);
        file.write_at(buffer, u64::from(at - range.start)).await?;
    }
    Ok(())
}

/// Writes `text` beside the file `name`, and makes both durable.
pub(super) async fn write_text<S: Storage>(storage: &S, name: &str, text: &str) -> io::Result<()> {
    if let Some(file) = create(storage, &format!("{name}.txt"), text.len()).await? {
        for (nth, bytes) in text.as_bytes().chunks(BATCH_BYTES_MAX).enumerate() {
            // The disk takes whole blocks; empty lines are what a reader minds least.
            file.write_at(filled(storage, bytes, b'\n'), (nth * BATCH_BYTES_MAX) as u64).await?;
        }
    }
    storage.sync_dir(DIR).await
}

/// A new file for `bytes` bytes; `None` if it has been written whole before.
async fn create<S: Storage>(storage: &S, name: &str, bytes: usize) -> io::Result<Option<S::File>> {
    let path = path(name);
    match storage.create(&path).await {
        // An earlier start may have ended on the way.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let file = storage.open(&path).await?;
            Ok(if file.size().await? >= bytes as u64 { None } else { Some(file) })
        }
        created => created.map(Some),
    }
}

/// A buffer of whole blocks with `bytes`, and `padding` behind them.
fn filled<S: Storage>(storage: &S, bytes: &[u8], padding: u8) -> S::Buffer {
    let mut buffer = storage.buffer(bytes.len().next_multiple_of(BLOCK_BYTES));
    let (copy, rest) = buffer.as_bytes_mut().split_at_mut(bytes.len());
    copy.copy_from_slice(bytes);
    rest.fill(padding);
    buffer
}
