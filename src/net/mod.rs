//! The door to glommio: executors, tasks, timers, sockets, and the channels between executors.
//!
//! Every rule that glommio needs to be safe in production is kept here, once: tasks are detached and never cancelled
//! (`task`), descriptors become glommio's in one audited place (`fd`), an accept that fails backs off (`listener`),
//! buffers are held only while there are bytes in them (`stream`, over `tls` where wanted), and a wake from another thread goes through one
//! eventfd per executor (`doorbell`). No other module but `spool::storage` names glommio.
//!
//! With the feature `simulation` there is a second form of all this, in virtual time (`simulated`): while a thread is in
//! a simulated world, everything here asks that world. So the code that runs in a simulation is the code that serves.

#[cfg(feature = "runtime")]
pub mod buffer;
#[cfg(feature = "runtime")]
pub mod doorbell;
#[cfg(feature = "runtime")]
pub mod event;
#[cfg(feature = "runtime")]
pub mod executor;
#[cfg(feature = "runtime")]
mod fd;
#[cfg(feature = "runtime")]
pub mod listener;
#[cfg(feature = "simulation")]
pub mod simulated;
pub mod sleep;
#[cfg(feature = "runtime")]
pub mod stream;
#[cfg(feature = "runtime")]
pub mod task;
#[cfg(feature = "runtime")]
pub mod tls;

#[cfg(feature = "runtime")]
pub use task::{now, random, sleep, spawn, spawn_vital, yield_now};
