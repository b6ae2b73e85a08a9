//! Sending: paths at their home workers, lanes, connections, attempts.
//!
//! * [`home`] decides how many connections a path may have and who has them, by [`rate`] how often. PURE.
//! * [`lane`] is a path at one worker: its jobs ([`parked`]), connections and credits. PURE.
//! * [`pool`] holds a worker's paths and connects them to shards and other workers; `upkeep` does what is due for one, `report`
//!   says how it is.
//! * `times` is what a pool does because time has passed, by the alarms of [`wakes`] (PURE).
//! * [`peer`] is what workers say to each other. PURE.
//! * `dial` connects to a path's hosts, in the order that `order` gives, from the source that `sources`
//!   gives (both PURE).
//! * [`encryption`] says what a path's policy makes of a remote's TLS. PURE. [`keys`] has what is shown and trusted.
//! * [`connection`] is one outbound connection, `content` what it sends; [`job`] makes sure that each job is reported
//!   once.
//! * [`maildir`] is what takes the place of a connection where mail goes into Maildirs.

#[cfg(feature = "runtime")]
pub mod connection;
#[cfg(feature = "runtime")]
mod content;
#[cfg(feature = "runtime")]
mod dial;
pub mod encryption;
pub mod home;
#[cfg(feature = "runtime")]
pub mod job;
#[cfg(feature = "runtime")]
pub mod keys;
pub mod lane;
#[cfg(feature = "runtime")]
pub mod maildir;
#[cfg(feature = "runtime")]
pub mod peer;
#[cfg(test)]
mod model;
pub mod parked;
pub mod order;
#[cfg(feature = "runtime")]
pub mod path;
#[cfg(feature = "runtime")]
pub mod pool;
pub mod rate;
pub mod sources;
#[cfg(feature = "runtime")]
mod report;
#[cfg(feature = "runtime")]
mod times;
#[cfg(feature = "runtime")]
mod upkeep;
pub mod wakes;
