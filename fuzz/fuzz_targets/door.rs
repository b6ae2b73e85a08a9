//! The check is `door` in `fuzz/src`, where it says what must hold.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ringpost_fuzz::door::check(bytes));
