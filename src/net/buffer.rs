//! Receive buffers, held only while there are bytes in them: ten thousand idle connections share a handful.

use std::cell::RefCell;

/// Size of a receive buffer: four messages of 4 KiB with their commands, pipelined, in one system call.
pub const BUFFER_BYTES: usize = 16 * 1024;
/// Buffers kept for reuse by each executor (4 MiB); more are freed.
const KEPT_MAX: usize = 256;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Received bytes that have not been consumed. Gives its memory back when it is empty.
#[derive(Default)]
pub struct ReceiveBuffer {
    bytes: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl ReceiveBuffer {
    /// What has been received and not consumed.
    pub fn filled(&self) -> &[u8] {
        self.bytes.as_ref().map_or(&[], |bytes| &bytes[self.start..self.end])
    }

    /// Takes `count` bytes off the front.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        assert!(self.start <= self.end, "consumed more than was received");
        if self.start == self.end {
            self.release();
        }
    }

    /// Room behind the filled bytes, at least one byte; `None` when [`BUFFER_BYTES`] wait to be consumed.
    pub(super) fn room(&mut self) -> Option<&mut [u8]> {
        let bytes = self.bytes.get_or_insert_with(take);
        if self.start > 0 {
            bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        (self.end < BUFFER_BYTES).then(|| &mut bytes[self.end..])
    }

    /// Says that `count` bytes of the room are filled now.
    pub(super) fn fill(&mut self, count: usize) {
        self.end += count;
        assert!(self.end <= BUFFER_BYTES, "filled more than there was room");
    }

    /// Gives the memory back if no byte is in it.
    pub(super) fn release(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if let Some(bytes) = self.bytes.take() {
                give(bytes);
            }
        }
    }
}

impl Drop for ReceiveBuffer {
    fn drop(&mut self) {
        self.start = self.end;
        self.release();
    }
}

fn take() -> Box<[u8]> {
    FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
}

fn give(bytes: Box<[u8]>) {
    FREE.with_borrow_mut(|free| {
        if free.len() < KEPT_MAX {
            free.push(bytes);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_in_order_across_partial_consumption() {
        let mut buffer = ReceiveBuffer::default();
        buffer.room().unwrap()[..6].copy_from_slice(b"abcdef");
        buffer.fill(6);
        buffer.consume(4);
        buffer.room().unwrap()[..2].copy_from_slice(b"gh");
        buffer.fill(2);
        assert_eq!(buffer.filled(), b"efgh");
    }

    #[test]
    fn an_empty_buffer_holds_no_memory_and_a_full_one_no_room() {
        let mut buffer = ReceiveBuffer::default();
        assert_eq!(buffer.room().unwrap().len(), BUFFER_BYTES);
        buffer.fill(BUFFER_BYTES);
        assert!(buffer.room().is_none());
        buffer.consume(BUFFER_BYTES);
        assert!(buffer.bytes.is_none());
    }
}
