//! PURE. Budgets of a shard: what is over them is refused with 4xx before anything is read or allocated.

use std::cell::Cell;

/// Of both budgets clients that are not trusted leave a tenth to those that are: whatever the others do, our own injectors
/// get in.
const KEPT_BACK: u64 = 10;

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
    pub fn open_connection(&self, trusted: bool) -> bool {
        let room = u64::from(self.connections.get()) < share(self.budget.connections.into(), trusted);
        self.connections.set(self.connections.get() + u32::from(room));
        room
    }

    /// Counts a connection out.
    pub fn close_connection(&self) {
        self.connections.set(self.connections.get().checked_sub(1).expect("a connection closes once"));
    }

    /// Whether connections are scarce: more than 4 of 5 are in use. Slow clients are shown less patience then.
    pub fn is_scarce(&self) -> bool {
        u64::from(self.connections.get()) * 5 > u64::from(self.budget.connections) * 4
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

/// What of a budget is there for a client.
fn share(budget: u64, trusted: bool) -> u64 {
    if trusted { budget } else { budget - budget / KEPT_BACK }
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
    pub fn grow_to(&mut self, bytes: usize, trusted: bool) -> bool {
        let bytes = bytes as u64;
        let more = bytes.saturating_sub(self.bytes);
        let total = self.admission.in_flight_bytes.get() + more;
        if more > 0 && total > share(self.admission.budget.in_flight_bytes, trusted) {
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
        assert!(first.grow_to(60, true) && first.grow_to(50, true));
        let mut second = Reservation::none(&admission);
        assert!(!second.grow_to(31, false) && second.grow_to(30, false));
        assert!(second.grow_to(40, true) && second.grow_to(40, false));
        assert!(!second.grow_to(41, true));
        drop(first);
        assert!(second.grow_to(100, true));
        drop(second);
        assert_eq!(admission.in_flight_bytes(), 0);
    }

    #[test]
    fn connections_over_the_budget_are_refused_until_one_closes() {
        let admission = Admission::new(Budget { connections: 1, in_flight_bytes: 0 });
        assert!(admission.open_connection(false));
        assert!(!admission.open_connection(true));
        admission.close_connection();
        assert!(admission.open_connection(true));
    }

    #[test]
    fn strangers_leave_room_for_trusted_clients_and_are_hurried_before_that() {
        let admission = Admission::new(Budget { connections: 100, in_flight_bytes: 0 });
        let mut open = 0;
        while admission.open_connection(false) {
            open += 1;
            assert_eq!(admission.is_scarce(), open > 80);
        }
        assert_eq!(open, 90);
        assert_eq!((0..100).filter(|_| admission.open_connection(true)).count(), 10);
    }
}
