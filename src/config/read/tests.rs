//! What is wrong with a file, told with its place and with what is allowed.

use super::*;

/// `want`: line, column, key, and words that must stand in the text.
pub(in crate::config) fn check(file: &str, want: &[(usize, usize, &str, &str)]) {
    let problems = Config::parse(file).expect_err(file);
    assert_eq!(problems.len(), want.len(), "{file}\n{problems:#?}");
    for (problem, (line, column, key, words)) in problems.iter().zip(want) {
        assert_eq!((problem.line, problem.column, problem.key.as_str()), (*line, *column, *key), "{problem}");
        for word in words.split('|') {
            assert!(problem.what.contains(word), "`{word}` is missing: {problem}");
        }
    }
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(Config::parse(""), Ok(Config::default()));
    assert_eq!(Config::parse("# nothing\n[smtp]\n"), Ok(Config::default()));
}

#[test]
fn a_wrong_type_or_an_impossible_value_names_place_key_found_and_allowed() {
    check("[smtp]\nlisten = 25\n", &[(2, 10, "smtp.listen", "found 25|allowed is a list of")]);
    check(
        "[delivery]\nretry_first = 5 # é\nmx_port = 65536\n",
        &[
            (2, 15, "delivery.retry_first", "found 5|such as \"5m\""),
            (3, 11, "delivery.mx_port", "found 65536|from 1 to 65535"),
        ],
    );
    check("[smtp]\nrelay_networks = ['10.1.0.0/8']\n", &[(2, 18, "smtp.relay_networks", "10.0.0.0/8")]);
    check("[smtp]\nlisten = []\n", &[(2, 10, "smtp.listen", "nothing to listen on")]);
    check("[log]\nlevel = 'loud'\n", &[(2, 9, "log.level", "\"loud\"|\"error\", \"warn\", \"info\"")]);
}

#[test]
fn unknown_names_get_the_nearest_and_the_list() {
    check("[smpt]\n", &[(1, 2, "smpt", "did you mean `smtp`?|resolver")]);
    check("[spool]\ndirectroy = 'x'\n", &[(2, 1, "spool.directroy", "`directory`|segment_bytes")]);
    check("[admin]\nzzzzzzzzzz = 1\n", &[(2, 1, "admin.zzzzzzzzzz", "unknown key; known are listen")]);
    check("hostname = 'a'\n", &[(1, 1, "hostname", "belongs under [smtp]")]);
    check("smtp = 1\n", &[(1, 8, "smtp", "write `[smtp]`")]);
}

#[test]
fn all_errors_come_at_once_in_the_order_of_lines() {
    check(
        "[threads]\nshards = 0\npin = 'yes'\n[routes]\n'a b' = 'mx'\n'*' = 'drop'\n[x]\n",
        &[
            (2, 10, "threads.shards", "\"auto\""),
            (3, 7, "threads.pin", "true or false"),
            (5, 1, "routes.\"a b\"", "`*.domain`"),
            (6, 7, "routes.\"*\"", "\"drop\"|smtp://HOST:PORT"),
            (7, 2, "x", "unknown section"),
        ],
    );
}

#[test]
fn text_that_is_no_toml_names_its_place() {
    let problems = Config::parse("[smtp]\nhostname = \n").expect_err("no value");
    assert_eq!(problems[0].line, 2, "{problems:?}");
    assert!(problems[0].what.contains("not TOML"), "{problems:?}");
    assert!(Config::parse("[smtp\u{0}").is_err());
    assert!(Config::parse("é = [").is_err());
}

#[test]
fn an_unquoted_domain_says_to_quote_it() {
    check("[routes]\nexample.com = 'mx'\n", &[(2, 1, "routes.\"example\"", "quote the domain")]);
}

#[test]
fn a_rule_between_settings_points_at_the_one_in_the_file() {
    check("[delivery]\nretry_max = '1m'\n", &[(2, 13, "delivery.retry_max", "retry_first is 5m")]);
    check("[limits]\nin_flight_bytes_max = '1MiB'\n", &[(2, 23, "limits.in_flight_bytes_max", "50MiB|1MiB")]);
    check("[spool]\nsegment_bytes = 5000001\n", &[(2, 17, "spool.segment_bytes", "multiple of 1MiB")]);
    check("[smtp]\nlisten = ['127.0.0.1:25', '127.0.0.1:25']\n", &[(2, 10, "smtp.listen", "twice")]);
}

