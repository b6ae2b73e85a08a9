//! The whole relay in virtual time: sessions, spool, queue and delivery as `serve` runs them, with clients, remotes, a
//! disk, a network and a clock that fail by a seed.
//!
//! The law: a message that was answered 250 is, at every instant and after any crash, queued, delivered or bounced for
//! each recipient. [`run::run`] lets a seed happen and says whether the law held.
//!
//! | file | what |
//! | --- | --- |
//! | `plan` | what happens in a run. PURE |
//! | `mail` | messages that follow from their numbers. PURE |
//! | `ledger` | what was told and what arrived: the oracle. PURE |
//! | `disk` | the relay's disk |
//! | `relay` | the relay: started, killed, stopped |
//! | `client`, `remote`, `wire` | who sends to it, and who takes from it |
//! | `inspect` | what a crash at this instant would leave |
//! | `run` | one run |

pub mod client;
pub mod disk;
pub mod inspect;
pub mod ledger;
pub mod mail;
pub mod plan;
pub mod relay;
pub mod remote;
pub mod run;
pub mod wire;

/// The command that lets `seed` happen again.
pub fn replay(seed: u64) -> String {
    format!("cargo run --release -p ringpost-simulation -- simulate --first {seed} --seeds 1")
}
