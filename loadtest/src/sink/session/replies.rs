//! PURE. What the script does to replies: refusals, drops, delays.

use crate::sink::script::{Action, Moment, Pending, Stage};
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
    slow(fixed, fixed.script.slowing(stage, address, moment), out, moment, host);
    let pending = fixed.script.matching(stage, address, moment)?;
    let action = fixed.script.apply(pending)?;
    Some(refuse(action, moment, out, host))
}

/// Holds the next reply back as a rule says.
pub(super) fn slow(
    fixed: &Fixed<'_>,
    rule: Option<Pending>,
    out: &[u8],
    moment: Moment,
    host: &mut impl Host,
) {
    if let Some(micros) = rule.and_then(|rule| fixed.script.delay(rule, moment)) {
        host.hold(out.len(), micros);
    }
}

/// The same for a rule that was found earlier.
pub(super) fn slow_later(fixed: &Fixed<'_>, rule: Option<Pending>, out: &[u8], host: &mut impl Host) {
    if rule.is_some() {
        let moment = host.moment();
        slow(fixed, rule, out, moment, host);
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
