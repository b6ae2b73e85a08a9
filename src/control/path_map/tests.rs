//! What follows from hosts and addresses, case by case.

use super::*;
use crate::routing::Security;
use crate::routing::site::{Site, SiteRules};
use crate::routing::source::Source;
use std::time::Duration;

fn map() -> PathMap {
    let limits = PathLimits {
        connections: 1,
        messages_per_connection: 1,
        recipients_per_transaction: 1,
        window: 1,
        idle: Duration::from_secs(1),
        connection_rate: None,
        message_rate: None,
        security: Security::default(),
    };
    PathMap::new(Sites::new(limits, &[]))
}

/// `preference name address,address`; an address may be `nx`, `none` or `fail`.
fn hosts(texts: &[&str]) -> Vec<Resolved> {
    let host = |text: &&str| {
        let words: Vec<&str> = text.split(' ').collect();
        let addresses = match words[2] {
            "nx" => Err(Missing::Name),
            "none" => Err(Missing::Record),
            "fail" => Err(Missing::Unknown("SERVFAIL".into())),
            list => Ok(list.split(',').map(|a| a.parse().expect("test address")).collect()),
        };
        Resolved { preference: words[0].parse().expect("number"), name: words[1].into(), port: 25, addresses }
    };
    texts.iter().map(host).collect()
}

fn asked(domain: &str) -> Asked<'_> {
    Asked { domain, target: &Target::Mx, pool: Arc::default() }
}

