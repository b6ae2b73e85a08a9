//! What a crash at this instant would leave: recovers a copy of the disk into a queue, and looks who is in it.

use std::collections::{BTreeMap, BTreeSet};

use futures_lite::future::block_on;
use ringpost::envelope::Envelope;
use ringpost::id::{MessageId, PartId};
use ringpost::net;
use ringpost::queue::{Queue, QueueOptions};
use ringpost::shard::open::apply;
use ringpost::spool::layout::part_dir;
use ringpost::spool::storage::memory::MemoryDisk;
use ringpost::spool::{Fence, Log, LogOptions, Recovered};

use crate::mail::{Recipient, Said, recipient_of, reported};
use crate::relay::DISK_BYTES;

/// What is on a disk.
#[derive(Debug, Default)]
pub struct Found {
    /// Recipients that are queued, or whose sender is going to be told.
    pub kept: BTreeSet<Recipient>,
    /// Messages in the queue, in words.
    pub messages: Vec<String>,
    /// Records by what they are about, as far as the run wants to see each at some time.
    pub records: Records,
}

/// Records that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Copies that were moved to free a segment.
    pub moved: u32,
    /// Settlements of recipients that failed.
    pub bounced: u32,
    /// Acceptances that were given up.
    pub aborted: u32,
}

/// Recovers every part of `disk`, which is changed by it and given room: how a restart copes with a full disk the run itself
/// shows.
///
/// # Errors
/// When a part cannot be recovered, or is damaged other than by a torn tail.
pub fn look(disk: &MemoryDisk, parts: &[PartId]) -> Result<Found, String> {
    disk.set_free(DISK_BYTES);
    let mut queue = Queue::new(QueueOptions::default(), 1);
    let mut envelopes: BTreeMap<MessageId, Envelope> = BTreeMap::new();
    let (mut logs, mut records) = (BTreeMap::new(), Records::default());
    for part in parts {
        let mut fold = |recovered: Recovered<'_>| {
            match &recovered {
                Recovered::Accepted { id, envelope, legs, .. } => {
                    envelopes.insert(*id, envelope.clone());
                    records.moved += u32::from(!legs.is_empty());
                }
                Recovered::Bounced(_) => records.bounced += 1,
                Recovered::Aborted(_) => records.aborted += 1,
                _ => {}
            }
            apply(&mut queue, recovered, net::now())
        };
        let options = LogOptions { segment_bytes: 512 * 1024, reserve_bytes: 0, ..LogOptions::default() };
        let mut salt = net::random;
        let dir = part_dir(*part);
        let opened = Log::open(disk.clone(), *part, &dir, options, Fence::default(), &mut salt, &mut fold);
        let (log, report) = block_on(opened).map_err(|error| error.to_string())?;
        if report.has_rot() {
            return Err(format!("part {} has rot: {report:?}", part.0));
        }
        logs.insert(*part, log);
    }
    let mut found = Found { records, ..Found::default() };
    for (id, envelope) in &envelopes {
        let Some((location, legs)) = queue.state(*id) else { continue };
        let (sender, until) = (envelope.sender(), envelope.expires_at());
        found.messages.push(format!("{id} from <{sender}>, expires at {until:?}: {legs:?}"));
        if envelope.sender().is_empty() {
            let whole = block_on(logs[&id.part()].read(*id, location)).map_err(|error| error.to_string())?;
            let ends = reported(&whole.body).into_iter().filter(|(_, said)| *said != Said::Delayed);
            found.kept.extend(ends.map(|(recipient, _)| recipient));
            continue;
        }
        for recipient in envelope.recipients() {
            let is_left = legs.iter().any(|leg| {
                let place =
                    recipient.index.checked_sub(leg.leg).map(u32::from).filter(|place| *place < u64::BITS);
                place.is_some_and(|place| leg.unsettled() & (1 << place) != 0)
            });
            if is_left {
                found.kept.extend(recipient_of(recipient.mailbox));
            }
        }
    }
    Ok(found)
}
