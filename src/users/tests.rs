//! Users: lines, keys, and that a check costs the same for everybody.

use super::*;

fn users(text: &str) -> Users {
    Users::parse(text).expect("a users file")
}

fn file() -> String {
    let argon2 = Key::argon2(b"secret", &[1; 16]).expect("a key");
    let scram = Key::scram(b"other", &[2; 16]);
    format!("# ours\nalice {argon2} senders=*@Example.com,<> tenant=acme\n\nbob {scram}\n")
}

#[test]
fn a_check_does_the_same_work_for_known_and_unknown_names() {
    let users = users(&file());
    let both = Work { argon2: 1, pbkdf2: 1 };
    assert_eq!(users.check("alice", b"secret"), (true, both));
    assert_eq!(users.check("alice", b"other"), (false, both));
    assert_eq!(users.check("bob", b"other"), (true, both));
    assert_eq!(users.check("bob", b"secret"), (false, both));
    assert_eq!(users.check("nobody", b"secret"), (false, both), "the key it is compared with is not its own");
    assert_eq!(users.check("nobody", b"other"), (false, both));
}

#[test]
fn made_up_scram_keys_are_the_same_each_time_and_differ_by_name() {
    let users = users(&file());
    let keys = users.scram_keys("nobody");
    assert_eq!(keys, users.scram_keys("nobody"));
    assert_ne!(keys.salt, users.scram_keys("somebody").salt);
    assert_eq!((keys.salt.len(), keys.iterations), (16, SCRAM_ITERATIONS), "as those of bob look");
    // Argon2 keys cannot serve SCRAM: alice looks like nobody.
    assert_eq!(users.scram_keys("alice").salt.len(), 16);
}

#[test]
fn senders_and_tenant_of_a_user_hold() {
    let users = users(&file());
    let alice = users.user("alice").expect("there");
    assert_eq!(&*alice.tenant, "acme");
    for (sender, want) in
        [("a@example.com", true), ("A@EXAMPLE.COM", true), ("", true), ("a@other.com", false)]
    {
        assert_eq!(alice.may_send_as(sender), want, "{sender}");
    }
    let bob = users.user("bob").expect("there");
    assert_eq!(&*bob.tenant, "bob");
    assert!(bob.may_send_as("anybody@anywhere.test"));
}

#[test]
fn each_wrong_line_is_told_by_its_number() {
    let good = Key::scram(b"x", &[0; 16]);
    let text = format!(
        "a {good}\nb\nc plain\na {good}\nd {good} sender=x\ne -\nf {good} senders=nodomain\n\
         g - certificate=12\nh $scram-sha-256$1$AAAA$AAAA$AAAA\n"
    );
    let faults = Users::parse(&text).expect_err("wrong");
    let lines: Vec<usize> = faults.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [2, 3, 4, 5, 6, 7, 8, 9], "{faults:#?}");
    for (fault, words) in faults.iter().zip([
        "no key",
        "ringpost user add",
        "has a line already",
        "senders=",
        "neither a key",
        "user@domain",
        "64 hexadecimal",
        "4096 iterations",
    ]) {
        assert!(fault.what.contains(words), "{fault}");
    }
    assert!(!faults[1].what.contains("plain"), "what may be a password is not repeated");
}

#[test]
fn keys_read_back_as_they_were_written() {
    for key in [Key::argon2(b"p", &[3; 16]).expect("a key"), Key::scram(b"p", &[4; 16])] {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
}

#[test]
fn a_certificate_finds_its_user() {
    let digits = "AB:".repeat(31) + "ab";
    let users = users(&format!("printer - certificate={digits}\n"));
    assert!(users.have_certificates());
    assert_eq!(users.of_certificate(&[0xab; 32]).map(|user| &*user.name), Some("printer"));
    assert_eq!(users.of_certificate(&[0; 32]), None);
    assert!(!users.check("printer", b"").0);
}
