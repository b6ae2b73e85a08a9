//! A stopped relay's directory, to be read with plain blocking calls, on any host and without an executor. Files are
//! opened read-only and every write is refused, so that whoever looks into a spool this way cannot change it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{DiskBuffer, Storage, StorageFile};
use crate::clock::Moment;

/// A spool directory that nobody writes to. Clones share it.
#[derive(Clone)]
pub struct Offline(Rc<Inner>);

struct Inner {
    root: PathBuf,
    start: Instant,
}

/// Keeps a file readable.
pub type OfflinePin = Arc<File>;

/// An open file.
pub struct OfflineFile(Arc<File>);

/// What would be written if this storage could.
pub struct OfflineBuffer(Vec<u8>);

impl Offline {
    /// Reads in the directory `root`.
    pub fn new(root: PathBuf) -> Self {
        Self(Rc::new(Inner { root, start: Instant::now() }))
    }
}

fn read(file: &File, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut read = vec![0; bytes];
    let mut done = 0;
    while done < bytes {
        match file.read_at(&mut read[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(more) => done += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    read.truncate(done);
    Ok(read)
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl DiskBuffer for OfflineBuffer {
    fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn truncate(&mut self, bytes: usize) {
        self.0.truncate(bytes);
    }
}

impl StorageFile for OfflineFile {
    type Buffer = OfflineBuffer;
    type Bytes = Vec<u8>;
    type Pin = Arc<File>;

    async fn write_at(&self, _: OfflineBuffer, _: u64) -> io::Result<()> {
        refused()
    }

    async fn read_at(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        read(&self.0, offset, bytes)
    }

    async fn sync(&self) -> io::Result<()> {
        refused()
    }

    async fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn pin(&self) -> io::Result<Arc<File>> {
        Ok(self.0.clone())
    }
}

impl Storage for Offline {
    type Buffer = OfflineBuffer;
    type Bytes = Vec<u8>;
    type Pin = Arc<File>;
    type File = OfflineFile;

    fn buffer(&self, bytes: usize) -> OfflineBuffer {
        OfflineBuffer(vec![0; bytes])
    }

    async fn create(&self, _: &str) -> io::Result<OfflineFile> {
        refused()
    }

    async fn open(&self, path: &str) -> io::Result<OfflineFile> {
        Ok(OfflineFile(Arc::new(File::open(self.0.root.join(path))?)))
    }

    async fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        refused()
    }

    async fn remove(&self, _: &str) -> io::Result<()> {
        refused()
    }

    async fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let names = fs::read_dir(self.0.root.join(dir))?.map(|entry| entry.map(|entry| entry.file_name()));
        // A name that is no text is none of ours.
        names.filter_map(|name| name.map(|name| name.into_string().ok()).transpose()).collect()
    }

    async fn sync_dir(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(0)
    }

    async fn read_pinned(&self, pin: &Arc<File>, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        read(pin, offset, bytes)
    }

    fn now(&self) -> Moment {
        Moment(u64::try_from(self.0.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    async fn sleep(&self, wait: Duration) {
        std::thread::sleep(wait);
    }
}
