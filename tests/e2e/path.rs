//! What goes in comes out: each message, byte for byte, behind one Received header.

use std::fmt::Write as _;

use crate::harness::client::content;
use crate::harness::host_is_able;
use crate::harness::relay::{Config, Lab};
use crate::harness::sink::{Act, Sink, USUAL};

/// `bytes` bytes of CRLF lines, some of which begin with dots or are long, and bytes above 127.
fn text(bytes: usize) -> Vec<u8> {
    let mut content = Vec::with_capacity(bytes);
    let mut line = 0u32;
    while content.len() < bytes {
        line += 1;
        match line % 5 {
            0 => content.extend_from_slice(b".\r\n"),
            1 => content.extend_from_slice(b"..two dots\r\n"),
            2 => content.extend_from_slice(format!("line {line} gr\u{fc}n \u{1f4ee}\r\n").as_bytes()),
            3 => content.extend_from_slice(&[&[b'x'; 900][..], b"\r\n"].concat()),
            _ => content.extend_from_slice(b"\xff\xfe\x80 latin\r\n\r\n"),
        }
    }
    content.truncate(bytes);
    // A cut inside a CRLF, or no line end at all, is made whole.
    if content.len() >= 2 {
        content.truncate(bytes - 2);
        while content.ends_with(b"\r") {
            content.pop();
        }
        while content.len() < bytes - 2 {
            content.push(b'y');
        }
        content.extend_from_slice(b"\r\n");
    }
    content
}

const SIZES: [usize; 8] = [2, 4096, 65_535, 65_536, 65_537, 131_072, 200 * 1024, 3 << 20];

/// Sends each size once with DATA and once in chunks, and compares what arrives.
fn all_arrive(config: Config, offers: &'static [&'static str]) {
    let lab = Lab::new();
    let sink = Sink::on(&[([127, 0, 0, 1], 0).into()], offers, |_| Act::Accept);
    let relay = lab.start(&config.to(sink.address()));
    let mut sent = Vec::new();
    for (nth, size) in SIZES.into_iter().enumerate() {
        let content = text(size);
        let to = format!("data{nth}@a.test");
        // A new connection each: several shards get some.
        relay.client().mail("from@client.test", &[&to], &content);
        sent.push((to, content.clone()));
        let to = format!("chunks{nth}@b.test");
        relay.client().mail_in_chunks("from@client.test> BODY=8BITMIME", &[&to], &content, 30_011);
        sent.push((to, content));
    }
    for (to, content) in &sent {
        let taken = sink.await_to(to);
        assert_eq!(taken.sender, "from@client.test");
        assert!(
            taken.original() == content,
            "{to}: {} bytes became {}",
            content.len(),
            taken.original().len()
        );
    }
    relay.drain();
    assert_eq!(sink.taken().len(), sent.len(), "each once");
    relay.stop();
}

#[test]
fn messages_of_many_sizes_arrive_byte_identical_on_one_shared_executor() {
    if host_is_able() {
        all_arrive(Config::new().threads(1, "shared"), USUAL);
    }
}

#[test]
fn messages_of_many_sizes_arrive_byte_identical_on_three_shared_executors() {
    if host_is_able() {
        all_arrive(Config::new().threads(3, "shared"), &["8BITMIME", "SMTPUTF8"]);
    }
}

#[test]
fn messages_of_many_sizes_arrive_byte_identical_with_roles_on_their_own_executors() {
    if host_is_able() {
        all_arrive(Config::new().threads(1, "split"), &["PIPELINING", "8BITMIME", "CHUNKING"]);
        all_arrive(
            Config::new().threads(3, "split"),
            &["PIPELINING", "8BITMIME", "CHUNKING", "ENHANCEDSTATUSCODES", "DSN"],
        );
    }
}

#[test]
fn messages_arrive_on_pinned_executors_to_which_connections_are_steered() {
    if host_is_able() {
        let config = Config::new().threads(2, "shared").set("threads.pin", true).set("threads.steer", true);
        all_arrive(config, USUAL);
    }
}

