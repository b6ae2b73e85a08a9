//! Numbered cases, each of which can be run again alone: `RINGPOST_CASE=N cargo test --lib NAME`. A failing case says so.

use std::any::type_name_of_val;

/// Names the one case to run.
const CASE: &str = "RINGPOST_CASE";

/// The cases of one test.
pub(super) struct Cases {
    only: Option<u64>,
    name: String,
    pub run: u64,
}

impl Cases {
    /// The cases of the test that `place`, a closure within it, belongs to.
    pub fn of<T: Fn()>(place: T) -> Self {
        let name = type_name_of_val(&place);
        let name = name.split_once("::").map_or(name, |(_, name)| name).trim_end_matches("::{{closure}}");
        let only = std::env::var(CASE).ok().map(|case| case.parse().expect("RINGPOST_CASE is a number"));
        Self { only, name: name.to_owned(), run: 0 }
    }

    /// Whether cases from `first` to `last` are wanted at all: saves making what they have in common.
    pub fn wants(&self, first: u64, last: u64) -> bool {
        self.only.is_none_or(|only| (first..=last).contains(&only))
    }

    /// Runs case `number`, if it is wanted. If it panics, what to type is printed.
    pub fn case(&mut self, number: u64, case: impl FnOnce()) {
        if !self.wants(number, number) {
            return;
        }
        self.run += 1;
        let _told = Replay { number, name: &self.name };
        case();
    }

    /// At the end: how many cases there must have been.
    pub fn at_least(&self, wanted: u64) {
        println!("{} cases", self.run);
        match self.only {
            None => assert!(self.run >= wanted, "only {} cases were run, of {wanted}", self.run),
            Some(only) => assert!(self.run == 1, "{} has no case {only}", self.name),
        }
    }
}

struct Replay<'a> {
    number: u64,
    name: &'a str,
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { number, name } = self;
            eprintln!(
                "case {number} fails; to run it alone: {CASE}={number} cargo test --lib {name} -- --exact"
            );
        }
    }
}

#[test]
fn a_case_knows_its_test_and_runs_alone_if_it_is_named() {
    let mut cases = Cases::of(|| ());
    assert_eq!(cases.name, "spool::tests::cases::a_case_knows_its_test_and_runs_alone_if_it_is_named");
    cases.only = Some(7);
    let mut run = Vec::new();
    (0..10).for_each(|number| cases.case(number, || run.push(number)));
    assert_eq!(run, [7]);
    assert!(cases.wants(5, 9) && !cases.wants(8, 9));
}
