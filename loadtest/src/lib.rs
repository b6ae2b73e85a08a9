//! SMTP load generator, sink and ledger, for any relay. It knows SMTP and nothing of the relay under test.
//!
//! Reading order: [`wire`] (what a message carries so that it can be recognised), [`source`] (sends), [`sink`]
//! (receives), [`ledger`] (judges), [`board`] (what the threads share), [`run`] (both ends and the verdict).

pub mod alarm;
pub mod board;
pub mod bounds;
pub mod clock;
pub mod compare;
pub mod door;
pub mod environment;
pub mod ledger;
pub mod limits;
pub mod measure;
pub mod options;
pub mod page;
pub mod process;
pub mod report;
pub mod run;
pub mod sink;
pub mod source;
pub mod stream;
pub mod tls;
pub mod wire;
