//! PURE. Every bound of the relay that is not a setting, with its unit and its reason.

/// Longest command line with CRLF, bytes. RFC 5321 §4.5.3.1.4 asks for 512; extensions add to it (SIZE 26, DSN 500
/// for ORCPT and 100 for ENVID, RFC 3461 §5), and SMTPUTF8 addresses are longer.
pub const COMMAND_LINE_BYTES_MAX: usize = 2048;
/// Longest mailbox, bytes without the angle brackets: RFC 5321 §4.5.3.1.3 gives a path of 256 octets with them.
pub const MAILBOX_BYTES_MAX: usize = 254;
/// Longest domain, bytes. RFC 5321 §4.5.3.1.2.
pub const DOMAIN_BYTES_MAX: usize = 255;
/// Recipients that one leg can hold: one bit each in a `u64`.
pub const LEG_RECIPIENTS_MAX: usize = 64;
/// Most recipients of one transaction, whatever is configured: a record's meta must stay below
/// [`RECORD_META_BYTES_MAX`]. RFC 5321 §4.5.3.1.8 asks for at least 100.
pub const RECIPIENTS_MAX: usize = 1000;
/// `Received` headers at which a message is taken to be looping. RFC 5321 §6.3.
pub const RECEIVED_HEADERS_MAX: usize = 100;
/// Longest header section of a message, bytes with line ends: a thousand recipients in `To` take a tenth of it.
pub const HEADER_BYTES_MAX: usize = 512 * 1024;
/// Most lines of a header section.
pub const HEADER_LINES_MAX: usize = 10_000;

/// Longest body that is kept in one record, bytes; a longer one is appended in chunks of this size as it arrives.
pub const BODY_INLINE_BYTES_MAX: usize = 64 * 1024;
/// Longest meta of a record, bytes.
pub const RECORD_META_BYTES_MAX: usize = 160 * 1024;
/// Longest record, bytes: meta, inline body, header. Recovery refuses longer lengths before it allocates.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;
/// Longest batch, bytes with header and padding: bounds a commit's latency and the two buffers of a log.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a batch for records that nobody waits for: pieces of bodies that are coming in, and copies that are moved. Whoever
/// waits for a 250 waits for the batch that is being written and for its own, so these set what large mail costs small.
pub const BATCH_PATIENT_BYTES_MAX: usize = 4 * (BODY_INLINE_BYTES_MAX + BLOCK_BYTES);
/// Batches are padded to this, bytes: the unit of direct I/O, so that no acknowledged block is ever written again.
pub const BLOCK_BYTES: usize = 4096;

/// Longest text of a remote's reply that is kept in records and logs, bytes.
pub const REPLY_TEXT_BYTES_MAX: usize = 256;
/// Longest line of a remote's reply, bytes with CRLF (RFC 5321 §4.5.3.1.5 gives 512; large providers exceed it).
pub const REPLY_LINE_BYTES_MAX: usize = 2048;
/// Most lines of a remote's reply.
pub const REPLY_LINES_MAX: usize = 100;
/// Largest weight of a tenant: one with the smallest still gets a turn in each hundred.
pub const WEIGHT_MAX: u32 = 100;

const _: () = assert!(RECORD_META_BYTES_MAX + BODY_INLINE_BYTES_MAX < RECORD_BYTES_MAX);
const _: () = assert!(RECORD_BYTES_MAX < BATCH_BYTES_MAX);
const _: () = assert!(RECORD_BYTES_MAX <= BATCH_PATIENT_BYTES_MAX);
// Mailbox, ORCPT and overhead of each recipient, at their longest allowed average (see envelope.rs).
const _: () = assert!(BATCH_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
