//! PURE. Every bound of the generator, with unit and reason.

/// Recipients of one message: what a relay must take (RFC 5321 §4.5.3.1.8 asks for 100), and some.
pub const RECIPIENTS_MAX: u16 = 1000;
/// Bytes of one message. Bodies are kept once per template, so memory is not the reason; a typing error is.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Connections of one source. Beyond it the usual descriptor limit is the bottleneck.
pub const CONNECTIONS_MAX: usize = 60_000;
/// Connections if nothing is said about them.
pub const CONNECTIONS_DEFAULT: usize = 32;
/// Messages per second if neither a rate nor a number of connections was given: what any relay should keep.
pub const RATE_DEFAULT: &str = "100";
/// Threads of a source or a sink: more than any machine has CPUs for, and a typing error is beyond.
pub const THREADS_MAX: usize = 1024;
/// Messages of one run: ids have 12 digits, and the ledger keeps a byte for each recipient of each.
pub const MESSAGES_MAX: u64 = 1_000_000_000;
/// Seconds a source runs if neither a count nor a time was given.
pub const DURATION_SECONDS_DEFAULT: u64 = 10;
/// Longest time a source may be told to run, in seconds (a week).
pub const DURATION_SECONDS_MAX: u64 = 7 * 86_400;
/// Longest line of a peer that is kept, in bytes: RFC 5321 §4.5.3.1.5 says 512 for replies, generous for extensions.
pub const LINE_BYTES_MAX: usize = 4096;
/// Runs that a sink keeps apart; messages of further ones count as foreign.
pub const RUNS_MAX: usize = 64;
/// Bytes read at once. One read should take a whole message and the next envelope.
pub const READ_BYTES: usize = 256 << 10;
/// Reads for one connection before others have their turn.
pub const READS_PER_TURN_MAX: usize = 16;
/// Bytes of replies waiting for a peer that does not read, before the sink stops reading from it.
pub const REPLIES_BYTES_MAX: usize = 64 << 10;
/// Events taken from the poll at once.
pub const EVENTS_PER_TURN: usize = 256;
/// Body variants that a source sends in turn.
pub const TEMPLATES: usize = 16;
