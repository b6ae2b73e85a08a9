//! The door to glommio: executors, tasks, timers, sockets, and the channels between executors.
//!
//! Every rule that glommio needs to be safe in production is kept here, once: tasks are detached and never cancelled
//! (`task`), descriptors become glommio's in one audited place (`fd`), an accept that fails backs off (`listener`),
//! buffers are held only while there are bytes in them (`stream`, over `tls` where wanted), and a wake from another thread goes through one
//! eventfd per executor (`doorbell`). No other module but `spool::storage` names glommio.

pub mod buffer;
pub mod doorbell;
pub mod event;
pub mod executor;
mod fd;
pub mod listener;
pub mod stream;
pub mod task;
pub mod tls;

pub use task::{now, sleep, spawn, yield_now};
