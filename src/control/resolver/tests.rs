//! What the DNS thread answers, by a DNS server of the test.

use super::super::dns_stub::{A, AAAA, MX, NXDOMAIN, Record, SERVFAIL, Say, Stub};
use super::*;
use crate::outcome::Enhanced;
use crate::routing::PathKind;
use crossbeam_channel::Receiver;

const SHARD: ShardIndex = ShardIndex(3);

struct Asker {
    resolver: ResolverThread,
    answers: Receiver<(ShardIndex, Box<str>, RouteAnswer)>,
}

impl Asker {
    fn new(stub: &Stub, file: &str) -> Self {
        Self::patient(stub, "20s", file)
    }

    fn patient(stub: &Stub, timeout: &str, file: &str) -> Self {
        let file = format!(
            "[resolver]\naddresses = ['{}']\ntimeout = '{timeout}'\nattempts = 1\n{}{file}",
            stub.address,
            if file.contains("ttl_min") { "" } else { "ttl_min = '0ms'\n" }
        );
        let mut config = Config::parse(&file).expect("test file");
        if !file.contains("[routes]") {
            config.routing.table.insert("*", Target::Mx).expect("pattern");
        }
        let (sender, answers) = crossbeam_channel::unbounded();
        let answer = move |shard, domain, answer| {
            let _ = sender.send((shard, domain, answer));
        };
        Self { resolver: start(&config, answer).expect("threads"), answers }
    }

    fn ask(&self, domain: &str) -> RouteAnswer {
        assert!(self.resolver.handle.ask(SHARD, domain));
        let (shard, answered, answer) = self.answers.recv().expect("the thread runs");
        assert_eq!((shard, &*answered), (SHARD, domain));
        answer
    }

    /// The path's id, and `name address,address` of each host.
    fn path(&self, domain: &str) -> (u32, Vec<String>) {
        let RouteAnswer::Path { spec, .. } = self.ask(domain) else { panic!("{domain} has no path") };
        let PathKind::Smtp { hosts } = &spec.kind else { panic!("{domain} is not sent") };
        let host = |host: &crate::routing::PathHost| {
            let addresses: Vec<String> = host.addresses.iter().map(ToString::to_string).collect();
            format!("{} {}", host.name, addresses.join(","))
        };
        (spec.id.0, hosts.iter().map(host).collect())
    }

    fn refused(&self, domain: &str, want: Enhanced) {
        match self.ask(domain) {
            RouteAnswer::Refused { reply } => assert_eq!(reply.enhanced, want, "{domain}"),
            other => panic!("{domain}: {other:?}"),
        }
    }

    fn delayed(&self, domain: &str) {
        match self.ask(domain) {
            RouteAnswer::Delayed { reply, .. } => {
                assert_eq!(reply.enhanced, Enhanced(4, 4, 3), "{domain}")
            }
            other => panic!("{domain}: {other:?}"),
        }
    }
}

#[test]
fn mx_hosts_are_found_in_order_and_shared_by_domains() {
    let stub = Stub::start();
    stub.mx("one.test", &[(20, "b.test"), (10, "a.test")]);
    stub.mx("two.test", &[(1, "a.test"), (2, "b.test")]);
    stub.address("a.test", "192.0.2.1");
    stub.address("a.test", "2001:db8::1");
    stub.address("b.test", "192.0.2.2");
    let asker = Asker::new(&stub, "");
    let one = asker.path("one.test");
    assert_eq!(one.1, ["a.test 192.0.2.1,2001:db8::1", "b.test 192.0.2.2"]);
    assert_eq!(asker.path("two.test"), one);
}

#[test]
fn without_mx_the_address_of_the_domain_serves() {
    let stub = Stub::start();
    stub.address("plain.test", "192.0.2.7");
    assert_eq!(Asker::new(&stub, "").path("plain.test").1, ["plain.test 192.0.2.7"]);
}

#[test]
fn aliases_of_domain_and_of_host_are_followed() {
    let stub = Stub::start();
    let alias = Record::Alias("alias.test", "real.test");
    stub.set("alias.test", MX, Say::Records(vec![alias]));
    stub.mx("real.test", &[(5, "host.test")]);
    let addresses = vec![Record::Alias("host.test", "h2.test"), Record::Address("h2.test", "192.0.2.8")];
    stub.set("host.test", A, Say::Records(addresses));
    assert_eq!(Asker::new(&stub, "").path("alias.test").1, ["host.test 192.0.2.8"]);
}

