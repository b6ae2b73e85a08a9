//! PURE. How maps hash: seeded anew in each process, since peers choose many of the keys; in a simulation always alike, since
//! a run must be the same again.

#[cfg(feature = "simulation")]
pub use foldhash::fast::FixedState as HashState;
#[cfg(not(feature = "simulation"))]
pub use foldhash::fast::RandomState as HashState;
