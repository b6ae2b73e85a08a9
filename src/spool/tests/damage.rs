//! What a start finds damaged is in `damaged/` afterwards, with a text; and no segment is gone without a word.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::limits::BLOCK_BYTES;
use crate::outcome::LegState;
use crate::spool::reader::ReadError;
use crate::spool::segment::{BATCHES_OFFSET, Header, TRAILER_BYTES};
use crate::spool::testing::{PART, coin};
use crate::spool::{Finding, Flaw, Liveness};

fn segment(number: u32) -> String {
    format!("part-00001/segment-{number:010}")
}

/// A part of several segments, of which the last is the head, and some are prepared.
fn filled() -> Rig {
    let rig = Rig::fresh(SMALL);
    rig.run(async move |rig| {
        for _ in 0..60 {
            rig.accept(2500).await.unwrap();
        }
        rig.log.storage_sleep().await;
    });
    rig
}

/// Opens `disk`; gives what was found, and which messages are there.
fn found(disk: &MemoryDisk) -> (Vec<Finding>, Vec<MessageId>) {
    let (rig, report) = Rig::open(disk, SMALL, 9).unwrap();
    assert_eq!(report.copies_failed, 0);
    (report.findings(PART), rig.model.ids())
}

#[test]
fn whatever_is_damaged_is_set_aside_with_a_text_once() {
    let disk = filled().disk.copy();
    let bytes = disk.contents(&segment(1)).unwrap();
    let trailer = bytes.len() - TRAILER_BYTES as usize;
    let (_, footer) = Header::decode_trailer(&bytes[trailer..]).expect("it is sealed");
    let footer_at = footer.offset as usize;
    let headers = BATCHES_OFFSET as usize;
    let cases: [(&[usize], Flaw, _, &str); 6] = [
        (&[20], Flaw::Header, 0..BLOCK_BYTES, "-at-0.header"),
        (&[BLOCK_BYTES + 20], Flaw::Header, BLOCK_BYTES..headers, "-at-4096.header"),
        (&[20, BLOCK_BYTES + 20], Flaw::Headers, 0..headers, "-at-0.headers"),
        (&[footer_at], Flaw::Footer, footer_at..footer_at + footer.bytes as usize, ".footer"),
        (&[trailer + 20], Flaw::Footer, trailer..bytes.len(), ".footer"),
        (&[20, BLOCK_BYTES + 20, trailer + 20], Flaw::Unreadable, 0..headers, "-at-0.unreadable"),
    ];
    for (flips, flaw, place, end) in cases {
        let disk = disk.copy();
        flips.iter().for_each(|at| disk.flip(&segment(1), *at, 1));
        let damaged = disk.contents(&segment(1)).unwrap();
        let (findings, _) = found(&disk);
        let finding = findings.iter().find(|finding| finding.flaw == flaw).expect("it is found");
        let range = finding.range.clone().expect("it has a place");
        assert_eq!((range.start as usize, range.end as usize), (place.start, place.end), "{finding}");
        let aside = |disk: &MemoryDisk| {
            disk.paths().into_iter().filter(|path| path.starts_with("damaged/")).collect::<Vec<_>>()
        };
        let files = aside(&disk);
        let copy = files.iter().find(|path| path.ends_with(end)).unwrap_or_else(|| panic!("{files:?}"));
        assert!(disk.contents(copy).unwrap().starts_with(&damaged[place]), "{copy} is not what stood there");
        let text = String::from_utf8(disk.contents(&format!("{copy}.txt")).unwrap()).unwrap();
        for words in [&*finding.to_string(), &segment(1), finding.flaw.advice()] {
            assert!(text.contains(words), "`{words}` is missing: {text}");
        }
        found(&disk);
        assert_eq!(aside(&disk), files, "the next start finds the same");
    }
}

