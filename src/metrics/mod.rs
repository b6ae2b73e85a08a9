//! PURE. What roles count: plain integers that only their own thread touches, and snapshots that travel.
//!
//! A role owns one [`ShardMetrics`] or [`WorkerMetrics`] and counts in `Cell`s: no atomic, no lock, no sharing while mail
//! flows. When `control` asks, the role answers with a snapshot ([`RoleSnapshot`]), plain `Send` data; names, units and
//! text are made of it in `control::exposition`. All label sets exist from the start, so that zeroes are shown.
//!
//! Latencies are bounded from 25 µs to 60 s. This module does not read clocks.

mod labels;
mod measure;
mod named;
pub mod paths;
mod roles;

pub use labels::{
    AttemptStage, BounceClass, By, ConnectionResult, DamageKind, DeliveryResult, EnhancedClass, Label,
    LegStateLabel, LimitKind, LoginResult, RejectReason, ReplyClass,
};
pub use measure::{
    Counter, GROUP_BOUNDS, Gauge, Histogram, HistogramSnapshot, LATENCY_BOUNDS_MICROS, Latency, Measure,
    Sizes,
};
pub use named::{ByName, SourceFigures};
pub use roles::{RoleSnapshot, ShardMetrics, ShardSnapshot, WorkerMetrics, WorkerSnapshot};
