//! PURE. Says in words what is not as it was written: one [`Finding`] for each place, the same in the relay's log, in the
//! reports beside bytes that were set aside, and for `ringpost spool verify`.

use std::fmt;
use std::ops::Range;

use super::record::{self, Header, Kind, RecordError, Salt};
use super::recovery::{Damage, Source};
use super::replay::RecoveryReport;
use super::segment::BATCHES_OFFSET;
use crate::id::PartId;
use crate::limits::{BATCH_BYTES_MAX, RECORD_BYTES_MAX};

/// How something differs from what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// The end of a write that the power or a kill cut off: never acknowledged.
    Torn,
    /// Acknowledged bytes that changed.
    Rot,
    /// One of the two copies of a segment's header.
    Header,
    /// Both copies; the trailer of the sealed segment says the same.
    Headers,
    /// A sealed segment's footer or trailer: its batches say the same.
    Footer,
    /// Both copies of a segment's header, and with them all that is in it.
    Unreadable,
    /// A segment's file is gone.
    Missing,
}

impl Flaw {
    /// Every flaw.
    pub const ALL: [Self; 7] =
        [Self::Torn, Self::Rot, Self::Header, Self::Headers, Self::Footer, Self::Unreadable, Self::Missing];

    /// Whether acknowledged bytes were damaged, whatever can be made good.
    pub fn is_damage(self) -> bool {
        self != Self::Torn
    }

    /// What follows from it for the operator, in some lines.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Torn => {
                "The last write before a crash did not complete, and nobody was told 250 for it:\n\
                 nothing is lost, and there is nothing to do."
            }
            Self::Rot => {
                "These bytes were acknowledged and have changed since: look at the disk and its file system.\n\
                 A damaged `Accepted` is a message that is lost, a damaged `Chunk` a piece of one: it is not sent, and its sender\n\
                 has to send it again, and is told so if its envelope can still be read.\n\
                 A damaged `Outcome` or `Bounced` is an attempt that may be repeated."
            }
            Self::Header => "The other copy stands for it and nothing is lost: look at the disk.",
            Self::Headers => "The segment's trailer stands for them and nothing is lost: look at the disk.",
            Self::Footer => "The segment's batches say the same and nothing is lost: look at the disk.",
            Self::Unreadable => {
                "Messages in this segment are lost, and attempts noted in it may be repeated. The file is kept, in the\n\
                 end in damaged/: look at the disk. With a copy of it from a backup everything can be read again."
            }
            Self::Missing => {
                "Messages in this segment are lost, and attempts noted in it may be repeated.\n\
                 If the file can be brought back, stop the relay first."
            }
        }
    }
}

/// A place that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The part.
    pub part: PartId,
    /// The segment.
    pub segment: u32,
    /// How it differs.
    pub flaw: Flaw,
    /// Which bytes; `None` if there are none.
    pub range: Option<Range<u32>>,
    /// Intact records in the range that apply nevertheless.
    pub salvaged: u32,
}

impl Finding {
    pub(super) fn of_damage(part: PartId, segment: u32, damage: &Damage) -> Self {
        let flaw = if damage.torn { Flaw::Torn } else { Flaw::Rot };
        Self { part, segment, flaw, range: Some(damage.range.clone()), salvaged: damage.salvaged }
    }

    /// Name of a file in `damaged/` for its bytes.
    pub(super) fn file_name(&self) -> String {
        let what = match self.flaw {
            Flaw::Torn => "torn",
            Flaw::Rot => "rot",
            Flaw::Header => "header",
            Flaw::Headers => "headers",
            Flaw::Footer => "footer",
            Flaw::Unreadable => "unreadable",
            Flaw::Missing => "missing",
        };
        let place = self.range.as_ref().map_or(String::new(), |range| format!("-at-{}", range.start));
        format!("{}{place}.{what}", segment_name(self.part, self.segment))
    }

    /// Whether there may be records in its bytes.
    pub(super) fn is_of_batches(&self) -> bool {
        matches!(self.flaw, Flaw::Torn | Flaw::Rot)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "part {}, segment {}: ", self.part.0, self.segment)?;
        if let Some(range) = &self.range {
            write!(f, "bytes {} to {} ", range.start, range.end)?;
        }
        match self.flaw {
            Flaw::Torn => f.write_str("are torn, the end of a write that was never acknowledged"),
            Flaw::Rot if self.salvaged == 0 => f.write_str("are rotten, with no intact record in them"),
            Flaw::Rot => write!(f, "are rotten; what is intact in them applies, records: {}", self.salvaged),
            Flaw::Header => f.write_str("are damaged, one of two copies of its header"),
            Flaw::Headers => {
                f.write_str("are damaged, both copies of its header; its trailer is read instead")
            }
            Flaw::Footer => f.write_str("are damaged, its footer; its batches are read instead"),
            Flaw::Unreadable => f.write_str("are damaged, its header, and nothing in it can be read"),
            Flaw::Missing => f.write_str("it is missing"),
        }
    }
}