#[test]
fn a_single_octet_and_a_last_line_without_end_become_whole_lines() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::start());
    let relay = lab.start(&Config::new().to(sink.address()));
    let odd: [&[u8]; 6] = [b"x", b".", b"", b"Subject: a\r\n\r\nno end", b".\r\n.", b"..\r\n..x"];
    for (nth, content) in odd.into_iter().enumerate() {
        let to = format!("odd{nth}@a.test");
        relay.client().mail_in_chunks("from@client.test", &[&to], content, 7);
        let mut want = content.to_vec();
        if !want.is_empty() && !want.ends_with(b"\r\n") {
            want.extend_from_slice(b"\r\n");
        }
        let taken = sink.await_to(&to);
        assert_eq!(taken.original().escape_ascii().to_string(), want.escape_ascii().to_string());
    }
    relay.stop();
}

#[test]
fn the_received_header_names_the_client_and_the_id_of_the_250() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::start());
    let relay = lab.start(&Config::new().to(sink.address()));
    let id = relay.client().mail("from@client.test", &["one@a.test"], &content("trace", "x"));
    let taken = sink.await_to("one@a.test");
    let added = taken.content.len() - taken.original().len();
    let header = String::from_utf8(taken.content[..added].to_vec()).expect("ASCII");
    for words in ["from client.test", "[127.0.0.1]", "by relay.test", "with ESMTP", &id, "for <one@a.test>"] {
        assert!(header.contains(words), "`{words}` is missing: {header}");
    }
    assert_eq!(
        taken.content.windows(9).filter(|window| window.eq_ignore_ascii_case(b"received:")).count(),
        1
    );
    let line = relay.await_log(&["accepted", &id]);
    assert!(line.contains("from@client.test") && line.contains("one@a.test"), "{line}");
    relay.await_log(&["delivered", &id]);
    relay.stop();
}

#[test]
fn recipients_of_several_domains_get_one_copy_each_and_keep_their_parameters() {
    if !host_is_able() {
        return;
    }
    let (lab, one, other) = (Lab::new(), Sink::start(), Sink::start());
    let config = Config::new().to(one.address()).route("other.test", format!("smtp://{}", other.address()));
    let relay = lab.start(&config);
    let mut client = relay.client();
    let recipients = [
        "a@one.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb@one.test",
        "b@one.test",
        "c@other.test",
        "d@two.test",
        "e@other.test",
    ];
    client.mail("from@client.test> RET=HDRS ENVID=abc+2D1", &recipients, &content("many", "x"));
    // Many more than one transaction takes.
    let many: Vec<_> = (0..150).map(|nth| format!("r{nth}@many.test")).collect();
    client.mail(
        "from@client.test",
        &many.iter().map(String::as_str).collect::<Vec<_>>(),
        &content("150", "x"),
    );
    relay.drain();
    let all = |sink: &Sink| {
        let taken = sink.taken();
        let mut got: Vec<_> =
            taken.iter().flat_map(|t| t.mailboxes().into_iter().map(str::to_owned)).collect();
        got.sort();
        got
    };
    let mut want = many;
    want.extend(["a@one.test", "b@one.test", "d@two.test"].map(str::to_owned));
    want.sort();
    assert_eq!(all(&one), want);
    assert_eq!(all(&other), ["c@other.test", "e@other.test"]);
    let first = one.await_to("a@one.test");
    assert!(
        first.mail_parameters.contains("ENVID=abc+2D1") && first.mail_parameters.contains("RET=HDRS"),
        "{first:?}"
    );
    let parameters = &first.recipients.iter().find(|(mailbox, _)| mailbox == "a@one.test").expect("there").1;
    assert!(
        parameters.contains("NOTIFY=SUCCESS,FAILURE") && parameters.contains("ORCPT=rfc822;a+2Bb@one.test"),
        "{parameters}"
    );
    relay.stop();
}

