//! The pace of a path: its rate, its neighbours, and the answer to why it is slow.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::client::{Client, content};
use crate::harness::gate::Gate;
use crate::harness::relay::{Config, Lab, Relay};
use crate::harness::sink::{Act, Moment, Sink, Stage};
use crate::harness::{SOON, eventually, host_is_able};

/// Rules for a sink.
fn site(sink: &Sink, lines: &str) -> String {
    format!("[[site]]\nname = 'site'\nhosts = ['{}']\n{lines}", sink.address())
}

/// All about the path that most waits for, once it `holds`.
fn await_path(relay: &Relay, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let json = |path: &str| -> Option<Value> {
        let (status, body) = relay.http(path);
        (status == 200).then(|| serde_json::from_str(&body).expect("JSON"))
    };
    let mut last = Value::Null;
    // Paths to other ports of a host have its name as well.
    let named = |name: &Value| {
        let all = json(&format!("/paths?name={}", name.as_str()?))?["paths"].as_array()?.clone();
        all.into_iter().max_by_key(|path| path["waiting"]["legs"].as_u64())
    };
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        let all = json("/paths").expect("a list");
        assert_eq!(all["roles_missing"], 0);
        if let Some(path) = named(&all["paths"][0]["name"]) {
            if holds(&path) {
                return path;
            }
            last = path;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited in vain for {what}: {last:#}");
}

fn mail(client: &mut Client, tenant: &str, to: &str) {
    let text = [format!("X-Tenant: {tenant}\r\n").as_bytes(), &content("shaping", "x")].concat();
    client.mail("from@client.test", &[to], &text);
}

#[test]
fn a_rate_lets_no_more_through_says_that_it_is_the_limit_and_holds_up_nobody_else() {
    if !host_is_able() {
        return;
    }
    let (lab, slow, free) = (Lab::new(), Sink::start(), Sink::start());
    let config = Config::new()
        .threads(2, "shared")
        .to(free.address())
        .route("slow.test", format!("smtp://{}", slow.address()))
        .table(&site(&slow, "message_rate = '1/h'"));
    let relay = lab.start(&config);
    let mut client = relay.client();
    for nth in 0..5 {
        mail(&mut client, "", &format!("n{nth}@slow.test"));
        mail(&mut client, "", &format!("n{nth}@free.test"));
    }
    free.await_taken(5);
    // One or two of them at the worker already.
    let path = await_path(&relay, "four that wait", |path| {
        path["waiting"]["legs"].as_u64().zip(path["jobs"]["parked"].as_u64()).is_some_and(|(a, b)| a + b == 4)
    });
    assert_eq!(path["limited_by"], "message_rate", "{path:#}");
    assert_eq!((&path["limits"]["message_rate"], &path["permits"]["messages"]), (&"1/h".into(), &0.into()));
    assert_eq!((slow.taken().len(), free.taken().len()), (1, 5));
    relay.stop();
}

#[test]
fn connections_that_may_not_be_opened_as_often_wait_for_each_other() {
    if !host_is_able() {
        return;
    }
    let (lab, gate) = (Lab::new(), Gate::default());
    let sink = gate.sink();
    let relay = lab.start(&Config::new().to(sink.address()).table(&site(&sink, "connection_rate = '2/h'")));
    let mut client = relay.client();
    (0..20).for_each(|nth| mail(&mut client, "", &format!("n{nth}@a.test")));
    let path = await_path(&relay, "the rate to bind", |path| path["limited_by"] == "connection_rate");
    assert_eq!(path["connections"]["open"], 1, "{path:#}");
    gate.let_pass(20);
    relay.drain();
    assert_eq!((sink.taken().len(), sink.asked(Stage::Banner)), (20, 1));
    relay.stop();
}

#[test]
fn why_a_path_is_slow_is_told_with_its_last_error_and_who_waits() {
    if !host_is_able() {
        return;
    }
    let away = |moment: &Moment| match moment.stage {
        Stage::Banner => Act::Say("421 4.7.28 unusual rate of mail"),
        _ => Act::Accept,
    };
    let (lab, sink) = (Lab::new(), Sink::scripted(away));
    let config = Config::new().to(sink.address()).listener("relay", "tenant_header = 'X-Tenant'");
    let relay = lab.start(&config);
    let mut client = Client::connect(relay.listeners("SMTP")[1]);
    (0..3).for_each(|nth| mail(&mut client, "acme", &format!("n{nth}@a.test")));
    mail(&mut client, "other", "n@a.test");
    let path =
        await_path(&relay, "a rest", |path| path["limited_by"] == "back_off" && path["waiting"]["legs"] == 4);
    assert!(path["back_off_seconds"].as_f64().is_some_and(|left| left > 0.0), "{path:#}");
    assert!(path["failures_in_a_row"].as_u64() >= Some(1), "{path:#}");
    let error = &path["last_error"];
    assert_eq!((&error["code"], &error["enhanced"]), (&421.into(), &"4.7.28".into()), "{path:#}");
    assert!(error["text"].as_str().is_some_and(|text| text.contains("unusual rate")), "{path:#}");
    assert_eq!(path["waiting"]["tenants"][0]["tenant"], "acme", "{path:#}");
    assert_eq!(path["waiting"]["tenants"][0]["legs"], 3, "{path:#}");
    assert!(path["hosts"][0].as_str().is_some_and(|host| host.contains("127.0.0.1")), "{path:#}");
    assert_eq!(relay.http("/paths?name=nobody").0, 404);
    relay.stop();
}

#[test]
fn a_fresh_message_waits_for_what_is_in_flight_and_not_for_a_neighbours_backlog() {
    if !host_is_able() {
        return;
    }
    const CONNECTIONS: usize = 1;
    for wiring in ["shared", "split"] {
        let (lab, gate) = (Lab::new(), Gate::default());
        let sink = gate.sink();
        let config = Config::new()
            .threads(2, wiring)
            .to(sink.address())
            .set("delivery.connections_max", CONNECTIONS)
            .listener("relay", "tenant_header = 'X-Tenant'");
        let relay = lab.start(&config);
        let mut clients = [0, 1].map(|_| Client::connect(relay.listeners("SMTP")[1]));
        (0..200).for_each(|nth| mail(&mut clients[nth % 2], "noisy", &format!("n{nth}@a.test")));
        gate.let_pass(20);
        sink.await_taken(20);
        mail(&mut clients[0], "quiet", "fresh@a.test");
        // It has left the queue when nobody of its tenant waits there.
        await_path(&relay, "the fresh message to overtake", |path| {
            let tenants = path["waiting"]["tenants"].as_array().map_or(&[][..], Vec::as_slice);
            tenants.iter().any(|row| row["tenant"] == "noisy")
                && tenants.iter().all(|row| row["tenant"] != "quiet")
        });
        let before = sink.taken().len();
        eventually("the fresh message at the sink", || {
            let seen = sink.taken();
            if seen.iter().any(|taken| taken.mailboxes() == ["fresh@a.test"]) {
                return Some(());
            }
            gate.let_pass(1);
            eventually("one more", || (sink.taken().len() > seen.len()).then_some(()));
            None
        });
        // One in flight, one behind its final dot, and a parked job whose turn it was.
        let overtaken = sink.taken().len() - before;
        println!("{wiring}: {overtaken} went before it");
        assert!(overtaken <= 3 * CONNECTIONS, "{wiring}: {overtaken} of 180 went before it");
        gate.let_pass(200);
        relay.drain();
        relay.stop();
    }
}
