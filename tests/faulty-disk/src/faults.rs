//! PURE. What the disk is told to do wrong, and the words in which it is told.
//!
//! A *call* is one request that changes something: a write, a sync, a name, a length.

use std::time::Duration;

use rustix::io::Errno;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done and answered.
    Done,
    /// It is done, and answered (and durable) later.
    Late(Duration),
    /// It is done, and never answered: the power will fail first.
    Held,
    /// It fails, and may have done some of what it was to do.
    Failed(Errno),
    /// It fails, and does nothing: there is no power.
    Dark,
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A sync of a file or a directory.
    Sync,
    /// Anything else.
    Other,
}

/// What is wrong with the disk now.
#[derive(Debug, Default)]
pub struct Faults {
    calls: u64,
    syncs: u64,
    failing: Option<Failing>,
    delay: Duration,
    frozen: bool,
    dark: bool,
    /// Bytes that the disk holds; as many as the directory behind it if not set.
    pub limit: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    first: u64,
    errno: Errno,
    sticky: bool,
    only_syncs: bool,
}

/// What the disk can be told on its socket, a line each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `fail eio|enospc N once|sticky [sync]`: the Nth call from now fails, or all from that one on; or the Nth sync.
    Fail {
        /// With what.
        errno: Errno,
        /// Which.
        nth: u64,
        /// And all later ones.
        sticky: bool,
        /// Only syncs are counted, and fail.
        only_syncs: bool,
    },
    /// `delay MILLISECONDS`: each call takes this long.
    Delay(Duration),
    /// `limit BYTES`: how much fits.
    Limit(u64),
    /// `mend`: there is power, and no failures, delay or limit any more.
    Mend,
    /// `freeze`: calls are not answered any more, until the cut.
    Freeze,
    /// `cut SEED`: the power fails, and spares what the seed says; 0 spares nothing. Nothing can be changed then until the disk is mended.
    Cut(u64),
    /// `stats`: what there is to lose.
    Stats,
}

impl Order {
    /// Reads a line.
    pub fn parse(line: &str) -> Result<Self, String> {
        let number = |word: &str| word.parse().map_err(|_| format!("`{word}` is no number"));
        match *line.split_whitespace().collect::<Vec<_>>() {
            ["fail", errno, nth, how, ref rest @ ..] => {
                let errno = match errno {
                    "eio" => Errno::IO,
                    "enospc" => Errno::NOSPC,
                    other => return Err(format!("`{other}`: eio or enospc")),
                };
                let sticky = match how {
                    "once" => false,
                    "sticky" => true,
                    other => return Err(format!("`{other}`: once or sticky")),
                };
                let only_syncs = match rest {
                    [] => false,
                    ["sync"] => true,
                    other => return Err(format!("`{}`: sync, or nothing", other.join(" "))),
                };
                Ok(Self::Fail { errno, nth: number(nth)?, sticky, only_syncs })
            }
            ["delay", milliseconds] => number(milliseconds).map(Duration::from_millis).map(Self::Delay),
            ["limit", bytes] => number(bytes).map(Self::Limit),
            ["mend"] => Ok(Self::Mend),
            ["freeze"] => Ok(Self::Freeze),
            ["cut", seed] => number(seed).map(Self::Cut),
            ["stats"] => Ok(Self::Stats),
            _ => Err(format!("`{line}` is none of fail, delay, limit, mend, freeze, cut, stats")),
        }
    }
}

impl Faults {
    /// The next call has come.
    pub fn next(&mut self, kind: Kind) -> Fate {
        self.calls += 1;
        self.syncs += u64::from(kind == Kind::Sync);
        if self.dark {
            return Fate::Dark;
        }
        if self.frozen {
            return Fate::Held;
        }
        let fails = |failing: &Failing| {
            let (counted, is_meant) =
                if failing.only_syncs { (self.syncs, kind == Kind::Sync) } else { (self.calls, true) };
            is_meant && (counted == failing.first || failing.sticky && counted > failing.first)
        };
        match self.failing.filter(fails) {
            Some(failing) => Fate::Failed(failing.errno),
            None if self.delay.is_zero() => Fate::Done,
            None => Fate::Late(self.delay),
        }
    }

    /// Does what concerns faults in an order.
    pub fn obey(&mut self, order: Order) {
        match order {
            Order::Fail { errno, nth, sticky, only_syncs } => {
                let before = if only_syncs { self.syncs } else { self.calls };
                self.failing = Some(Failing { first: before + nth, errno, sticky, only_syncs });
            }
            Order::Delay(delay) => self.delay = delay,
            Order::Limit(bytes) => self.limit = Some(bytes),
            Order::Mend => *self = Self { calls: self.calls, syncs: self.syncs, ..Self::default() },
            Order::Freeze => self.frozen = true,
            Order::Cut(_) => self.dark = true,
            Order::Stats => {}
        }
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(orders: &[&str], calls: usize) -> Vec<Fate> {
        let mut faults = Faults::default();
        faults.next(Kind::Sync);
        for order in orders {
            faults.obey(Order::parse(order).expect("an order"));
        }
        (0..calls).map(|nth| faults.next(if nth % 2 == 0 { Kind::Other } else { Kind::Sync })).collect()
    }

    #[test]
    fn the_nth_call_from_the_order_on_fails_once_or_from_then_on() {
        let failed = Fate::Failed(Errno::IO);
        assert_eq!(fates(&["fail eio 2 once"], 3), [Fate::Done, failed, Fate::Done]);
        assert_eq!(fates(&["fail eio 2 sticky"], 3), [Fate::Done, failed, failed]);
        assert_eq!(fates(&["fail eio 1 sticky sync"], 4), [Fate::Done, failed, Fate::Done, failed]);
        assert_eq!(fates(&["fail enospc 1 once"], 1), [Fate::Failed(Errno::NOSPC)]);
    }

    #[test]
    fn a_mended_disk_is_well_and_a_cut_one_is_dark_until_then() {
        assert_eq!(fates(&["delay 5"], 1), [Fate::Late(Duration::from_millis(5))]);
        assert_eq!(fates(&["delay 5", "fail eio 1 sticky", "mend"], 1), [Fate::Done]);
        assert_eq!(fates(&["freeze"], 2), [Fate::Held, Fate::Held]);
        assert_eq!(fates(&["freeze", "cut 3"], 1), [Fate::Dark]);
        assert_eq!(fates(&["freeze", "cut 3", "mend"], 1), [Fate::Done]);
    }

    #[test]
    fn a_wrong_order_is_told_what_would_be_right() {
        for (line, word) in [
            ("explode", "freeze"),
            ("fail eio x once", "`x`"),
            ("fail eperm 1 once", "enospc"),
            ("cut", "cut"),
        ] {
            let told = Order::parse(line).expect_err("no order");
            assert!(told.contains(word), "{told}");
        }
    }
}