impl RecoveryReport {
    /// Everything in it, one by one.
    pub fn findings(&self, part: PartId) -> Vec<Finding> {
        const HEADERS: Range<u32> = 0..BATCHES_OFFSET;
        let finding = |segment: u32, flaw, range| Finding { part, segment, flaw, range, salvaged: 0 };
        let damage = self.damage.iter().map(|(segment, damage)| Finding::of_damage(part, *segment, damage));
        let headers = self.headers_damaged.iter().map(|(segment, range)| {
            let flaw = if *range == HEADERS { Flaw::Headers } else { Flaw::Header };
            finding(*segment, flaw, Some(range.clone()))
        });
        let footers = self.footers_damaged.iter();
        damage
            .chain(headers)
            .chain(footers.map(|(segment, range)| finding(*segment, Flaw::Footer, Some(range.clone()))))
            .chain(self.unreadable.iter().map(|number| finding(*number, Flaw::Unreadable, Some(HEADERS))))
            .chain(self.missing.iter().map(|number| finding(*number, Flaw::Missing, None)))
            .collect()
    }
}

/// How names in `damaged/` begin of what belongs to this segment.
pub(super) fn segment_name(part: PartId, segment: u32) -> String {
    format!("part-{:05}-segment-{segment:010}", part.0)
}

/// A record in a damaged range whose header is intact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The header.
    pub header: Header,
    /// Whether the rest is intact, too.
    pub is_whole: bool,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.header.kind {
            Some(Kind::Accepted) => "Accepted",
            Some(Kind::Chunk) => "Chunk",
            Some(Kind::Outcome) => "Outcome",
            Some(Kind::Bounced) => "Bounced",
            Some(Kind::Aborted) => "Aborted",
            None => "record",
        };
        let state = if self.is_whole { "intact" } else { "damaged" };
        write!(f, "{kind} of message {} at {}, {state}", self.header.id, self.header.offset)
    }
}

/// The records in `range` of a segment whose headers can be read.
pub(super) async fn traces<S: Source>(
    source: &mut S,
    salt: Salt,
    range: Range<u32>,
) -> Result<Vec<Trace>, S::Error> {
    let mut traces = Vec::new();
    let mut at = range.start;
    while at + record::HEADER_BYTES as u32 <= range.end {
        let until = range.end.min(at.saturating_add(BATCH_BYTES_MAX as u32));
        let bytes = source.read(at..until).await?;
        // A record that may go on behind the piece is looked at in the next one.
        let least = if until == range.end { record::HEADER_BYTES } else { RECORD_BYTES_MAX };
        let mut done = 0;
        while done + least <= bytes.len() {
            let (rest, offset) = (&bytes[done..], at + done as u32);
            let header = Header::claims(rest, offset).then(|| Header::decode(rest, salt));
            match header {
                Some(Ok(header)) => {
                    let is_whole = header.meta(rest, salt).and_then(|_| header.body(rest, salt)).is_ok();
                    traces.push(Trace { header, is_whole });
                    // Its lengths hold, whatever became of what they count.
                    done += record::padded(header.bytes());
                }
                None | Some(Err(RecordError::Damaged | RecordError::UnknownCritical(_))) => {
                    done += record::ALIGN_BYTES;
                }
            }
        }
        at += done.max(record::ALIGN_BYTES) as u32;
    }
    Ok(traces)
}

/// The text that is put into `damaged/`, beside bytes if there are any to set aside.
pub(super) fn text(finding: &Finding, segment_path: &str, traces: &[Trace]) -> String {
    let mut text = match finding.range {
        Some(_) => format!(
            "Ringpost found these bytes when it opened the spool, and set a copy of them aside.\n\n\
             what     {finding}\n\
             where    {segment_path}, which was not changed\n\
             copy     {} beside this file, filled up with zeros to whole blocks\n",
            finding.file_name(),
        ),
        None => format!(
            "Ringpost did not find this segment when it opened the spool.\n\n\
             what     {finding}\n\
             where    {segment_path}\n",
        ),
    };
    // A torn write has no damaged records: nobody was told of any of them.
    let told = |trace: &&Trace| finding.flaw == Flaw::Torn || !trace.is_whole;
    let mut label = "records";
    for trace in traces.iter().filter(told) {
        text.push_str(&format!("{label:<9}{trace}\n"));
        label = "";
    }
    if label == "records" && finding.is_of_batches() {
        text.push_str("records  none of the damaged ones has a header that can be read\n");
    }
    text.push_str(&format!("\n{}\n", finding.flaw.advice()));
    text
}