#[test]
fn internationalised_addresses_pass_where_offered_and_bounce_where_not() {
    if !host_is_able() {
        return;
    }
    let (lab, able) = (Lab::new(), Sink::start());
    let unable = Sink::on(&[([127, 0, 0, 1], 0).into()], &["PIPELINING", "8BITMIME"], |_| Act::Accept);
    let config = Config::new().to(able.address()).route("old.test", format!("smtp://{}", unable.address()));
    let relay = lab.start(&config);
    let mut client = relay.client();
    client.mail(
        "gr\u{fc}n@client.test> SMTPUTF8 BODY=8BITMIME",
        &["\u{fc}ber@m\u{fc}ller.test"],
        &content("ü", "ü"),
    );
    let taken = able.await_to("\u{fc}ber@m\u{fc}ller.test");
    assert!(taken.mail_parameters.contains("SMTPUTF8"), "{taken:?}");
    assert_eq!(taken.sender, "gr\u{fc}n@client.test");
    client.mail("ascii@client.test> SMTPUTF8", &["\u{fc}@old.test"], &content("ü", "ü"));
    let bounce = able.await_to("ascii@client.test");
    assert_eq!(bounce.sender, "");
    assert!(unable.taken().is_empty());
    relay.stop();
}

#[test]
fn a_binary_message_arrives_octet_by_octet_or_bounces_without_a_byte_of_it() {
    if !host_is_able() {
        return;
    }
    const OFFERS: &[&str] = &["PIPELINING", "8BITMIME", "CHUNKING", "BINARYMIME"];
    let (lab, usual) = (Lab::new(), Sink::start());
    let able = Sink::on(&[([127, 0, 0, 1], 0).into()], OFFERS, |_| Act::Accept);
    let config = Config::new().to(usual.address()).route("able.test", format!("smtp://{}", able.address()));
    let relay = lab.start(&config);
    let octets: Vec<u8> = (0..300_000u32).map(|n| (u64::from(n).pow(2) >> 7) as u8).collect();
    let message = [b"Subject: octets\r\n\r\n\n.\n\r.\r\n.\r\n", octets.as_slice(), b"\r"].concat();
    let mut client = relay.client();
    for (to, length) in [("short@able.test", 2000), ("long@able.test", message.len())] {
        client.mail_in_chunks("from@client.test> BODY=BINARYMIME", &[to], &message[..length], 70_001);
        let taken = able.await_to(to);
        assert!(taken.mail_parameters.contains("BODY=BINARYMIME"), "{}", taken.mail_parameters);
        assert!(taken.content.ends_with(&message[..length]), "{to}: other octets");
    }
    // Nobody can be sent it by DATA: the sender is told, in words alone.
    let refused = "from@client.test> BODY=BINARYMIME RET=FULL";
    client.mail_in_chunks(refused, &["to@usual.test"], b"Subject: x\r\n\r\nwith\0nul and\nlf", 1000);
    let bounce = usual.await_to("from@client.test");
    let text = String::from_utf8(bounce.content).expect("a notification is text");
    assert!(text.contains("Status: 5.6.3") && !text.contains('\0') && !text.contains("nul and"), "{text}");
    relay.stop();
}

#[test]
fn hundreds_of_messages_in_one_pipelined_write_are_all_answered_in_order() {
    if !host_is_able() {
        return;
    }
    let (lab, sink) = (Lab::new(), Sink::start());
    let relay = lab.start(&Config::new().to(sink.address()));
    let mut client = relay.client();
    let mut script = String::new();
    for nth in 0..200 {
        let _ =
            write!(script, "MAIL FROM:<f@c.test>\r\nRCPT TO:<p{nth}@a.test>\r\nDATA\r\nn: {nth}\r\n.\r\n");
    }
    client.send(script.as_bytes());
    for _ in 0..200 {
        client.expect_replies(&[250, 250, 354, 250]);
    }
    sink.await_taken(200);
    relay.drain();
    assert_eq!(sink.taken().len(), 200);
    relay.stop();
}
