//! Sending: paths at their home workers, lanes, connections, attempts.
//!
//! * [`home`] decides how many connections a path may have and who has them. PURE.
//! * [`lane`] is a path at one worker: its jobs, connections and credits. PURE.

pub mod home;
pub mod lane;