#[test]
fn a_segment_that_is_gone_is_missed_wherever_it_was() {
    let running = filled();
    let closed = filled();
    closed.run(async move |rig| rig.log.close().await);
    let again = |disk: &MemoryDisk| {
        let (rig, _) = Rig::open(&disk.copy(), SMALL, 5).unwrap();
        rig.drive();
        rig.run(async move |rig| {
            rig.accept(2500).await.unwrap();
            rig.log.storage_sleep().await;
        });
        rig
    };
    for rig in [again(&running.disk), again(&closed.disk), running, closed] {
        let disk = rig.disk.copy();
        let (findings, all) = found(&disk.copy());
        assert_eq!(findings, [], "nothing is gone");
        let mut lost = 0;
        for path in disk.paths() {
            let number = path.strip_prefix("part-00001/segment-").and_then(|number| number.parse().ok());
            let Some(number) = number else { continue };
            let gone = disk.without(&path);
            let (findings, left) = found(&gone);
            if left.len() == all.len() {
                continue;
            }
            lost += all.len() - left.len();
            let missed = |finding: &Finding| (finding.flaw, finding.segment) == (Flaw::Missing, number);
            assert!(findings.iter().any(missed), "{path} is gone, and nobody noticed: {findings:?}");
            let text = gone.contents(&format!("damaged/part-00001-segment-{number:010}.missing.txt"));
            assert!(text.is_some_and(|text| String::from_utf8_lossy(&text).contains(&path)));
            // Ids that were in it are not given out again.
            let (after, _) = Rig::open(&gone, SMALL, 6).unwrap();
            assert!(all.last().is_some_and(|last| after.log.next_id() > *last));
        }
        assert_eq!(lost, all.len(), "each message was in one of them");
    }
}

#[test]
fn the_only_segment_is_missed_too() {
    let rig = Rig::fresh(SMALL);
    rig.run(async move |rig| {
        rig.accept(100).await.unwrap();
        rig.log.close().await;
    });
    let (findings, left) = found(&rig.disk.without(&segment(1)));
    assert_eq!((findings.len(), findings[0].flaw, left.len()), (1, Flaw::Missing, 0), "{findings:?}");
}

#[test]
fn a_start_that_a_power_cut_ends_makes_no_prepared_segment_look_missing() {
    let rig = filled();
    let disk = rig.disk.copy();
    let before = disk.event_count();
    drop(Rig::open(&disk, SMALL, 5).unwrap());
    let mut cuts = 0;
    for events in before..=disk.event_count() {
        for seed in 0..8 {
            let (findings, left) = found(&disk.cut(events, &mut coin(seed)));
            assert!(findings.iter().all(|finding| finding.flaw != Flaw::Missing), "{events}: {findings:?}");
            assert_eq!(left.len(), rig.model.ids().len());
            cuts += 1;
        }
    }
    assert!(cuts > 40, "{cuts}");
}

/// A queue that settles what it is told is damaged only when `told` is let go.
#[derive(Clone, Default)]
struct Patient {
    model: Model,
    told: Rc<RefCell<Vec<(MessageId, Location)>>>,
}

impl Liveness for Patient {
    fn state(&self, id: MessageId) -> Option<(Location, Vec<LegState>)> {
        self.model.state(id)
    }

    fn moved(&self, id: MessageId, from: Location, to: Location) {
        self.model.moved(id, from, to);
    }

    fn damaged(&self, id: MessageId, at: Location) {
        self.told.borrow_mut().push((id, at));
    }
}

