//! PURE. Numbers as people set and read them.

/// Bytes in the largest unit of which there is one.
pub fn size(bytes: u64) -> String {
    match bytes {
        u64::MAX => "unlimited".into(),
        0..0x400 => format!("{bytes} B"),
        0x400..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// A count, or that there is no limit.
pub fn count(count: u64) -> String {
    if count == u64::MAX { "unlimited".into() } else { count.to_string() }
}

/// Microseconds with three digits.
pub fn micros(micros: f64) -> String {
    let (value, unit) = match micros {
        micros if micros < 1e3 => (micros, "µs"),
        micros if micros < 1e6 => (micros / 1e3, "ms"),
        micros => (micros / 1e6, "s"),
    };
    match value {
        value if value < 10.0 => format!("{value:.2} {unit}"),
        value if value < 100.0 => format!("{value:.1} {unit}"),
        value => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_the_unit_people_set_them_in() {
        for (bytes, want) in [
            (0, "0 B"),
            (64 << 10, "64 KiB"),
            (8 << 20, "8 MiB"),
            (100 << 30, "100 GiB"),
            (u64::MAX, "unlimited"),
        ] {
            assert_eq!(size(bytes), want);
        }
    }

    #[test]
    fn times_keep_three_digits() {
        for (time, want) in [
            (7.5, "7.50 µs"),
            (999.0, "999 µs"),
            (1_234.0, "1.23 ms"),
            (61_000.0, "61.0 ms"),
            (2e6, "2.00 s"),
        ] {
            assert_eq!(micros(time), want);
        }
    }
}
