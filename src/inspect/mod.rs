//! Looks into the spool of a stopped relay: `ringpost spool verify`, `list`, `export`. Reads it as a restart does, with the
//! same code for the log and the same fold for the queue, but from a storage that cannot write. Needs no executor, so it works
//! on any host, and on a copy or a read-only file system.
//!
//! Every command ends with 0 if all is well, 1 if something is damaged, and 2 if it could not do its work.

mod export;
mod list;
mod verify;

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use futures_lite::future::block_on;

use crate::id::MessageId;
use crate::net;
use crate::queue::{Queue, QueueOptions};
use crate::shard::open;
use crate::spool::layout::part_dir;
use crate::spool::reader::ReadError;
use crate::spool::storage::offline::{Offline, OfflinePin};
use crate::spool::{Pinned, Recovered, SpoolError, StoppedPart, StoppedSpool};

/// What is wanted.
#[derive(Clone, Debug)]
pub enum Inspection {
    /// Read everything and say what is damaged.
    Verify,
    /// Show the messages that are not settled.
    List {
        /// Only those to this domain, lower case.
        domain: Option<String>,
        /// An object a line in place of text.
        json: bool,
    },
    /// Write a message's body to standard output.
    Export(MessageId),
}

/// How a command ended when it could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Sound,
    Damaged,
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
enum InspectError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
    #[error(
        "message {0} is not in this spool: it was never accepted here, or has been settled for every recipient"
    )]
    Unknown(MessageId),
}

/// Carries out an inspection of the spool in `directory`; results go to standard output, the rest to standard error.
pub fn run(directory: &Path, inspection: &Inspection) -> ExitCode {
    let mut out = BufWriter::new(io::stdout().lock());
    let done = block_on(inspect(directory, inspection, &mut out))
        .and_then(|verdict| out.flush().map(|()| verdict).map_err(InspectError::from));
    match done {
        Ok(Verdict::Sound) => ExitCode::SUCCESS,
        Ok(Verdict::Damaged) => ExitCode::from(1),
        // Whoever reads has seen enough (`| head`).
        Err(InspectError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringpost: {error}");
            ExitCode::from(2)
        }
    }
}

async fn inspect(
    directory: &Path,
    inspection: &Inspection,
    out: &mut impl Write,
) -> Result<Verdict, InspectError> {
    let mut view = View::read(directory).await?;
    match inspection {
        Inspection::Verify => verify::verify(&mut view, out).await,
        Inspection::List { domain, json } => list::list(&view, domain.as_deref(), *json, out).await,
        Inspection::Export(id) => export::export(&view, *id, out).await,
    }
}

/// A stopped relay's spool, read.
struct View {
    directory: PathBuf,
    spool: StoppedSpool,
    parts: Vec<StoppedPart<Offline>>,
    queue: Queue,
    /// Messages that are not settled, in order of part and acceptance.
    ids: Vec<MessageId>,
}

impl View {
    async fn read(directory: &Path) -> Result<Self, SpoolError> {
        let spool = StoppedSpool::open(directory)?;
        let disk = Offline::new(directory.to_owned());
        let (mut parts, mut ids, now) = (Vec::new(), Vec::new(), net::now());
        // All replies are to be shown, however many there are.
        let mut queue =
            Queue::new(QueueOptions { reply_bytes_max: usize::MAX, ..QueueOptions::default() }, 0);
        for part in &spool.parts {
            let mut apply = |recovered: Recovered<'_>| {
                if let Recovered::Accepted { id, .. } = recovered {
                    ids.push(id);
                }
                open::apply(&mut queue, recovered, now)
            };
            parts.push(StoppedPart::read(disk.clone(), *part, &part_dir(*part), &mut apply).await?);
        }
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| queue.state(*id).is_some());
        Ok(Self { directory: directory.to_owned(), spool, parts, queue, ids })
    }

    /// The part of a message in this spool.
    fn part(&self, id: MessageId) -> Option<&StoppedPart<Offline>> {
        self.parts.iter().find(|part| part.part() == id.part())
    }

    /// A message that is not settled, made readable.
    fn pin(&self, id: MessageId) -> Result<(&StoppedPart<Offline>, Pinned<OfflinePin>), InspectError> {
        let (location, _) = self.queue.state(id).ok_or(InspectError::Unknown(id))?;
        let part = self.part(id).ok_or(InspectError::Unknown(id))?;
        Ok((part, part.pin(id, location)?))
    }
}