#[test]
fn certain_failures_refuse() {
    let stub = Stub::start();
    stub.mx("null.test", &[(0, ".")]);
    stub.set("gone.test", MX, Say::Code(NXDOMAIN));
    stub.mx("inside.test", &[(0, "evil.test")]);
    stub.address("evil.test", "127.0.0.1");
    stub.mx("dangling.test", &[(0, "missing.test")]);
    stub.set("missing.test", A, Say::Code(NXDOMAIN));
    stub.set("missing.test", AAAA, Say::Code(NXDOMAIN));
    let asker = Asker::new(&stub, "");
    asker.refused("null.test", Enhanced(5, 1, 10));
    asker.refused("gone.test", Enhanced(5, 1, 2));
    asker.refused("empty.test", Enhanced(5, 1, 2));
    asker.refused("inside.test", Enhanced(5, 4, 4));
    asker.refused("dangling.test", Enhanced(5, 4, 4));
    asker.refused("[127.0.0.1]", Enhanced(5, 4, 4));
    asker.refused("a..b", Enhanced(5, 1, 2));
}

#[test]
fn doubt_delays() {
    let stub = Stub::start();
    stub.set("fail.test", MX, Say::Code(SERVFAIL));
    stub.set("silent.test", MX, Say::Silence);
    stub.set("refused.test", MX, Say::Code(5));
    stub.mx("half.test", &[(0, "hostfail.test")]);
    stub.set("hostfail.test", A, Say::Code(SERVFAIL));
    let loops = Record::Alias("loop.test", "loop.test");
    stub.set("loop.test", MX, Say::Records(vec![loops]));
    let asker = Asker::patient(&stub, "200ms", "");
    for domain in ["fail.test", "silent.test", "refused.test", "half.test"] {
        asker.delayed(domain);
    }
    assert!(!matches!(asker.ask("loop.test"), RouteAnswer::Path { .. }));
}

#[test]
fn routes_that_need_no_mx_are_answered_without_asking_for_any() {
    let stub = Stub::start();
    stub.address("smart.test", "127.0.0.1");
    let routes = "[routes]\n'a.test' = 'discard'\n'b.test' = 'smtp://127.0.0.1:2526'\n\
                  'c.test' = 'smtp://smart.test:26'\n'd.test' = 'smtp://lost.test:25'\n";
    let asker = Asker::new(&stub, routes);
    assert!(matches!(asker.ask("a.test"), RouteAnswer::Path { spec, .. } if spec.kind == PathKind::Discard));
    assert!(matches!(asker.ask("x.test"), RouteAnswer::Path { spec, .. } if spec.kind == PathKind::Hold));
    assert_eq!(asker.path("b.test").1, ["127.0.0.1 127.0.0.1"]);
    assert_eq!(stub.asked(), 0);
    assert_eq!(asker.path("c.test").1, ["smart.test 127.0.0.1"]);
    // The operator's slip is mended, not bounced.
    asker.delayed("d.test");
}

#[test]
fn a_lab_may_send_to_loopback() {
    let stub = Stub::start();
    stub.mx("lab.test", &[(0, "sink.test")]);
    stub.address("sink.test", "127.0.0.1");
    let asker = Asker::new(&stub, "[delivery]\nallow_loopback_mx = true\nmx_port = 2526\n");
    let RouteAnswer::Path { spec, .. } = asker.ask("lab.test") else { panic!("no path") };
    let PathKind::Smtp { hosts } = &spec.kind else { panic!("not sent") };
    assert_eq!((hosts[0].port, spec.name.as_str()), (2526, "sink.test:2526"));
    assert_eq!(asker.path("[127.0.0.1]").1, ["127.0.0.1 127.0.0.1"]);
}

#[test]
fn many_questions_for_a_domain_make_one_lookup() {
    let stub = Stub::start();
    stub.mx("busy.test", &[(0, "a.test")]);
    stub.address("a.test", "192.0.2.1");
    let asker = Asker::new(&stub, "");
    for shard in 0..50 {
        assert!(asker.resolver.handle.ask(ShardIndex(shard % 5), "busy.test"));
    }
    for _ in 0..5 {
        asker.answers.recv().expect("each shard has an answer");
    }
    assert!(stub.asked() <= 3, "{}", stub.asked());
}