#[test]
fn a_listener_that_is_wrong_is_told_where_and_what_it_needs() {
    check("listener = 1\n", &[(1, 12, "listener", "found 1|[[listener]]")]);
    check("[listener]\nkind = 'mx'\n", &[(1, 1, "listener", "found a table|[[listener]]")]);
    check("[[listener]]\nkind = 'mx'\n", &[(1, 1, "listener.address", "needs its address")]);
    check(
        "[[listener]]\naddress = '127.0.0.1:26'\nkind = 'smtp'\n[[listener]]\naddress = 'x'\nkind = 'mx'\nknd = 1\n",
        &[
            (3, 8, "listener.kind", "\"smtp\"|\"relay\", \"submission\""),
            (5, 11, "listener.address", "\"x\"|ADDRESS:PORT"),
            (7, 1, "listener.knd", "did you mean `kind`?"),
        ],
    );
    check(
        "[smtp]\nlisten = ['127.0.0.1:26']\n[[listener]]\naddress = '127.0.0.1:26'\nkind = 'mx'\n",
        &[(4, 11, "listener.address", "127.0.0.1:26 is listened on twice")],
    );
}

#[test]
fn a_listener_on_a_unix_socket_says_whether_it_trusts_who_may_open_it() {
    let socket = "[[listener]]\naddress = 'unix:/run/ringpost/lmtp'\nkind = ";
    check(&format!("{socket}'lmtp'\n"), &[(2, 11, "listener.address", "in no network|trusted = true")]);
    check(&format!("{socket}'submissions'\ntrusted = false\n"), &[(2, 11, "listener.address", "no TLS")]);
    let address = "[[listener]]\naddress = '127.0.0.1:24'\nkind = 'lmtp'\ntrusted = true\n";
    check(address, &[(2, 11, "listener.address", "relay_networks")]);
    let file = format!("{socket}'lmtp'\ntrusted = true\nsocket_mode = '0666'\n");
    assert_eq!(Config::parse(&file).expect("valid").listeners[0].socket_mode, 0o666);
    check(
        &format!("{socket}'lmtp'\ntrusted = true\nsocket_mode = '888'\n"),
        &[(5, 15, "listener.socket_mode", "\"0660\"")],
    );
}

#[test]
fn maildirs_need_a_file_that_says_whose_is_where() {
    check("[routes]\n'a.test' = 'maildir'\n", &[(1, 1, "mailboxes.file", "the route of a.test")]);
    assert!(Config::parse("[routes]\n'a.test' = 'maildir'\n[mailboxes]\nfile = 'm'\n").is_ok());
}

#[test]
fn rates_and_weights_that_are_wrong_say_what_is_allowed() {
    check(
        "[delivery]\nmessage_rate = '5/week'\n[[site]]\nname = 'a'\nmx = ['a.test']\nconnection_rate = 5\n",
        &[
            (2, 16, "delivery.message_rate", "\"5/week\"|100/min"),
            (6, 19, "site.connection_rate", "found 5|100/min"),
        ],
    );
    check("[[tenant]]\nname = 'a'\nweight = 0\n", &[(3, 10, "tenant.weight", "found 0|from 1 to 100")]);
    check(
        "[[tenant]]\nname = 'a'\nweight = 1\n[[tenant]]\nname = 'a'\nweight = 2\n",
        &[(5, 8, "tenant.name", "two tenants `a`")],
    );
    check("[[tenant]]\nname = 'a'\n", &[(1, 1, "tenant.weight", "needs its name and its weight")]);
}

#[test]
fn distance_counts_edits() {
    for (left, right, want) in [("", "", 0), ("abc", "", 3), ("smpt", "smtp", 2), ("listn", "listen", 1)] {
        assert_eq!(distance(left, right), want, "{left} {right}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics_the_reader(text in "(\\[[a-z]{1,9}\\]\n|[a-z_]{1,12} = |\"[^\"]{0,9}\"|[0-9\\-.é\n\\[\\]{}=,'x]{0,5}){0,12}") {
        let _ = Config::parse(&text);
    }
}
