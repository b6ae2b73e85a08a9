//! Load on a relay that may go away and come back: source, sink and ledger of `ringpost-load`, in this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use ringpost_load::board::SharedBoard;
use ringpost_load::clock;
use ringpost_load::ledger::Verdict;
use ringpost_load::options::{Command, Options};
use ringpost_load::sink::Sink;
use ringpost_load::source::Source;
use ringpost_load::wire::mark::Run;

use crate::harness::{SOON, within};

/// A source that sends to `target`, and a sink for what comes out.
pub struct Load {
    board: SharedBoard,
    run: Run,
    source: Option<Source>,
    sink: Option<Sink>,
    sink_address: SocketAddr,
}

impl Load {
    /// A sink that waits.
    pub fn new() -> Self {
        let board = SharedBoard::default();
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let settings = parse("").sink_options.settings(&[anywhere.into()]).expect("valid");
        let sink = Sink::start(settings, &board).expect("the sink starts");
        let sink_address = sink.addresses()[0];
        Self { board, run: Run(0), source: None, sink: Some(sink), sink_address }
    }

    /// Where the relay must deliver.
    pub fn sink(&self) -> SocketAddr {
        self.sink_address
    }

    /// Starts to send until [`Self::stop`].
    pub fn start(&mut self, target: SocketAddr, options: &str) {
        let command = parse(options);
        let mut settings = command.source.settings().expect("valid options");
        settings.target = target;
        let plan = command.source.plan().expect("valid options");
        self.run = plan.run;
        let pace = command.source.pace(clock::now()).expect("valid options");
        let source = Source::start(&settings, plan, pace, &self.board, &Arc::new(AtomicBool::new(false)));
        self.source = Some(source.expect("the source starts"));
    }

    /// Messages accepted so far.
    pub fn accepted(&self) -> u64 {
        self.board.lock().source.accepted
    }

    /// Waits until `more` further messages were accepted.
    pub fn await_accepted(&self, more: u64) {
        let want = self.accepted() + more;
        within(SOON, "accepted messages", || (self.accepted() >= want).then_some(()));
    }

    /// Sends no more, and waits for the replies that are due.
    pub fn stop(&mut self) {
        if let Some(source) = self.source.take() {
            source.stop();
            source.join().expect("the source ends");
        }
    }

    /// Waits until all that was accepted has arrived; the sink's word is in [`Self::verdict`].
    pub fn drain(&self) {
        within(SOON, "everything accepted at the sink", || {
            let mut board = self.board.lock();
            (board.books.ledger(self.run).map_or(0, |ledger| ledger.outstanding()) == 0).then_some(())
        });
    }

    /// Ends the sink, and says what the ledger has.
    pub fn verdict(mut self) -> Verdict {
        self.stop();
        self.sink.take().expect("not ended yet").stop().expect("the sink ends");
        let mut board = self.board.lock();
        board.books.ledger(self.run).expect("the run has a ledger").verdict()
    }
}

fn parse(options: &str) -> ringpost_load::options::RunCommand {
    let words = ["ringpost-load", "run", "--duration", "600"].into_iter().chain(options.split_whitespace());
    match Options::try_parse_from(words).expect("valid options").command {
        Command::Run(command) => *command,
        _ => unreachable!("`run` was said"),
    }
}