#[test]
fn a_path_goes_on_serving_when_its_refresh_fails() {
    let stub = Stub::start();
    stub.set("s.test", MX, Say::Brief(vec![Record::Mx(0, "a.test")]));
    stub.address("a.test", "192.0.2.1");
    let asker = Asker::new(&stub, "retry = '100ms'\n");
    let before = asker.path("s.test");
    stub.set("s.test", MX, Say::Code(SERVFAIL));
    assert_eq!(asker.path("s.test"), before);
    assert_eq!(asker.resolver.counters.delayed.load(Ordering::Relaxed), 1);
}

#[test]
fn the_thread_ends_with_the_last_handle() {
    let Asker { resolver, .. } = Asker::new(&Stub::start(), "");
    drop(resolver.handle);
    resolver.thread.join().expect("no panic");
}

#[test]
fn hosts_that_are_we_and_those_behind_us_are_cut() {
    let stub = Stub::start();
    for (name, address) in
        [("before.test", "192.0.2.1"), ("ours.test", "192.0.2.9"), ("after.test", "192.0.2.2")]
    {
        stub.address(name, address);
    }
    stub.mx("backup.test", &[(10, "before.test"), (20, "ours.test"), (20, "after.test"), (30, "after.test")]);
    stub.mx("main.test", &[(10, "ours.test"), (20, "after.test")]);
    stub.mx("named.test", &[(10, "relay.test"), (20, "after.test")]);
    let asker = Asker::new(&stub, "[smtp]\nhostname = 'relay.test'\nlisten = ['192.0.2.9:25']\n");
    assert_eq!(asker.path("backup.test").1, ["before.test 192.0.2.1"]);
    for loops in ["main.test", "named.test", "ours.test", "[192.0.2.9]"] {
        asker.refused(loops, Enhanced(5, 4, 6));
    }
}

#[test]
fn an_answer_too_large_for_udp_is_fetched_by_tcp_and_capped() {
    let stub = Stub::start();
    let hosts = (0..300u16).map(|nth| Record::Mx(nth, &*format!("mx{nth}.test").leak())).collect();
    stub.set("huge.test", MX, Say::Large(hosts));
    for nth in 0..300u16 {
        stub.address(format!("mx{nth}.test").leak(), "192.0.2.1");
    }
    let addresses = (0..2000u16)
        .map(|nth| Record::Address("mx0.test", format!("198.51.{}.{}", nth / 250, nth % 250).leak()));
    stub.set("mx0.test", A, Say::Large(addresses.collect()));
    let hosts = Asker::new(&stub, "").path("huge.test").1;
    assert_eq!(hosts.len(), super::super::path_map::HOSTS_MAX);
    assert_eq!(hosts[0].split(',').count(), super::super::path_map::ADDRESSES_MAX);
    assert!(stub.asked() < 60, "hosts beyond the cap are not looked up: {}", stub.asked());
}

#[test]
fn what_is_no_answer_to_the_question_is_doubt() {
    let stub = Stub::start();
    stub.address("fine.test", "192.0.2.1");
    let asker = Asker::patient(&stub, "200ms", "retry = '100ms'\n");
    let late = Say::Late(Duration::from_secs(3), vec![Record::Mx(1, "fine.test")]);
    for (domain, mood) in [("a.test", Say::Garbage), ("b.test", Say::Forged), ("c.test", late)] {
        stub.set_mood(Some(mood));
        asker.delayed(domain);
    }
    stub.set_mood(None);
    assert_eq!(asker.path("fine.test").1, ["fine.test 192.0.2.1"]);
}

#[test]
fn a_refusal_is_remembered_for_a_while() {
    let stub = Stub::start();
    stub.set("gone.test", MX, Say::Code(NXDOMAIN));
    let asker = Asker::new(&stub, "ttl_max = '2h'\nttl_min = '1h'\n");
    asker.refused("gone.test", Enhanced(5, 1, 2));
    let asked = stub.asked();
    stub.mx("gone.test", &[(1, "a.test")]);
    asker.refused("gone.test", Enhanced(5, 1, 2));
    assert_eq!(stub.asked(), asked);
    assert_eq!(asker.resolver.counters.cached.load(Ordering::Relaxed), 1);
}
