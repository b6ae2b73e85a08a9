//! Values in their forms.

use super::*;

fn read<K: Kind>(kind: &K, toml: &str) -> Option<K::Value> {
    kind.read(DeValue::parse(toml).expect("test TOML").get_ref()).ok()
}

#[test]
fn sizes_are_read_with_and_without_unit() {
    let check = |toml: &str, want: Option<u64>| assert_eq!(read(&Size(1..=GIB), toml), want, "{toml}");
    check("\"64MiB\"", Some(64 * MIB));
    check("\"64 MiB\"", Some(64 * MIB));
    check("4096", Some(4096));
    check("0x1000", Some(4096));
    check("\"1GiB\"", Some(GIB));
    check("\"1025MiB\"", None);
    check("\"0B\"", None);
    check("\"64MB\"", None);
    check("\"MiB\"", None);
    check("\"64\"", None);
    check("\"\"", None);
    check("\"18446744073709551615GiB\"", None);
    check("-1", None);
    check("1.5", None);
}

#[test]
fn durations_need_a_unit() {
    let check = |toml: &str, want: Option<u64>| {
        assert_eq!(read(&Time(1..=86_400_000), toml), want.map(Duration::from_millis), "{toml}");
    };
    check("\"5m\"", Some(300_000));
    check("\"250ms\"", Some(250));
    check("\"1d\"", Some(86_400_000));
    check("\"25h\"", None);
    check("5", None);
    check("\"5\"", None);
    check("\"5 minutes\"", None);
    check("\"-5m\"", None);
    check("\"99999999999999999999d\"", None);
}

#[test]
fn quantities_are_shown_in_the_largest_unit_that_divides_them() {
    for (bytes, want) in [(50 * MIB, "50MiB"), (1536, "1536B"), (2048, "2KiB"), (0, "0B")] {
        assert_eq!(show_size(bytes), want);
    }
    for (millis, want) in [(300_000, "5m"), (90_000, "90s"), (1500, "1500ms"), (432_000_000, "5d")] {
        assert_eq!(show_duration(Duration::from_millis(millis)), want);
    }
}

#[test]
fn a_list_says_which_item_is_wrong() {
    let value = DeValue::parse("['127.0.0.1:25', 'localhost']").expect("test TOML");
    let wrong = list::<std::net::SocketAddr>(1, "addresses").read(value.get_ref()).expect_err("a name");
    assert!(matches!(&wrong, Wrong::Reason(why) if why.contains("\"localhost\"")), "{wrong:?}");
}

#[test]
fn numbers_out_of_bounds_or_of_another_type_are_refused() {
    assert_eq!(read(&Count(1..=5u16), "5"), Some(5));
    for toml in ["0", "6", "65537", "-1", "1.0", "\"1\"", "true", "[]"] {
        assert_eq!(read(&Count(1..=5u16), toml), None, "{toml}");
    }
    assert_eq!(read(&Fraction(0.0..=1.0), "1"), Some(1.0));
    for toml in ["nan", "inf", "-0.1", "1.01"] {
        assert_eq!(read(&Fraction(0.0..=1.0), toml), None, "{toml}");
    }
}

#[test]
fn long_values_are_cut_in_errors() {
    let value = DeValue::String("é".repeat(1000).into());
    assert_eq!(found(&value).chars().count(), 61);
}
