//! `ringpost spool verify`: reads every byte that counts and says what is not as it was written.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::list::{count, size};
use super::{InspectError, Verdict, View, export};
use crate::spool::reader::ReadError;

/// Reads segments, batches, records, footers and the bodies of all messages that are not settled.
pub(super) async fn verify(view: &mut View, out: &mut impl Write) -> Result<Verdict, InspectError> {
    let (mut damaged, mut flaws) = (0, Vec::new());
    for place in 0..view.parts.len() {
        view.parts[place].scan_sealed().await?;
        let part = &view.parts[place];
        let report = part.report();
        let waiting = view.ids.iter().filter(|id| id.part() == part.part()).count();
        writeln!(
            out,
            "part {}: {}, {}, {}, {} not settled",
            part.part().0,
            count(report.segments.into(), "segment"),
            size(part.bytes()),
            count(report.records, "record"),
            count(waiting as u64, "message"),
        )?;
        for (finding, traces) in part.findings().await? {
            damaged += u64::from(finding.flaw.is_damage());
            let label = if finding.flaw.is_damage() { "DAMAGE" } else { "note" };
            writeln!(out, "  {label}: {finding}")?;
            for trace in traces {
                writeln!(out, "    {trace}")?;
            }
            if !flaws.contains(&finding.flaw) {
                flaws.push(finding.flaw);
            }
        }
    }
    let lost = unreadable(view, out).await?;
    for flaw in flaws {
        writeln!(out, "{}", flaw.advice())?;
    }
    let messages = view.ids.len() as u64;
    let mut last = match lost {
        0 => format!("{}, every body read and whole", count(messages, "message")),
        lost => format!("of {}, {lost} cannot be read back and will not be sent", count(messages, "message")),
    };
    if view.spool.set_aside > 0 {
        let files = count(view.spool.set_aside as u64, "file");
        let _ = write!(last, "; {files} of earlier starts in {}/damaged", view.directory.display());
    }
    writeln!(out, "{last}")?;
    let verdict = if damaged + lost == 0 { Verdict::Sound } else { Verdict::Damaged };
    match verdict {
        Verdict::Sound => writeln!(out, "no damage")?,
        Verdict::Damaged => writeln!(out, "DAMAGED: {}", count(damaged + lost, "finding"))?,
    }
    Ok(verdict)
}

/// Reads the bodies of all messages; tells which cannot be read, and gives their number.
async fn unreadable(view: &View, out: &mut impl Write) -> Result<u64, InspectError> {
    let mut lost = 0;
    for id in &view.ids {
        match export::body(view, *id, &mut io::sink()).await {
            Ok(_) => {}
            Err(InspectError::Read(error @ (ReadError::Damaged { .. } | ReadError::Meta(_)))) => {
                lost += 1;
                let legs = view.queue.describe(*id).map(|message| message.legs).unwrap_or_default();
                let domains: Vec<_> = legs.iter().map(|leg| &*leg.domain).collect();
                writeln!(out, "  DAMAGE: {error}; it is for {}", domains.join(", "))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}
