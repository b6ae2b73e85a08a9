//! PURE. What workers ask the threads that write Maildirs, and what they are told.
//!
//! A message goes piece by piece, each behind the answer to the one before, so that a delivery has one piece on its way
//! and nobody waits for room. All pieces of a delivery go to one thread.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::id::WorkerIndex;
use crate::message::Message;
use crate::outcome::{Reply, Verdict};

/// Requests that may wait for one thread. Each is a piece of at most 64 KiB, or a message that is in memory anyway.
const REQUESTS_MAX: usize = 64;

/// Which delivery of which worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// Who asks, and is answered.
    pub worker: WorkerIndex,
    /// The worker's number for it.
    pub number: u64,
}

/// What a delivery begins with.
#[derive(Clone, Debug)]
pub struct Begin {
    /// The sender's mailbox; empty is the null sender.
    pub sender: Box<str>,
    /// To whom, at least one.
    pub recipients: Vec<Box<str>>,
    /// The body is octets, not lines.
    pub binary: bool,
}

/// A piece of a body.
#[derive(Clone, Debug)]
pub enum Piece {
    /// The body of a message that is in memory.
    Resident(Arc<Message>),
    /// Read back from the spool.
    Read(Vec<u8>),
}

impl Piece {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Resident(message) => &message.body,
            Self::Read(bytes) => bytes,
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Request {
    /// The next piece is to be written.
    Piece {
        /// Of this delivery.
        ticket: Ticket,
        /// With the first piece.
        begin: Option<Begin>,
        /// The octets.
        piece: Piece,
        /// No other follows: the message is to be made durable.
        last: bool,
    },
    /// The rest does not come: nothing of it is to be seen. Not answered.
    Abandon(Ticket),
}

impl Request {
    fn ticket(&self) -> Ticket {
        match self {
            Self::Piece { ticket, .. } | Self::Abandon(ticket) => *ticket,
        }
    }
}

/// What became of one recipient.
pub type Stored = (Verdict, Reply);

/// The answer to a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The next one, please.
    More,
    /// The delivery is over; the result of each recipient, in their order. Comes before the last piece when all have failed.
    Done(Vec<Stored>),
}

/// A worker's way to ask; clones go to the same threads.
#[derive(Clone)]
pub struct Store(Vec<Sender<Request>>);

impl Store {
    /// Asks without waiting; gives the request back when too many wait, or nobody is there any more.
    ///
    /// # Errors
    /// With the request.
    pub fn ask(&self, request: Request) -> Result<(), Request> {
        let ticket = request.ticket();
        let Some(at) =
            (ticket.number.wrapping_add(u64::from(ticket.worker.0))).checked_rem(self.0.len() as u64)
        else {
            return Err(request);
        };
        self.0[at as usize].try_send(request).map_err(|error| error.into_inner())
    }
}

/// A way to ask `threads` threads, and where the requests of each come out.
pub fn requests(threads: usize) -> (Store, Vec<Receiver<Request>>) {
    let (senders, receivers) = (0..threads).map(|_| bounded(REQUESTS_MAX)).unzip();
    (Store(senders), receivers)
}
