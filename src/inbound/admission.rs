//! PURE. Budgets of a shard: what is over them is refused with 4xx before anything is read or allocated.

use std::cell::Cell;

/// Most connections and bytes of one shard.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Connections open at once.
    pub connections: u32,
    /// Bytes of messages being received at once.
    pub in_flight_bytes: u64,
}

/// What is in use.
#[derive(Debug)]
pub struct Admission {
    budget: Budget,
    connections: Cell<u32>,
    in_flight_bytes: Cell<u64>,
}

impl Admission {
    /// Nothing in use.
    pub fn new(budget: Budget) -> Self {
        Self { budget, connections: Cell::new(0), in_flight_bytes: Cell::new(0) }
    }

    /// Counts a connection in, if there is room for it.
    pub fn open_connection(&self) -> bool {
        let room = self.connections.get() < self.budget.connections;
        self.connections.set(self.connections.get() + u32::from(room));
        room
    }

    /// Counts a connection out.
    pub fn close_connection(&self) {
        self.connections.set(self.connections.get().checked_sub(1).expect("a connection closes once"));
    }

    /// Connections counted in.
    pub fn connections(&self) -> u32 {
        self.connections.get()
    }

    /// Bytes reserved.
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes.get()
    }
}

/// A session's share of the bytes in flight: given back when it is dropped.
#[derive(Debug)]
pub struct Reservation<'a> {
    admission: &'a Admission,
    bytes: u64,
}

impl<'a> Reservation<'a> {
    /// Nothing reserved.
    pub fn none(admission: &'a Admission) -> Self {
        Self { admission, bytes: 0 }
    }

    /// Makes the reservation at least `bytes`; `false`, and unchanged, when the budget has no room.
    pub fn grow_to(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let more = bytes.saturating_sub(self.bytes);
        let total = self.admission.in_flight_bytes.get() + more;
        if more > 0 && total > self.admission.budget.in_flight_bytes {
            return false;
        }
        self.admission.in_flight_bytes.set(total);
        self.bytes += more;
        true
    }

    /// Gives everything back.
    pub fn release(&mut self) {
        let left = self.admission.in_flight_bytes.get().checked_sub(self.bytes);
        self.admission.in_flight_bytes.set(left.expect("what is given back was reserved"));
        self.bytes = 0;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_over_the_budget_are_refused_and_come_back_when_given_back() {
        let admission = Admission::new(Budget { connections: 1, in_flight_bytes: 100 });
        let mut first = Reservation::none(&admission);
        assert!(first.grow_to(60) && first.grow_to(50));
        let mut second = Reservation::none(&admission);
        assert!(second.grow_to(40));
        assert!(!second.grow_to(41));
        drop(first);
        assert!(second.grow_to(100));
        drop(second);
        assert_eq!(admission.in_flight_bytes(), 0);
    }

    #[test]
    fn connections_over_the_budget_are_refused_until_one_closes() {
        let admission = Admission::new(Budget { connections: 1, in_flight_bytes: 0 });
        assert!(admission.open_connection());
        assert!(!admission.open_connection());
        admission.close_connection();
        assert!(admission.open_connection());
    }
}
