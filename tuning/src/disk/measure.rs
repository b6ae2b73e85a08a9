//! Measures a disk with files that have no name: whatever happens, nothing is left behind.
//!
//! Every way of writing and every batch gets its share of the time in several rounds, so that a disk which slows down or a
//! neighbour who wakes up meets all of them. Writes are plain system calls of one thread per log, each waiting for its own;
//! the relay makes the same ones through io_uring, which saves it CPU and not the disk any time.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::fs::OFlags;

use super::profile::{BATCHES, Cell, LOGS, Latency, PARALLEL_BATCH, Parallel, RECORD_BYTES, Way};

/// Space of a log that is prepared, bytes; a log that has filled it begins again, as segments do.
const SPACE: u64 = 32 << 20;
/// Rounds in which the time is divided.
const ROUNDS: u32 = 3;
/// Longest time that a histogram holds, nanoseconds.
const LONGEST: u64 = 60_000_000_000;
/// Alignment of buffers for direct I/O.
const ALIGNMENT: usize = 4096;

/// What came of it.
pub struct Measured {
    /// By way and batch.
    pub cells: Vec<Cell>,
    /// By logs at once.
    pub parallel: Vec<Parallel>,
    /// Latency of one record: by way, percentiles with microseconds, for a curve.
    pub curves: Vec<(Way, Vec<(f64, u64)>)>,
}

/// Bytes that are needed free.
pub fn bytes_needed() -> u64 {
    (Way::ALL.len() + LOGS[LOGS.len() - 1]) as u64 * SPACE
}

/// Measures for `seconds` in `directory`, and says how far it is: a share of 1, and what is under way.
pub fn measure(directory: &Path, seconds: f64, tell: &mut dyn FnMut(f64, &str)) -> io::Result<Measured> {
    tell(0.0, "preparing files");
    let mut logs = Vec::new();
    for way in Way::ALL {
        logs.push(Log::open(directory, way)?);
    }
    let most = LOGS[LOGS.len() - 1];
    let mut side_by_side: Vec<Log> =
        (0..most).map(|_| Log::open(directory, Way::DirectZeroed)).collect::<io::Result<_>>()?;
    let mut alone: Vec<Tally> = (0..Way::ALL.len() * BATCHES.len()).map(|_| Tally::new()).collect();
    let mut together: Vec<Tally> = LOGS.iter().map(|_| Tally::new()).collect();
    let turns = ROUNDS as usize * (alone.len() + together.len());
    let turn = Duration::from_secs_f64(seconds / turns as f64);
    let mut done = 0;
    for _ in 0..ROUNDS {
        for (nth, batch) in BATCHES.iter().enumerate() {
            for (log, way) in logs.iter_mut().zip(0..) {
                tell(done as f64 / turns as f64, &format!("{}, {batch} records", log.way.name()));
                log.run(*batch, turn, &mut alone[way * BATCHES.len() + nth])?;
                done += 1;
            }
        }
        for (count, tally) in LOGS.iter().zip(&mut together) {
            tell(done as f64 / turns as f64, &format!("{count} logs at once"));
            run_together(&mut side_by_side[..*count], turn, tally)?;
            done += 1;
        }
    }
    tell(1.0, "done");
    Ok(measured(&alone, &together))
}

fn measured(alone: &[Tally], together: &[Tally]) -> Measured {
    let mut cells = Vec::new();
    let mut curves = Vec::new();
    for (way, tallies) in Way::ALL.into_iter().zip(alone.chunks(BATCHES.len())) {
        curves.push((way, curve(&tallies[0].latency)));
        for (batch, tally) in BATCHES.into_iter().zip(tallies) {
            let (records_per_second, latency) = (tally.rate(), latency(&tally.latency));
            cells.push(Cell { way, batch, records_per_second, latency });
        }
    }
    let row = |(logs, tally): (&usize, &Tally)| Parallel {
        logs: *logs,
        records_per_second: tally.rate(),
        latency: latency(&tally.latency),
    };
    Measured { cells, parallel: LOGS.iter().zip(together).map(row).collect(), curves }
}

/// What one cell has shown so far.
struct Tally {
    latency: Histogram<u64>,
    records: u64,
    time: Duration,
}

impl Tally {
    fn new() -> Self {
        let latency = Histogram::new_with_bounds(100, LONGEST, 3).expect("constant bounds are valid");
        Self { latency, records: 0, time: Duration::ZERO }
    }

