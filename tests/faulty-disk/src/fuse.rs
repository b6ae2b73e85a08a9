//! The disk as FUSE sees it: requests to calls, results to replies. Nothing is cached by the kernel but pages of open files.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;
use rustix::io::Errno as Error;

use crate::disk::{BLOCK_BYTES, Disk, State};
use crate::faults::Kind;
use crate::names::FileId;

/// For how long the kernel may believe what it was told: after a power cut none of it holds.
const TTL: Duration = Duration::ZERO;
const GENERATION: Generation = Generation(0);
const NAME_BYTES_MAX: u32 = 255;

/// The disk, mounted.
pub struct Mounted(pub Arc<Disk>);

fn errno(error: Error) -> Errno {
    Errno::from_i32(error.raw_os_error())
}

fn kind(is_file: bool) -> FileType {
    if is_file { FileType::RegularFile } else { FileType::Directory }
}

fn attributes(state: &mut State, file: FileId) -> Result<FileAttr, Error> {
    let inode = state.inode(file)?;
    let time = inode.modified;
    Ok(FileAttr {
        ino: INodeNo(file),
        size: inode.length,
        blocks: inode.length.next_multiple_of(BLOCK_BYTES) / 512,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: kind(inode.content.is_some()),
        perm: inode.mode as u16,
        nlink: 1,
        uid: inode.owner.0,
        gid: inode.owner.1,
        rdev: 0,
        blksize: BLOCK_BYTES as u32,
        flags: 0,
    })
}

fn empty(reply: ReplyEmpty) -> impl FnOnce(Result<(), Error>) + Send {
    move |result| match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

impl Mounted {
    fn look<T>(&self, look: impl FnOnce(&mut State) -> Result<T, Error>) -> Result<T, Errno> {
        look(&mut self.0.state()).map_err(errno)
    }
}

impl Filesystem for Mounted {
    fn init(&mut self, _: &Request, _: &mut fuser::KernelConfig) -> std::io::Result<()> {
        let disk = self.0.clone();
        std::thread::spawn(move || disk.answer_late_calls());
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.look(|state| {
            let file = state.find(parent.0, name)?;
            attributes(state, file)
        });
        match found {
            Ok(attributes) => reply.entry(&TTL, &attributes, GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, file: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.look(|state| attributes(state, file.0)) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(error) => reply.error(error),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the trait's")]
    fn setattr(
        &self,
        _: &Request,
        file: INodeNo,
        mode: Option<u32>,
        user: Option<u32>,
        group: Option<u32>,
        length: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let file = file.0;
        let work = move |state: &mut State| {
            if let Some(length) = length {
                state.truncate(file, length)?;
            }
            let inode = state.inode(file)?;
            inode.mode = mode.map_or(inode.mode, |mode| mode & 0o7777);
            inode.owner = (user.unwrap_or(inode.owner.0), group.unwrap_or(inode.owner.1));
            attributes(state, file)
        };
        self.0.call(work, move |result| match result {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let owner = (request.uid(), request.gid());
        let work = |state: &mut State| {
            let file = state.make(parent.0, name, false, mode, owner)?;
            attributes(state, file)
        };
        self.0.call(work, move |result| match result {
            Ok(attributes) => reply.entry(&TTL, &attributes, GENERATION),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.0.call(|state| state.remove(parent.0, name), empty(reply));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(request, parent, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let work = |state: &mut State| {
            if !flags.is_empty() {
                return Err(Error::INVAL);
            }
            state.rename((parent.0, name), (to_parent.0, to_name))
        };
        self.0.call(work, empty(reply));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let owner = (request.uid(), request.gid());
        let work = |state: &mut State| {
            let file = state.make(parent.0, name, true, mode, owner)?;
            state.inode(file)?.opens += 1;
            attributes(state, file)
        };
        self.0.call(work, move |result| match result {
            Ok(attributes) => {
                reply.created(&TTL, &attributes, GENERATION, FileHandle(0), FopenFlags::empty());
            }
            Err(error) => reply.error(errno(error)),
        });
    }

    fn open(&self, _: &Request, file: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.look(|state| state.inode(file.0).map(|inode| inode.opens += 1)) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let mut state = self.0.state();
        if let Ok(inode) = state.inode(file.0) {
            inode.opens = inode.opens.saturating_sub(1);
        }
        state.clean(file.0);
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.look(|state| state.read(file.0, offset, size as usize)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        file: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (file, bytes) = (file.0, data.len() as u64);
        // O_SYNC has the bit of O_DSYNC.
        let through = OFlags::from_bits_retain(flags.0 as u32).contains(OFlags::DSYNC);
        let settle = move |state: &mut State| {
            if through {
                state.written_through(file, offset, bytes);
            }
        };
        self.0.call_of(
            Kind::Other,
            |state| state.write(file, offset, data),
            |state, why| state.write_badly(file, offset, data, why),
            settle,
            move |result| match result {
                Ok(()) => reply.written(bytes as u32),
                Err(error) => reply.error(errno(error)),
            },
        );
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Called by each close, and promises nothing.
        reply.ok();
    }

    fn fsync(&self, _: &Request, file: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let file = file.0;
        self.0.call_of(
            Kind::Sync,
            |_| Ok(()),
            |state, _| state.sync_failed(file),
            move |state| state.synced(file),
            empty(reply),
        );
    }

    fn fsyncdir(&self, _: &Request, directory: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let directory = directory.0;
        let settle = move |state: &mut State| state.sync_names(directory);
        self.0.call_of(Kind::Sync, |_| Ok(()), |_, _| {}, settle, empty(reply));
    }

    fn readdir(
        &self,
        _: &Request,
        directory: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut state = self.0.state();
        let names: Vec<_> =
            state.names.list(directory.0).map(|(name, file)| (name.to_owned(), file)).collect();
        let dots = [(".".into(), directory.0), ("..".into(), directory.0)];
        for (nth, (name, file)) in dots.into_iter().chain(names).enumerate().skip(offset as usize) {
            let is_file = state.inode(file).is_ok_and(|inode| inode.content.is_some());
            if reply.add(INodeNo(file), nth as u64 + 1, kind(is_file), name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let state = self.0.state();
        let (size, free) = (state.size() / BLOCK_BYTES, state.free() / BLOCK_BYTES);
        let block = BLOCK_BYTES as u32;
        reply.statfs(
            size,
            free,
            free,
            u64::from(u32::MAX),
            u64::from(u32::MAX),
            block,
            NAME_BYTES_MAX,
            block,
        );
    }
}