#[test]
fn a_damaged_message_keeps_its_segment_until_it_is_settled_and_what_stands_beside_it_moves() {
    // Not with the usual drivers, whose queue knows no damage.
    let (rig, _) = Rig::open(&MemoryDisk::new(1 << 30), SMALL, 5).unwrap();
    let queue = Patient { model: rig.model.clone(), ..Patient::default() };
    rig.executor.spawn(rig.log.clone().run_committer());
    rig.executor.spawn(rig.log.clone().run_clock());
    let mut salt = 77;
    let random = move || {
        salt += 1;
        salt
    };
    rig.executor.spawn(rig.log.clone().run_upkeep(queue.clone(), random));
    let (struck, beside) = rig.run(async move |rig| {
        let (struck, at) = rig.accept(2000).await.unwrap();
        let (beside, _) = rig.accept(2000).await.unwrap();
        rig.disk.flip(&segment(at.segment), at.offset as usize + 1000, 4);
        for _ in 0..200 {
            let (id, _) = rig.accept(2000).await.unwrap();
            rig.settle(id).await.unwrap();
        }
        rig.log.storage_sleep().await;
        ((struck, at), beside)
    });
    assert!(queue.told.borrow().iter().all(|told| *told == struck), "{:?}", queue.told);
    assert!(queue.told.borrow().len() > 1, "told again as long as nothing is done");
    let moved = rig.model.0.borrow()[&beside].0;
    assert!(moved.segment > struck.1.segment, "{moved:?}");
    assert!(rig.disk.paths().contains(&segment(struck.1.segment)), "its evidence is there");
    let envelope = rig.run(async move |rig| rig.log.salvage(struck.0, struck.1).await.unwrap());
    assert_eq!(envelope.expect("its meta is intact").sender(), "s@example.com");
    rig.run(async move |rig| {
        rig.settle(struck.0).await.unwrap();
        rig.log.storage_sleep().await;
        rig.fill_until(struck.1.segment + 20).await;
        rig.log.storage_sleep().await;
    });
    let stats = rig.log.stats();
    assert!(stats.segments < 8, "the ring goes on: {stats:?}");
}

#[test]
fn the_envelope_of_a_damaged_message_is_found_in_its_record_or_the_footer_or_not_at_all() {
    let rig = filled();
    let (id, at) = rig.model.0.borrow().iter().map(|(id, (at, _))| (*id, *at)).next().expect("a message");
    let path = segment(at.segment);
    let size = rig.disk.contents(&path).unwrap().len();
    let (_, footer) = Header::decode_trailer(&rig.disk.contents(&path).unwrap()[size - 4096..]).unwrap();
    let salvaged = || rig.run(async move |rig| rig.log.salvage(id, at).await.unwrap());
    let (body, meta) = (at.offset as usize + at.bytes as usize - 1, at.offset as usize + 45);
    for (flip, found) in [(body, true), (meta, true), (footer.offset as usize + 45, false)] {
        rig.disk.flip(&path, flip, 1);
        let envelope = salvaged();
        assert_eq!(envelope.is_some(), found, "{flip}");
        assert!(envelope.is_none_or(|envelope| envelope.sender() == "s@example.com"));
        rig.run(async move |rig| {
            let envelope = rig.log.salvage(id, at).await.unwrap();
            rig.log.set_message_aside(id, at, envelope.as_ref()).await.unwrap();
        });
    }
    let name = format!("damaged/part-00001-segment-{:010}-at-{}.message", at.segment, at.offset);
    let text = String::from_utf8(rig.disk.contents(&format!("{name}.txt")).unwrap()).unwrap();
    for words in [&*id.to_string(), "<s@example.com>", "<r@example.net>", &path] {
        assert!(text.contains(words), "`{words}` is missing: {text}");
    }
    assert!(rig.disk.contents(&name).unwrap().len() >= at.bytes as usize);
}

#[test]
fn a_message_that_lies_in_a_lost_segment_is_known_as_damaged_not_as_unreadable_for_now() {
    let rig = Rig::fresh(SMALL);
    let id = rig.run(async move |rig| {
        let id = rig.log.next_id();
        for _ in 0..20 {
            rig.log.append_chunk(id, &body(id, 4000)).await.unwrap();
        }
        rig.accept_as(id, 10).await.unwrap();
        rig.log.storage_sleep().await;
        id
    });
    let (found, report) = Rig::open(&rig.disk.without(&segment(1)), SMALL, 9).unwrap();
    assert_eq!(report.missing, [1]);
    let (location, _) = found.model.0.borrow()[&id];
    let error = found.run(async move |rig| rig.log.pin(id, location).await.map(|_| ()).unwrap_err());
    let ReadError::Damaged { at, .. } = error else { panic!("{error}") };
    assert_eq!(at.segment, 1);
}
