//! PURE. Bytes on their way to the relay: commands and header, then a body that is shared and not copied, then what goes
//! behind the final dot. Three slices, one write.

use crate::source::plan::Plan;

/// Bytes not yet taken by the socket. At most one body is on its way at a time.
#[derive(Debug, Default)]
pub struct Outgoing {
    head: Vec<u8>,
    head_done: usize,
    /// Message number whose template's body follows the head, and how much of it is done.
    body: Option<(u64, usize)>,
    tail: Vec<u8>,
    tail_done: usize,
    /// Bytes until an end of data has been taken by the socket.
    until_end: Option<usize>,
}

impl Outgoing {
    /// Where commands and headers are appended: behind everything queued so far.
    pub fn text(&mut self) -> &mut Vec<u8> {
        if self.body.is_some() { &mut self.tail } else { &mut self.head }
    }

    /// Appends the body of message `number`. `false` if another body is still on its way.
    #[must_use]
    pub fn body(&mut self, plan: &Plan, number: u64) -> bool {
        if self.body.is_some() {
            return false;
        }
        self.body = Some((number, 0));
        self.until_end = Some(self.head.len() - self.head_done + plan.template(number).body().len());
        true
    }

    /// Marks the end of what is queued as an end of data.
    pub fn end_of_data(&mut self, plan: &Plan) {
        self.until_end = Some(self.slices(plan).iter().map(|slice| slice.len()).sum());
    }

    /// What is to be written, in order.
    pub fn slices<'a>(&'a self, plan: &'a Plan) -> [&'a [u8]; 3] {
        let body = match self.body {
            Some((number, done)) => &plan.template(number).body()[done..],
            None => &[],
        };
        [&self.head[self.head_done..], body, &self.tail[self.tail_done..]]
    }

    /// Nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.head_done == self.head.len() && self.body.is_none() && self.tail.is_empty()
    }

    /// The socket took `count` bytes. `true` if the last byte of an end of data was among them.
    pub fn written(&mut self, plan: &Plan, count: usize) -> bool {
        let ended = self.until_end.is_some_and(|left| left <= count);
        self.until_end = if ended { None } else { self.until_end.map(|left| left - count) };
        let [head, body, tail] = self.slices(plan).map(<[u8]>::len);
        let of_head = count.min(head);
        let of_body = (count - of_head).min(body);
        let of_tail = (count - of_head - of_body).min(tail);
        self.head_done += of_head;
        self.tail_done += of_tail;
        if let Some((_, done)) = &mut self.body {
            *done += of_body;
        }
        if of_head == head && of_body == body {
            // What is left of the tail becomes the head: the next body goes behind it.
            self.body = None;
            self.head.clear();
            std::mem::swap(&mut self.head, &mut self.tail);
            self.head_done = std::mem::take(&mut self.tail_done);
            if self.head_done == self.head.len() {
                self.head.clear();
                self.head_done = 0;
            }
        }
        ended
    }

    /// Forgets everything: the connection is gone.
    pub fn clear(&mut self) {
        self.head.clear();
        self.tail.clear();
        (self.head_done, self.tail_done) = (0, 0);
        (self.body, self.until_end) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::plan::tests::plan;

    #[test]
    fn bytes_leave_in_order_and_the_end_is_seen_at_its_last_byte_whatever_the_writes() {
        let plan = plan(1);
        let body = plan.template(0).body();
        let whole = [b"DATA head ", body, b"MAIL behind"].concat();
        let end = whole.len() - b"MAIL behind".len();
        for step in [1, 3, 17, 400, 10_000] {
            let mut out = Outgoing::default();
            out.text().extend_from_slice(b"DATA head ");
            assert!(out.body(&plan, 0));
            assert!(!out.body(&plan, 1), "one body at a time");
            out.text().extend_from_slice(b"MAIL behind");
            let mut seen = Vec::new();
            let mut ended_at = None;
            while !out.is_empty() {
                let bytes = out.slices(&plan).concat();
                let count = bytes.len().min(step);
                seen.extend_from_slice(&bytes[..count]);
                if out.written(&plan, count) {
                    assert_eq!(ended_at.replace(seen.len()), None, "ends once");
                }
            }
            assert_eq!(seen, whole, "by {step}");
            let at = ended_at.unwrap_or(0);
            assert!(at >= end && at < end + step, "by {step}: {at} of {end}");
        }
    }

    #[test]
    fn text_queued_while_the_tail_is_half_written_stays_behind_it() {
        let plan = plan(1);
        let mut out = Outgoing::default();
        assert!(out.body(&plan, 0));
        out.text().extend_from_slice(b"ABC");
        out.written(&plan, plan.template(0).body().len() + 1);
        out.text().extend_from_slice(b"DEF");
        assert_eq!(out.slices(&plan).concat(), b"BCDEF");
    }
}
