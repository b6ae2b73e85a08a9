//! What is measured while a run lasts: latencies by [`phase`], counts and a coarse distribution by second ([`timeline`]),
//! and the files that other tools read ([`export`]).

pub mod export;
pub mod phase;
pub mod timeline;
