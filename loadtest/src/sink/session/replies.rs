//! PURE. What the script does to replies: refusals, drops, delays.

use crate::sink::script::{Action, Decision, Moment, Stage};
use crate::sink::session::{Counted, Fixed, Flow, Host};

/// Appends a reply, and counts it if the command was bad.
pub(super) fn answer(reply: &[u8], out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
    if reply[0] == b'5' {
        host.count(Counted::Error);
    }
    out.extend_from_slice(reply);
    Flow::Continue
}

/// Applies the script at a stage without recipients. `None`: go on.
pub(super) fn scripted(
    fixed: &Fixed<'_>,
    stage: Stage,
    address: &[u8],
    out: &mut Vec<u8>,
    host: &mut impl Host,
) -> Option<Flow> {
    if fixed.script.is_empty() {
        return None;
    }
    let moment = host.moment();
    let decision = fixed.script.decide(stage, address, moment);
    slow(decision, out, host);
    Some(refuse(fixed.script.action(decision)?, moment, out, host))
}

/// Holds the next reply back if the script says so.
pub(super) fn slow(decision: Decision, out: &[u8], host: &mut impl Host) {
    if let Some(micros) = decision.delay {
        host.hold(out.len(), micros);
    }
}

/// Appends a refusal or drops the connection.
pub(super) fn refuse(action: &Action, moment: Moment, out: &mut Vec<u8>, host: &mut impl Host) -> Flow {
    match action {
        Action::Replies { texts, tarpit } => {
            host.count(if action.is_permanent() { Counted::Rejected } else { Counted::Deferred });
            let text = texts.get(moment.chance as usize % texts.len().max(1)).map_or("", |text| &**text);
            if *tarpit > 0 {
                (0..text.len()).for_each(|byte| host.hold(out.len() + byte, *tarpit));
            }
            out.extend_from_slice(text.as_bytes());
            if text.starts_with("421") { Flow::Close } else { Flow::Continue }
        }
        Action::Drop => {
            host.count(Counted::Dropped);
            Flow::Drop
        }
    }
}
