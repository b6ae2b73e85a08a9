//! The worker: everything about sending. It hosts a delivery pool and answers control.

use std::rc::Rc;
use std::sync::Arc;

use crossbeam_channel as channel;

use crate::delivery::pool::Pool;
use crate::event::EventSender;
use crate::id::WorkerIndex;
use crate::metrics::paths::PathAnswer;
use crate::metrics::{RoleSnapshot, WorkerMetrics};
use crate::net;
use crate::spool::storage::Storage;

/// What control tells a worker.
#[derive(Debug)]
pub enum Order {
    /// Answer with the counters.
    Snapshot(channel::Sender<RoleSnapshot>),
    /// Answer with what is known of the paths of this name, or of the busiest if it is empty.
    Paths(Arc<str>, channel::Sender<Vec<PathAnswer>>),
    /// Stop: no new transactions.
    Stop,
    /// The time for stopping is over: end what is still open.
    Hurry,
}

/// A worker's state.
pub struct Worker<S: Storage> {
    index: WorkerIndex,
    pool: Rc<Pool<S>>,
    metrics: Rc<WorkerMetrics>,
    events: EventSender,
    orders: channel::Receiver<Order>,
}

impl<S: Storage> Worker<S> {
    /// A worker round a pool.
    pub fn new(
        index: WorkerIndex,
        pool: Rc<Pool<S>>,
        metrics: Rc<WorkerMetrics>,
        events: EventSender,
        orders: channel::Receiver<Order>,
    ) -> Self {
        Self { index, pool, metrics, events, orders }
    }

    /// Works until it is stopped and its connections are closed.
    pub async fn run(self) {
        self.pool.clone().run(|| self.take_orders(), || self.orders.is_empty()).await;
    }

    fn take_orders(&self) -> bool {
        let mut worked = false;
        while let Ok(order) = self.orders.try_recv() {
            worked = true;
            match order {
                Order::Snapshot(answer) => {
                    self.update_gauges();
                    let _ = answer.try_send(self.metrics.role_snapshot(self.index));
                }
                Order::Paths(name, answer) => {
                    let _ = answer.try_send(self.pool.describe(&name));
                }
                Order::Stop => self.pool.stop(),
                Order::Hurry => self.pool.shut_connections(),
            }
        }
        worked
    }

    fn update_gauges(&self) {
        self.pool.update_gauges();
        let tasks = net::task::stats();
        self.metrics.executor_stalls.set_total(tasks.stalls);
        self.metrics.panics.set_total(tasks.panics);
        self.metrics.log_dropped.set_total(self.events.dropped());
    }
}
