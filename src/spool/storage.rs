//! The log's one door to the outside: disk and timer. `disk` is the real one (glommio, feature `runtime`),
//! [`memory`] one with power cuts, faults and delays for tests and the simulation, [`offline`] a stopped relay's directory
//! that is looked into and not changed.
//!
//! Paths are relative to the spool directory, with `/` between directory and file. A failed write is never retried by
//! anyone: the kernel marks the pages clean, so a second sync that succeeds says nothing.

#[cfg(feature = "runtime")]
pub mod disk;
pub mod memory;
pub mod offline;

use std::io;
use std::ops::Deref;
use std::time::Duration;

use crate::clock::Moment;

/// Memory that a disk can be written from directly.
pub trait DiskBuffer {
    /// All of it.
    fn as_bytes(&self) -> &[u8];
    /// All of it.
    fn as_bytes_mut(&mut self) -> &mut [u8];
    /// Forgets all bytes from `bytes` on, for good.
    fn truncate(&mut self, bytes: usize);
}

/// An open file of fixed-size blocks.
#[allow(async_fn_in_trait, reason = "one thread per role: futures never travel")]
pub trait StorageFile {
    /// What is written.
    type Buffer: DiskBuffer;
    /// What was read.
    type Bytes: Deref<Target = [u8]>;
    /// Keeps the file readable for workers on other threads, even after it was removed.
    type Pin: Send + Sync + 'static;

    /// Writes the whole buffer at `offset`, both multiples of [`crate::limits::BLOCK_BYTES`], and returns when it is
    /// *durable*. A short write is an error.
    async fn write_at(&self, buffer: Self::Buffer, offset: u64) -> io::Result<()>;
    /// Reads up to `bytes` at `offset`, any alignment. Fewer only at the file's end, or above 1 MiB at a time.
    async fn read_at(&self, offset: u64, bytes: usize) -> io::Result<Self::Bytes>;
    /// Makes everything in the file durable, also what others wrote before this process.
    async fn sync(&self) -> io::Result<()>;
    /// The file's size, bytes.
    async fn size(&self) -> io::Result<u64>;
    /// A handle for readers on other threads.
    fn pin(&self) -> io::Result<Self::Pin>;
}

/// A disk and a timer.
#[allow(async_fn_in_trait, reason = "one thread per role: futures never travel")]
pub trait Storage: Clone + 'static {
    /// Memory for writes.
    type Buffer: DiskBuffer + 'static;
    /// What was read.
    type Bytes: Deref<Target = [u8]>;
    /// Keeps a file readable.
    type Pin: Send + Sync + 'static;
    /// An open file.
    type File: StorageFile<Buffer = Self::Buffer, Bytes = Self::Bytes, Pin = Self::Pin> + 'static;

    /// A buffer of `bytes`, contents unspecified.
    fn buffer(&self, bytes: usize) -> Self::Buffer;
    /// Creates an empty file, for reading and writing; it must not exist.
    async fn create(&self, path: &str) -> io::Result<Self::File>;
    /// Opens a file for reading and writing.
    async fn open(&self, path: &str) -> io::Result<Self::File>;
    /// Renames within a file system, replacing what is there. Durable after [`Self::sync_dir`] of both directories.
    async fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Durable after [`Self::sync_dir`].
    async fn remove(&self, path: &str) -> io::Result<()>;
    /// Names of the files in a directory, in any order.
    async fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes the directory's names durable.
    async fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Bytes this process may still write to the file system.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Reads a pinned file, on any thread that runs this kind of storage.
    async fn read_pinned(&self, pin: &Self::Pin, offset: u64, bytes: usize) -> io::Result<Self::Bytes>;

    /// Monotonic time.
    fn now(&self) -> Moment;
    /// Waits.
    async fn sleep(&self, wait: Duration);
}

/// Reads `bytes` at `offset`, or as many as there are.
pub(crate) async fn read_range<F: StorageFile>(file: &F, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut all = Vec::with_capacity(bytes);
    while all.len() < bytes {
        let piece = file.read_at(offset + all.len() as u64, bytes - all.len()).await?;
        if piece.is_empty() {
            break;
        }
        all.extend_from_slice(&piece);
    }
    Ok(all)
}
