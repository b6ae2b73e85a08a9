//! A door for tests: one line in, text out, on a loopback address.
//!
//! | line | answer |
//! | --- | --- |
//! | `stats` | one line of JSON: the sink's counts |
//! | `ids` | a line for each run and recipient index: `RUN INDEX FIRST-LAST,…`, then an empty line |
//! | `quit` | `bye`, and the sink ends |

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::board::{Board, SharedBoard};

/// Listens on `address` and answers until the process ends. `quit` sets `stop`. Returns where it listens.
pub fn start(address: SocketAddr, board: SharedBoard, stop: Arc<AtomicBool>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let bound = listener.local_addr()?;
    std::thread::Builder::new().name("control".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let (board, stop) = (board.clone(), stop.clone());
            // One thread each: a test that keeps its connection open keeps nobody else out.
            let _ = std::thread::Builder::new().spawn(move || talk(&stream, &board, &stop));
        }
    })?;
    Ok(bound)
}

fn talk(mut stream: &TcpStream, board: &SharedBoard, stop: &AtomicBool) -> io::Result<()> {
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let answer = answer(line.trim(), board);
        stream.write_all(answer.as_bytes())?;
        if line.trim() == "quit" {
            stop.store(true, Ordering::Relaxed);
            return Ok(());
        }
    }
    Ok(())
}

fn answer(line: &str, board: &SharedBoard) -> String {
    match line {
        "stats" => {
            let counts = board.lock().sink.counts;
            serde_json::to_string(&counts).unwrap_or_default() + "\n"
        }
        "ids" => ids(&board.lock()) + "\n",
        "quit" => "bye\n".into(),
        _ => "stats, ids or quit\n".into(),
    }
}

fn ids(board: &Board) -> String {
    let mut text = String::new();
    for (run, ledger) in board.books.iter() {
        for recipient in 0..ledger.recipients() {
            let ranges = ledger.arrived_ranges(recipient);
            let ranges: Vec<String> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
            text += &format!("{:08x} {recipient} {}\n", run.0, ranges.join(","));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mark::Run;

    #[test]
    fn ids_are_listed_by_run_and_recipient() {
        let board = SharedBoard::default();
        for (run, number, recipient) in [(1, 0, 0), (1, 1, 0), (2, 7, 1)] {
            if let Some(ledger) = board.lock().books.ledger(Run(run)) {
                ledger.arrived(number, recipient, true);
            }
        }
        assert_eq!(answer("ids", &board), "00000001 0 0-1\n00000002 0 \n00000002 1 7-7\n\n");
        assert!(answer("stats", &board).starts_with("{\"connections\":0,"));
        assert_eq!(answer("what", &board), "stats, ids or quit\n");
    }
}