    fn rate(&self) -> f64 {
        self.records as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// One log: a file without a name, and where its next batch goes.
struct Log {
    way: Way,
    file: File,
    offset: u64,
    buffer: Vec<u8>,
}

impl Log {
    fn open(directory: &Path, way: Way) -> io::Result<Self> {
        let mut flags = OFlags::TMPFILE;
        if way.is_direct() {
            flags |= OFlags::DIRECT | OFlags::DSYNC;
        }
        let mut options = File::options();
        let file =
            options.read(true).write(true).custom_flags(flags.bits() as i32).mode(0o600).open(directory)?;
        let bytes = BATCHES[BATCHES.len() - 1] * RECORD_BYTES + ALIGNMENT;
        // Not zero: a disk may treat zeros as nothing.
        let buffer = (0..bytes).map(|at| (at as u8).wrapping_mul(31) | 1).collect();
        let log = Self { way, file, offset: 0, buffer };
        if !way.is_extending() {
            let zeros = AlignedZeros::new();
            for at in (0..SPACE).step_by(AlignedZeros::BYTES) {
                log.file.write_all_at(zeros.bytes(), at)?;
            }
            log.file.sync_all()?;
        }
        Ok(log)
    }

    /// Writes batches for a time; each is durable before the next one begins.
    fn run(&mut self, batch: usize, time: Duration, tally: &mut Tally) -> io::Result<()> {
        let bytes = batch * RECORD_BYTES;
        let start = aligned(&self.buffer);
        let begin = Instant::now();
        // At least one, however slow the disk.
        loop {
            if self.offset + bytes as u64 > SPACE {
                self.begin_again()?;
            }
            let before = Instant::now();
            self.file.write_all_at(&self.buffer[start..start + bytes], self.offset)?;
            if !self.way.is_direct() {
                self.file.sync_data()?;
            }
            let took = before.elapsed();
            self.offset += bytes as u64;
            tally.latency.saturating_record(took.as_nanos() as u64);
            tally.records += batch as u64;
            // Not that of beginning again.
            tally.time += took;
            if begin.elapsed() >= time {
                return Ok(());
            }
        }
    }

    fn begin_again(&mut self) -> io::Result<()> {
        self.offset = 0;
        if self.way.is_extending() {
            self.file.set_len(0)?;
            self.file.sync_all()?;
        }
        Ok(())
    }
}

/// Runs logs on a thread each, all beginning at the same moment.
fn run_together(logs: &mut [Log], time: Duration, tally: &mut Tally) -> io::Result<()> {
    let gate = Barrier::new(logs.len());
    let results: Vec<io::Result<Tally>> = std::thread::scope(|scope| {
        let run = |log| {
            let gate = &gate;
            scope.spawn(move || {
                let mut tally = Tally::new();
                gate.wait();
                Log::run(log, PARALLEL_BATCH, time, &mut tally).map(|()| tally)
            })
        };
        let threads: Vec<_> = logs.iter_mut().map(run).collect();
        threads.into_iter().map(|thread| thread.join().expect("it only writes")).collect()
    });
    let mut longest = Duration::ZERO;
    for result in results {
        let one = result?;
        tally.latency.add(&one.latency).expect("the same bounds");
        tally.records += one.records;
        longest = longest.max(one.time);
    }
    tally.time += longest;
    Ok(())
}

fn aligned(buffer: &[u8]) -> usize {
    buffer.as_ptr().align_offset(ALIGNMENT)
}

/// Zeros to prepare space with.
struct AlignedZeros(Vec<u8>);

impl AlignedZeros {
    const BYTES: usize = 1 << 20;

    fn new() -> Self {
        Self(vec![0; Self::BYTES + ALIGNMENT])
    }

    fn bytes(&self) -> &[u8] {
        let start = aligned(&self.0);
        &self.0[start..start + Self::BYTES]
    }
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    let micros = |nanos: f64| (nanos / 100.0).round() / 10.0;
    let at = |quantile| micros(histogram.value_at_quantile(quantile) as f64);
    Latency {
        count: histogram.len(),
        mean_micros: micros(histogram.mean()),
        p50_micros: at(0.5),
        p90_micros: at(0.9),
        p99_micros: at(0.99),
        p99_9_micros: at(0.999),
        max_micros: micros(histogram.max() as f64),
    }
}

/// Percentiles as far as there are values for them.
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    let points = histogram.iter_quantiles(4).map(|step| (step.quantile(), step.value_iterated_to() / 1000));
    points.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_and_each_batch_is_measured_and_nothing_is_left_behind() {
        // Beside this test: /tmp may be memory, which has no direct I/O on some kernels.
        let program = std::env::current_exe().expect("a program");
        let directory = tempfile::tempdir_in(program.parent().expect("a folder")).expect("a directory");
        let mut told = Vec::new();
        let measured = match measure(directory.path(), 0.1, &mut |share, _| told.push(share)) {
            Ok(measured) => measured,
            // A file system without O_TMPFILE or O_DIRECT.
            Err(error) => return eprintln!("SKIP: measuring a disk: {error}"),
        };
        assert_eq!(
            (measured.cells.len(), measured.parallel.len()),
            (Way::ALL.len() * BATCHES.len(), LOGS.len())
        );
        for cell in &measured.cells {
            // Every round writes one batch at least.
            assert!(cell.latency.count >= u64::from(ROUNDS) && cell.records_per_second > 0.0, "{cell:?}");
            let latency = &cell.latency;
            assert!(
                latency.p50_micros <= latency.p99_micros && latency.p99_micros <= latency.max_micros,
                "{cell:?}"
            );
        }
        for row in &measured.parallel {
            assert!(row.latency.count >= row.logs as u64 * u64::from(ROUNDS), "{row:?}");
        }
        assert!(told.is_sorted() && told.last() == Some(&1.0), "{told:?}");
        assert_eq!(std::fs::read_dir(directory.path()).expect("it is there").count(), 0);
    }
}