fn path(map: &mut PathMap, texts: &[&str]) -> Arc<PathSpec> {
    match map.decide(&asked("d.example"), hosts(texts), AddressRule::Public) {
        Decision::Path { spec, .. } => spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_name_that_is_none_cannot_break_a_line_of_a_log() {
    let bad = (10, "a\r\nb".to_owned(), 25);
    assert_eq!(label(&bad), "a??b");
}

#[test]
fn mx_records_become_hosts_in_order_without_repeats() {
    let check = |records: &[(u16, &str)], want: &[(u16, &str)]| {
        let records = records.iter().map(|(rank, name)| (*rank, (*name).to_owned())).collect();
        let want = want.iter().map(|(rank, name)| (*rank, (*name).to_owned())).collect();
        assert_eq!(exchanges("d.example", records), Exchanges::Hosts(want));
    };
    check(&[], &[(0, "d.example")]);
    check(&[(20, "b."), (10, "A.example.")], &[(10, "a.example"), (20, "b")]);
    check(&[(20, "a."), (10, "A.")], &[(10, "a")]);
    check(&[(0, "."), (10, "a.")], &[(10, "a")]);
    assert_eq!(exchanges("d.example", vec![(0, ".".into())]), Exchanges::NullMx);
}

#[test]
fn more_hosts_than_allowed_lose_the_least_preferred() {
    let records = (0..40u16).rev().map(|rank| (rank, format!("mx{rank}."))).collect();
    let Exchanges::Hosts(hosts) = exchanges("d.example", records) else { panic!("not null") };
    assert_eq!(hosts.len(), HOSTS_MAX);
    assert_eq!(hosts.last().map(|(rank, _)| *rank), Some(15));
}

#[test]
fn domains_with_the_same_hosts_share_a_path_whatever_the_numbers() {
    let mut map = map();
    let first = path(&mut map, &["10 a 192.0.2.1", "20 b 192.0.2.2"]);
    let same = path(&mut map, &["1 a 192.0.2.1", "2 b 192.0.2.2"]);
    assert!(Arc::ptr_eq(&first, &same));
    let equal_rank = path(&mut map, &["1 a 192.0.2.1", "1 b 192.0.2.2"]);
    assert_ne!(first.id, equal_rank.id);
    assert_eq!((first.name.as_str(), map.len()), ("a+1", 2));
}

#[test]
fn new_addresses_raise_the_version_and_another_order_does_not() {
    let mut map = map();
    let first = path(&mut map, &["1 a 192.0.2.1,192.0.2.2"]);
    let turned = path(&mut map, &["1 a 192.0.2.2,192.0.2.1,192.0.2.1"]);
    assert!(Arc::ptr_eq(&first, &turned));
    let moved = path(&mut map, &["1 a 192.0.2.3"]);
    assert_eq!((moved.id, moved.version), (first.id, 2));
}

#[test]
fn a_host_that_is_not_known_now_leaves_the_path_its_identity() {
    let mut map = map();
    let whole = path(&mut map, &["1 a 192.0.2.1", "2 b 192.0.2.2"]);
    match map.decide(&asked("d.example"), hosts(&["1 a fail", "2 b 192.0.2.2"]), AddressRule::Public) {
        Decision::Path { spec, complete: false, .. } => assert_eq!((spec.id, spec.version), (whole.id, 2)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_usable_host_doubt_delays_and_certainty_refuses() {
    let check = |texts: &[&str], want: Option<Enhanced>| {
        let refused = match map().decide(&asked("d.example"), hosts(texts), AddressRule::Public) {
            Decision::Refused(reply) => Some(reply.enhanced),
            Decision::Delayed(reply) => {
                assert_eq!(reply.enhanced, Enhanced(4, 4, 3));
                None
            }
            Decision::Path { spec, .. } => panic!("{texts:?}: {spec:?}"),
        };
        assert_eq!(refused, want, "{texts:?}");
    };
    check(&["1 a nx", "2 b none"], Some(Enhanced(5, 4, 4)));
    check(&["1 a fail", "2 b none"], None);
    check(&["1 a 127.0.0.1", "2 b fail"], None);
    check(&["1 a 10.0.0.1,::1"], Some(Enhanced(5, 4, 4)));
    check(&["1 localhost 192.0.2.1"], Some(Enhanced(5, 4, 4)));
    check(&["1 192.0.2.1 192.0.2.1"], Some(Enhanced(5, 4, 4)));
}

#[test]
fn only_public_addresses_may_be_named_by_strangers() {
    let check = |address: &str, public: bool, any: bool| {
        let ip = address.parse().expect("test address");
        assert_eq!((AddressRule::Public.allows(ip), AddressRule::Any.allows(ip)), (public, any), "{address}");
    };
    check("192.0.2.1", true, true);
    check("2001:db8::1", true, true);
    for inside in [
        "127.0.0.1",
        "10.1.2.3",
        "172.31.0.1",
        "192.168.1.1",
        "169.254.1.1",
        "100.64.0.1",
        "::1",
        "fd00::1",
        "fe80::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "::7f00:1",
        "0.1.2.3",
        "240.0.0.1",
    ] {
        check(inside, false, true);
    }
    for nowhere in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0"] {
        check(nowhere, false, false);
    }
    check("100.128.0.1", true, true);
    check("172.32.0.1", true, true);
}

#[test]
fn fixed_paths_are_made_once() {
    let mut map = map();
    assert!(Arc::ptr_eq(&map.hold(), &map.hold()));
    assert_ne!(map.discard().id, map.hold().id);
}

#[test]
fn what_a_site_matches_shares_its_path_and_keeps_its_hosts() {
    let rules = SiteRules { connections_max: Some(7), ..SiteRules::default() };
    let site = Site { name: "big".into(), mx: vec!["*.big.example".into()], rules, ..Site::default() };
    let mut map = map();
    map.sites = Sites::new(map.sites.delivery(), &[site]);
    let mut path = |texts: &[&str]| match map.decide(&asked("d.example"), hosts(texts), AddressRule::Public) {
        Decision::Path { spec, hosts, .. } => (spec, hosts),
        other => panic!("{other:?}"),
    };
    let (one, one_hosts) = path(&["1 mx1.big.example 192.0.2.1"]);
    let (two, two_hosts) = path(&["1 mx2.big.example 192.0.2.2"]);
    let (own, no_hosts) = path(&["1 mx1.big.example 192.0.2.1", "2 backup.example 192.0.2.9"]);
    assert!(Arc::ptr_eq(&one, &two), "one path, whatever the MX set");
    assert_eq!((one.name.as_str(), one.limits.connections), ("big", 7));
    let (one_hosts, two_hosts) = (one_hosts.expect("its own"), two_hosts.expect("its own"));
    assert_eq!((&*one_hosts[0].name, &*two_hosts[0].name), ("mx1.big.example", "mx2.big.example"));
    assert_ne!(own.id, one.id);
    assert_eq!((own.limits.connections, no_hosts), (1, None));
    let (_, again) = path(&["5 mx1.big.example 192.0.2.1"]);
    assert!(Arc::ptr_eq(&one_hosts, &again.expect("its own")), "the same hosts are one allocation");
    let (_, moved) = path(&["5 mx1.big.example 192.0.2.5"]);
    assert!(!Arc::ptr_eq(&one_hosts, &moved.expect("its own")));
}

#[test]
fn each_pool_has_a_path_of_its_own_and_the_limits_of_its_sources() {
    let rules = SiteRules { connections_max: Some(7), ..SiteRules::default() };
    let site = Site { name: "warm".into(), sources: vec!["new".into()], rules, ..Site::default() };
    let mut map = map();
    map.sites = Sites::new(map.sites.delivery(), &[site]);
    let mut path = |pool: &str| {
        let member = (Arc::new(Source { name: pool.into(), ..Source::default() }), 1);
        let pool = Arc::new(SourcePool { name: pool.into(), members: vec![member] });
        let asked = Asked { pool, ..asked("d.example") };
        match map.decide(&asked, hosts(&["1 a 192.0.2.1"]), AddressRule::Public) {
            Decision::Path { spec, .. } => spec,
            other => panic!("{other:?}"),
        }
    };
    let (old, new) = (path("old"), path("new"));
    assert_ne!(old.id, new.id);
    assert_eq!((old.name.as_str(), old.limits.connections), ("a@old", 1));
    assert_eq!((new.name.as_str(), new.limits.connections), ("a@new", 7));
    assert_eq!(path("old").id, old.id);
}
