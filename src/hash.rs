//! PURE. How maps hash: seeded anew in each process, since peers choose many of the keys; in a simulation always alike, since
//! a run must be the same again.

#[cfg(feature = "simulation")]
pub use foldhash::fast::FixedState as HashState;
#[cfg(not(feature = "simulation"))]
pub use foldhash::fast::RandomState as HashState;

/// A hash that all roles compute alike, for names that only need to be told apart: whoever makes two of them equal gains nothing.
pub fn name_hash(name: &str) -> u64 {
    std::hash::BuildHasher::hash_one(&foldhash::quality::FixedState::default(), name)
}
