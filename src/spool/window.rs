//! Reads a segment file through a window of fixed size, for `recovery`: what is held in memory does not grow with the
//! segment, and who reads forward reads each byte once. Does not know what the bytes mean.

use std::io;
use std::ops::Range;

use super::recovery::Source;
use super::storage::StorageFile;
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};

/// Bytes read from the disk at once: many parts start at the same time, and their buffers stay with the allocator.
const PIECE_BYTES: usize = 256 * 1024;
/// Bytes held at most: what may be asked for at once, and some more, so that a move is worth its copying.
const WINDOW_BYTES: usize = BATCH_BYTES_MAX + PIECE_BYTES;

/// The bytes of one file around the place last read.
pub(super) struct Window<'a, F> {
    file: &'a F,
    size: u32,
    /// Where the first byte of `held` stands in the file.
    start: u32,
    held: Vec<u8>,
}

impl<'a, F: StorageFile> Window<'a, F> {
    /// A window on the first `size` bytes of `file`.
    pub(super) fn new(file: &'a F, size: u32) -> Self {
        Self { file, size, start: 0, held: Vec::new() }
    }

    fn end(&self) -> u32 {
        self.start + self.held.len() as u32
    }

    /// Moves the window so that it starts in the block of `at`, and fills it. What it holds already is kept.
    async fn move_to(&mut self, at: u32) -> io::Result<()> {
        let start = at - at % BLOCK_BYTES as u32;
        if (self.start..self.end()).contains(&start) {
            self.held.drain(..(start - self.start) as usize);
        } else {
            self.held.clear();
        }
        self.start = start;
        let want = WINDOW_BYTES.min((self.size - start) as usize);
        // Exactly: a vector that grows by doubling would hold more than the window.
        self.held.reserve_exact(want - self.held.len());
        while self.held.len() < want {
            let most = (want - self.held.len()).min(PIECE_BYTES);
            let piece = self.file.read_at(u64::from(self.end()), most).await?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.held.extend_from_slice(&piece);
        }
        Ok(())
    }
}

impl<F: StorageFile> Source for Window<'_, F> {
    type Error = io::Error;

    fn size(&self) -> u32 {
        self.size
    }

    async fn read(&mut self, range: Range<u32>) -> io::Result<&[u8]> {
        assert!(
            range.len() <= BATCH_BYTES_MAX && range.end <= self.size,
            "{range:?} is not to be had at once"
        );
        if range.start < self.start || range.end > self.end() {
            self.move_to(range.start).await?;
        }
        let from = (range.start - self.start) as usize;
        Ok(&self.held[from..from + range.len()])
    }
}
