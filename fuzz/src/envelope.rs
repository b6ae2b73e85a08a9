//! Any meta of a record: an envelope that passes its check can be read, queued, tried and settled.

use ringpost::clock::{Moment, Now, WallTime};
use ringpost::envelope::Envelope;
use ringpost::id::{Location, MessageId, PartId, PathId};
use ringpost::limits::LEG_RECIPIENTS_MAX;
use ringpost::queue::{Change, Queue, QueueOptions};
use ringpost::spool::meta;

const NOW: Now = Now { wall: WallTime(1_800_000_000_000), mono: Moment(1_000_000) };
const PATH: PathId = PathId(1);

fn check_fields(envelope: &Envelope, bytes: &[u8]) {
    assert_eq!(envelope.as_bytes(), bytes);
    let count = envelope.recipients().count();
    let mut next = 0;
    for leg in envelope.legs() {
        assert!((1..=LEG_RECIPIENTS_MAX).contains(&usize::from(leg.count)), "{leg:?}");
        assert_eq!(leg.first, next, "recipients between two legs");
        next += leg.count;
    }
    assert_eq!(usize::from(next), count, "recipients outside of all legs");
    assert!(envelope.recipients().zip(0..).all(|(recipient, index)| recipient.index == index));
    let _ = (envelope.sender(), envelope.tenant(), envelope.envid(), envelope.parameters());
}

/// Accepts the envelope, applies whatever the records say, gives out what is ready, expires the rest.
fn check_queue(accepted: &meta::AcceptedMeta, records: &[u8]) {
    let id = MessageId::new(PartId(1), 1);
    let location = Location { segment: 1, offset: 8192, bytes: 64 };
    let mut queue = Queue::new(QueueOptions::default(), 1);
    let envelope = &accepted.envelope;
    let states = accepted.legs.as_slice();
    queue.apply(Change::Accepted { id, envelope, location, body_bytes: 100, states }, NOW);
    while let Some(domain) = queue.poll_unrouted().map(str::to_owned) {
        queue.route(&domain, PATH, false, Moment(u64::MAX), NOW);
    }
    if let Ok(outcome) = meta::outcome(id, records) {
        queue.apply(Change::Outcome(&outcome), NOW);
        // Twice is once.
        let depth = queue.depth();
        queue.apply(Change::Outcome(&outcome), NOW);
        assert_eq!(queue.depth(), depth);
    }
    if let Ok(bounced) = meta::bounced(id, records) {
        queue.apply(Change::Bounced(&bounced), NOW);
    }
    let mut out = 0;
    while let Some(job) = queue.pop(PATH, 10) {
        assert!(job.recipients != 0, "a job for nobody");
        out += job.recipients.count_ones() as usize;
    }
    assert!(out <= envelope.recipients().count(), "more recipients are tried than there are");
    let later = Now { wall: WallTime(u64::MAX / 2), mono: Moment(1 << 50) };
    while queue.advance(later, 1000) {}
    while queue.poll_expired().is_some() {}
    while queue.poll_owed(later).is_some() {}
    let _ = (queue.describe(id), queue.state(id));
    queue.apply(Change::Aborted(id), later);
    assert!(queue.state(id).is_none(), "a message that was taken back is still there");
}

/// The first two bytes say how long the meta of the Accepted is; behind it stands the meta of a later record.
pub fn check(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let (first, records) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    if let Ok(envelope) = Envelope::from_bytes(first.to_vec()) {
        check_fields(&envelope, first);
    }
    if let Ok(accepted) = meta::accepted(first) {
        check_queue(&accepted, records);
    }
}
