//! Holds a sink's sessions up.

use std::sync::{Arc, Condvar, Mutex};

use super::sink::{Act, Sink, Stage};

/// Lets as many sessions pass as it was told to.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<usize>, Condvar)>);

impl Gate {
    /// Waits until one more may pass.
    pub fn pass(&self) {
        let left = self.0.0.lock().expect("unpoisoned");
        *self.0.1.wait_while(left, |left| *left == 0).expect("unpoisoned") -= 1;
    }

    /// A sink that answers a message when it may pass.
    pub fn sink(&self) -> Sink {
        let gate = self.clone();
        Sink::scripted(move |moment| {
            if moment.stage == Stage::Dot {
                gate.pass();
            }
            Act::Accept
        })
    }

    /// Lets more pass.
    pub fn let_pass(&self, more: usize) {
        *self.0.0.lock().expect("unpoisoned") += more;
        self.0.1.notify_all();
    }
}
