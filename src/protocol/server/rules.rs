//! PURE. Which command may come when: one table, read before any argument is looked at.
//!
//! Commands that must be last in a pipelined group (RFC 2920 §3.1: EHLO, DATA, VRFY, EXPN, NOOP, QUIT) need no column:
//! replies go out in the order of commands, whatever the grouping.

use crate::protocol::command::Verb;
use crate::protocol::reply::{
    CHUNKS_BEGUN, NEED_MAIL, NEED_RECIPIENT, NESTED_MAIL, NO_VALID_RECIPIENTS, NOT_OFFERED, Refusal,
    SAY_HELLO,
};

/// How far the session is, as the rules see it: the columns of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No EHLO or HELO yet.
    Start,
    /// Between transactions.
    Idle,
    /// MAIL accepted, no RCPT tried.
    Sender,
    /// Every RCPT so far was refused.
    NoRecipients,
    /// At least one RCPT accepted.
    Recipients,
    /// Between BDAT chunks.
    Chunks,
}

/// What may stand behind a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// Nothing: anything is a syntax error (RFC 5321 §4.3.2).
    Nothing,
    /// Something or nothing.
    Anything,
    /// Something.
    Something,
}

/// `None`: go on.
type Cell = Option<Refusal>;

/// A row of the table.
#[derive(Debug)]
pub struct Rule {
    verb: Verb,
    /// What may stand behind the verb.
    pub argument: Argument,
    cells: [Cell; 6],
}

impl Rule {
    /// Why the command may not come now.
    pub fn refusal(&self, phase: Phase) -> Option<&Refusal> {
        self.cells[phase as usize].as_ref()
    }
}

const YES: Cell = None;
const HELLO: Cell = Some(SAY_HELLO);
const MAIL: Cell = Some(NEED_MAIL);
const RCPT: Cell = Some(NEED_RECIPIENT);
const NONE: Cell = Some(NO_VALID_RECIPIENTS);
const NEST: Cell = Some(NESTED_MAIL);
const CHNK: Cell = Some(CHUNKS_BEGUN);
const NEVER: Cell = Some(NOT_OFFERED);

const fn rule(verb: Verb, argument: Argument, cells: [Cell; 6]) -> Rule {
    Rule { verb, argument, cells }
}

#[rustfmt::skip]
static RULES: [Rule; 17] = [
    //                                             Start  Idle   Sender No     Recip  Chunks
    rule(Verb::Mail,     Argument::Something,     [HELLO, YES,   NEST,  NEST,  NEST,  CHNK]),
    rule(Verb::Rcpt,     Argument::Something,     [HELLO, MAIL,  YES,   YES,   YES,   CHNK]),
    rule(Verb::Data,     Argument::Nothing,       [HELLO, MAIL,  RCPT,  NONE,  YES,   CHNK]),
    rule(Verb::Bdat,     Argument::Something,     [HELLO, MAIL,  RCPT,  NONE,  YES,   YES]),
    rule(Verb::Rset,     Argument::Nothing,       [YES,   YES,   YES,   YES,   YES,   YES]),
    rule(Verb::Ehlo,     Argument::Something,     [YES,   YES,   YES,   YES,   YES,   YES]),
    rule(Verb::Helo,     Argument::Something,     [YES,   YES,   YES,   YES,   YES,   YES]),
    rule(Verb::Lhlo,     Argument::Something,     [YES,   YES,   YES,   YES,   YES,   YES]),
    rule(Verb::Noop,     Argument::Anything,      [YES,   YES,   YES,   YES,   YES,   YES]),
    rule(Verb::Quit,     Argument::Nothing,       [YES,   YES,   YES,   YES,   YES,   YES]),
    rule(Verb::Vrfy,     Argument::Something,     [YES,   YES,   YES,   YES,   YES,   YES]),
    rule(Verb::Help,     Argument::Anything,      [YES,   YES,   YES,   YES,   YES,   YES]),
    rule(Verb::Expn,     Argument::Anything,      [NEVER, NEVER, NEVER, NEVER, NEVER, NEVER]),
    rule(Verb::StartTls, Argument::Nothing,       [HELLO, YES,   NEST,  NEST,  NEST,  CHNK]),
    rule(Verb::Auth,     Argument::Something,     [HELLO, YES,   NEST,  NEST,  NEST,  CHNK]),
    rule(Verb::Xclient,  Argument::Something,     [YES,   YES,   NEST,  NEST,  NEST,  CHNK]),
    rule(Verb::Http,     Argument::Anything,      [YES,   YES,   YES,   YES,   YES,   YES]),
];

/// The row of `verb`.
pub fn rule_of(verb: Verb) -> &'static Rule {
    // Verbs stand in few rows, those of each message first.
    RULES.iter().find(|rule| rule.verb == verb).expect("a test sees that each verb has a row")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verb_has_one_row() {
        let verbs = [
            Verb::Mail,
            Verb::Rcpt,
            Verb::Data,
            Verb::Bdat,
            Verb::Rset,
            Verb::Ehlo,
            Verb::Helo,
            Verb::Lhlo,
            Verb::Noop,
            Verb::Quit,
            Verb::Vrfy,
            Verb::Expn,
            Verb::Help,
            Verb::StartTls,
            Verb::Auth,
            Verb::Xclient,
            Verb::Http,
        ];
        assert_eq!(verbs.len(), RULES.len());
        for verb in verbs {
            assert_eq!(rule_of(verb).verb, verb);
        }
    }

    #[test]
    fn the_columns_stand_in_the_order_of_the_phases() {
        let codes = |verb| {
            let phases = [
                Phase::Start,
                Phase::Idle,
                Phase::Sender,
                Phase::NoRecipients,
                Phase::Recipients,
                Phase::Chunks,
            ];
            phases.map(|phase| rule_of(verb).refusal(phase).map_or(0, |refusal| refusal.code))
        };
        assert_eq!(codes(Verb::Mail), [503, 0, 503, 503, 503, 503]);
        assert_eq!(codes(Verb::Data), [503, 503, 503, 554, 0, 503]);
        assert_eq!(codes(Verb::Bdat), [503, 503, 503, 554, 0, 0]);
    }
}
