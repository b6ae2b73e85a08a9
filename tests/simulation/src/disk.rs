//! The relay's disk: one in memory, as slow as the world has it, whose writes are under way for a while and can be torn.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::poll_once;
use ringpost::clock::Moment;
use ringpost::net::simulated::World;
use ringpost::spool::storage::memory::{MemoryBuffer, MemoryDisk, MemoryFile};
use ringpost::spool::storage::{Storage, StorageFile};

/// How the disk behaves.
#[derive(Debug)]
pub struct Manner {
    /// Longest time of a call.
    pub slowest: Cell<Duration>,
}

/// A disk in a world; clones share it.
#[derive(Clone)]
pub struct SimulatedDisk {
    world: World,
    /// What is on it, with its history.
    pub memory: MemoryDisk,
    manner: Rc<Manner>,
}

impl SimulatedDisk {
    /// `memory`, as slow as `manner` says.
    pub fn new(world: &World, memory: MemoryDisk, manner: &Rc<Manner>) -> Self {
        Self { world: world.clone(), memory, manner: manner.clone() }
    }

    async fn work(&self) {
        let most = self.manner.slowest.get().as_micros() as u64;
        let time = self.world.random(|random| random.u64(..=most));
        self.world.sleep(Duration::from_micros(time)).await;
    }

    fn file(&self, file: MemoryFile) -> SimulatedFile {
        SimulatedFile { disk: self.clone(), file }
    }
}

/// A file on a [`SimulatedDisk`].
pub struct SimulatedFile {
    disk: SimulatedDisk,
    file: MemoryFile,
}

impl StorageFile for SimulatedFile {
    type Buffer = MemoryBuffer;
    type Bytes = <MemoryDisk as Storage>::Bytes;
    type Pin = <MemoryDisk as Storage>::Pin;

    async fn write_at(&self, buffer: MemoryBuffer, offset: u64) -> io::Result<()> {
        let mut write = pin!(self.file.write_at(buffer, offset));
        // Begun at once: from here on any of its sectors may be on disk.
        match poll_once(write.as_mut()).await {
            Some(done) => done,
            None => {
                self.disk.work().await;
                write.await
            }
        }
    }

    async fn read_at(&self, offset: u64, bytes: usize) -> io::Result<Self::Bytes> {
        self.disk.work().await;
        self.file.read_at(offset, bytes).await
    }

    async fn sync(&self) -> io::Result<()> {
        self.disk.work().await;
        self.file.sync().await
    }

    async fn size(&self) -> io::Result<u64> {
        self.file.size().await
    }

    fn pin(&self) -> io::Result<Self::Pin> {
        self.file.pin()
    }
}

impl Storage for SimulatedDisk {
    type Buffer = MemoryBuffer;
    type Bytes = <MemoryDisk as Storage>::Bytes;
    type Pin = <MemoryDisk as Storage>::Pin;
    type File = SimulatedFile;

    fn buffer(&self, bytes: usize) -> MemoryBuffer {
        self.memory.buffer(bytes)
    }

    async fn create(&self, path: &str) -> io::Result<SimulatedFile> {
        self.work().await;
        self.memory.create(path).await.map(|file| self.file(file))
    }

    async fn open(&self, path: &str) -> io::Result<SimulatedFile> {
        self.work().await;
        self.memory.open(path).await.map(|file| self.file(file))
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.work().await;
        self.memory.rename(from, to).await
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        self.work().await;
        self.memory.remove(path).await
    }

    async fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.memory.list(dir).await
    }

    async fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.work().await;
        self.memory.sync_dir(dir).await
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.memory.free_bytes()
    }

    async fn read_pinned(&self, pin: &Self::Pin, offset: u64, bytes: usize) -> io::Result<Self::Bytes> {
        self.work().await;
        self.memory.read_pinned(pin, offset, bytes).await
    }

    fn now(&self) -> Moment {
        self.world.now().mono
    }

    async fn sleep(&self, wait: Duration) {
        self.world.sleep(wait).await;
    }
}
