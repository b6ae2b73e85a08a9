//! PURE. AUTH in a session, as RFC 4954 has it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;

use super::super::AuthOffer;
use super::Driver;
use crate::users::{hmac_sha256, sha256};

/// Codes of the replies behind EHLO.
fn codes(offer: AuthOffer, lines: &[&str]) -> Vec<u16> {
    let mut driver = Driver::new(100);
    driver.offer_auth(offer);
    driver.feed(b"EHLO c.test\r\n");
    let seen = driver.out.len();
    for line in lines {
        driver.feed(format!("{line}\r\n").as_bytes());
    }
    let text = String::from_utf8(driver.out[seen..].to_vec()).expect("replies are text");
    text.lines().map(|line| line[..3].parse().expect("a code")).collect()
}

fn plain(user: &str, password: &str) -> String {
    BASE64.encode(format!("\0{user}\0{password}"))
}

#[test]
fn mechanisms_are_announced_where_they_can_be_used() {
    for (offer, want) in [
        (AuthOffer::None, None),
        (AuthOffer::AfterTls, None),
        (AuthOffer::Passwords, Some("AUTH SCRAM-SHA-256 PLAIN LOGIN\r\n")),
        (AuthOffer::PasswordsAndCertificate, Some("AUTH EXTERNAL SCRAM-SHA-256 PLAIN LOGIN\r\n")),
    ] {
        let mut driver = Driver::new(100);
        driver.offer_auth(offer);
        driver.feed(b"EHLO c.test\r\n");
        let text = String::from_utf8_lossy(&driver.out).into_owned();
        assert_eq!(text.find("AUTH").map(|at| &text[at..]), want, "{offer:?}");
    }
}

#[test]
fn a_user_logs_in_once_by_each_mechanism() {
    let right = plain("user", "pencil");
    let check = |lines: &[&str], want: &[u16]| {
        assert_eq!(codes(AuthOffer::PasswordsAndCertificate, lines), want, "{lines:?}");
    };
    check(&[&format!("AUTH PLAIN {right}")], &[235]);
    check(&["auth plain", &right, &format!("AUTH PLAIN {right}")], &[334, 235, 503]);
    check(&[&format!("AUTH PLAIN {}", plain("user", "pen"))], &[535]);
    check(&["AUTH LOGIN", "dXNlcg==", "cGVuY2ls"], &[334, 334, 235]);
    check(&["AUTH LOGIN dXNlcg==", "cGVu"], &[334, 535]);
    check(&["AUTH EXTERNAL ="], &[235]);
    check(&["AUTH EXTERNAL", "dXNlcg=="], &[334, 235]);
}

#[test]
fn what_is_no_login_is_told_so_and_leaves_the_session_as_it_was() {
    let right = format!("AUTH PLAIN {}", plain("user", "pencil"));
    let check = |offer, lines: &[&str], want: &[u16]| assert_eq!(codes(offer, lines), want, "{lines:?}");
    check(AuthOffer::None, &[&right], &[502]);
    check(AuthOffer::AfterTls, &[&right], &[538]);
    check(AuthOffer::Passwords, &["AUTH EXTERNAL ="], &[504]);
    check(AuthOffer::Passwords, &["AUTH CRAM-MD5", "AUTH", &right], &[504, 501, 235]);
    check(AuthOffer::Passwords, &["AUTH LOGIN", "*", "NOOP", &right], &[334, 501, 250, 235]);
    check(AuthOffer::Passwords, &["AUTH PLAIN ???", "AUTH PLAIN AAAA", &right], &[501, 501, 235]);
    check(
        AuthOffer::Passwords,
        &["MAIL FROM:<a@b.test> AUTH=<>", "RSET", "MAIL FROM:<a@b.test> AUTH=a@b"],
        &[250, 250, 250],
    );
    check(AuthOffer::Passwords, &["MAIL FROM:<a@b.test>", &right], &[250, 503]);
    // A response is no command, whatever it looks like.
    check(AuthOffer::Passwords, &["AUTH LOGIN", "QUIT !", "NOOP"], &[334, 501, 250]);
}

#[test]
fn a_guesser_is_sent_away_after_as_many_errors_as_anybody() {
    let wrong = format!("AUTH PLAIN {}", plain("user", "guess"));
    let lines = vec![&*wrong; 30];
    let codes = codes(AuthOffer::Passwords, &lines);
    assert_eq!((codes.len(), codes[19], codes[20]), (21, 535, 421));
}

#[test]
fn scram_proves_both_sides_to_each_other() {
    let mut driver = Driver::new(100);
    driver.offer_auth(AuthOffer::Passwords);
    driver.feed(b"EHLO c.test\r\n");
    let bare = "n=user,r=abc";
    let mut say = |line: String| {
        let seen = driver.out.len();
        driver.feed(format!("{line}\r\n").as_bytes());
        let reply = String::from_utf8(driver.out[seen..].to_vec()).expect("text");
        let (code, rest) = reply.trim_end().split_once(' ').expect("a reply");
        (code.to_owned(), String::from_utf8(BASE64.decode(rest).unwrap_or_default()).unwrap_or_default())
    };
    let (code, first) = say(format!("AUTH SCRAM-SHA-256 {}", BASE64.encode(format!("n,,{bare}"))));
    assert_eq!(code, "334");
    // The client's side, RFC 5802 §3.
    let mut salted = [0; 32];
    let rounds = std::num::NonZeroU32::new(4096).expect("not zero");
    ring::pbkdf2::derive(ring::pbkdf2::PBKDF2_HMAC_SHA256, rounds, b"salt", b"pencil", &mut salted);
    let nonce = first.split(',').next().expect("a nonce");
    let without_proof = format!("c=biws,{nonce}");
    let said = format!("{bare},{first},{without_proof}");
    let client_key = hmac_sha256(&salted, b"Client Key");
    let signature = hmac_sha256(&sha256(&client_key), said.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect();
    let (code, last) = say(BASE64.encode(format!("{without_proof},p={}", BASE64.encode(proof))));
    assert_eq!(code, "334");
    let server = hmac_sha256(&hmac_sha256(&salted, b"Server Key"), said.as_bytes());
    assert_eq!(last, format!("v={}", BASE64.encode(server)));
    assert_eq!(say(String::new()).0, "235");
}
