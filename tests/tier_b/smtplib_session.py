#!/usr/bin/env python3
"""Python's smtplib → relay → a sink that keeps each byte, and back: a DSN of a refused recipient, read with Python's email.

Several messages in one session, SMTPUTF8, 8BITMIME, a large message, RSET, VRFY, a source that breaks off.
"""

import email
import email.message
import email.policy
import smtplib
import socket

import lab as tier
from sink import Sink

SENDER = "sender@back.invalid"
REFUSAL = "550 5.1.1 <nobody@there.invalid>: nobody of that name here"


def row(lab):
    sink = Sink(lab.port(), refuse={"nobody": REFUSAL, "später": "550 5.1.1 kein Briefkasten für später"})
    relay = lab.relay(routes={"*": f"smtp://127.0.0.1:{sink.port}"})
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
        for feature in ("pipelining", "size", "8bitmime", "smtputf8", "chunking", "enhancedstatuscodes", "dsn"):
            tier.check(client.ehlo_resp is not None or client.ehlo()[0] == 250, "EHLO is refused")
            tier.check(client.has_extn(feature), f"{feature.upper()} is not offered")
        for check in (several, after_reset, utf8, large, parameters):
            check(lab, client, sink)
        tier.same(client.verify("anybody@there.invalid")[0], 252, "reply to VRFY")
        bounce(client, sink)
        bounce_in_utf8(client, sink)
    broken_off(relay, sink)
    too_large(relay)
    tier.wait_for(lambda: not relay.queued(), 10, "an empty queue")
    tier.same(sink.faults, [], "faults that the sink saw")
    relay.stop()
    return f"{sink.count()} messages as sent, DSNs parse and name what was refused"


def arrived(sink, to, count=1):
    """The messages for `to`."""
    tier.wait_for(lambda: len(sink.to(to)) >= count, 20, f"{count} messages to {to}")
    tier.same(len(sink.to(to)), count, f"messages to {to}")
    return sink.to(to)


def several(lab, client, sink):
    """Twenty messages in one session, none mixed with another."""
    bodies = [f"Subject: {number}\r\n\r\nmessage {number}\r\n.\r\n..\r\n".encode() for number in range(20)]
    for body in bodies:
        client.sendmail(SENDER, ["many@there.invalid"], body)
    got = [mail.without_trace() for mail in arrived(sink, "many@there.invalid", 20)]
    tier.same(sorted(got), sorted(bodies), "the twenty messages")


def after_reset(lab, client, sink):
    """A transaction given up leaves nothing to the next."""
    client.mail("someone.else@back.invalid")
    client.rcpt("not.meant@there.invalid")
    client.rset()
    client.sendmail(SENDER, ["reset@there.invalid"], b"Subject: reset\r\n\r\nafter RSET\r\n")
    mail = arrived(sink, "reset@there.invalid")[0]
    tier.same((mail.sender, mail.recipients), (SENDER, ["reset@there.invalid"]), "envelope after RSET")


def utf8(lab, client, sink):
    """Addresses and headers beyond ASCII; the extension goes along to the next hop."""
    message = email.message.EmailMessage(policy=email.policy.SMTPUTF8)
    message["Subject"], message["From"], message["To"] = "Grüße", "jürgen@bücher.invalid", "käthe@bücher.invalid"
    message.set_content("日本語\n", cte="8bit")
    client.send_message(message)
    mail = arrived(sink, "käthe@bücher.invalid")[0]
    tier.same(mail.sender, "jürgen@bücher.invalid", "sender")
    tier.check("SMTPUTF8" in mail.sender_parameters.upper(), f"no SMTPUTF8 in MAIL: {mail.sender_parameters!r}")
    tier.same(mail.without_trace(), message.as_bytes(policy=email.policy.SMTPUTF8), "message")
    tier.check(b"UTF8SMTP" in mail.raw.split(b"\r\n\r\n")[0], "Received does not say UTF8SMTP (RFC 6531, 3.7.3)")


def large(lab, client, sink):
    """Longer than any buffer, with lines of all lengths; it is kept in chunks."""
    lines = [b"." * (number % 5) + b"x" * (number * 37 % 990) for number in range(lab.size(12_000, 60_000))]
    body = b"Subject: large\r\n\r\n" + b"\r\n".join(lines) + b"\r\n"
    client.sendmail(SENDER, ["large@there.invalid"], body)
    got = arrived(sink, "large@there.invalid")[0].without_trace()
    tier.check(got == body, f"the message of {len(body)} bytes arrived as one of {len(got)} that differs")


def parameters(lab, client, sink):
    """DSN parameters are handed on (RFC 3461)."""
    client.sendmail(
        SENDER, ["parameters@there.invalid"], b"Subject: p\r\n\r\np\r\n", mail_options=["RET=HDRS", "ENVID=id+3Done"],
        rcpt_options=["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;first+2Bplus@there.invalid"])
    mail = arrived(sink, "parameters@there.invalid")[0]
    for word in ("RET=HDRS", "ENVID=id+3Done"):
        tier.check(word in mail.sender_parameters, f"{word} is not in MAIL: {mail.sender_parameters!r}")
    for word in ("SUCCESS", "FAILURE", "ORCPT=rfc822;first+2Bplus@there.invalid"):
        tier.check(word in mail.recipient_parameters[0], f"{word} is not in RCPT: {mail.recipient_parameters[0]!r}")


def bounce(client, sink):
    """A recipient that the next hop refuses: the other gets the mail, the sender a DSN that a machine can read."""
    body = b"Subject: to two\r\nMessage-ID: <original@back.invalid>\r\n\r\nsecret text\r\n"
    client.sendmail(SENDER, ["somebody@there.invalid", "nobody@there.invalid"], body)
    arrived(sink, "somebody@there.invalid")
    mail = arrived(sink, SENDER)[0]
    status, recipients, original = dissect(mail)
    tier.same(len(recipients), 1, "recipients in the DSN")
    fields = recipients[0]
    tier.same(fields["Action"], "failed", "Action")
    tier.same(fields["Status"], "5.1.1", "Status")
    tier.same(fields["Final-Recipient"].replace(" ", ""), "rfc822;nobody@there.invalid", "Final-Recipient")
    tier.check("nobody of that name" in fields["Diagnostic-Code"], f"Diagnostic-Code {fields['Diagnostic-Code']!r}")
    tier.check("relay.invalid" in status["Reporting-MTA"], f"Reporting-MTA {status['Reporting-MTA']!r}")
    tier.same(original["Message-ID"], "<original@back.invalid>", "Message-ID of the original in the DSN")
    tier.check(b"secret text" not in mail.raw, "the DSN returns the body, though only headers are promised")


def bounce_in_utf8(client, sink):
    """A DSN about an address beyond ASCII (RFC 6533) still parses."""
    client.ehlo_or_helo_if_needed()
    message = email.message.EmailMessage(policy=email.policy.SMTPUTF8)
    message["Subject"], message["From"], message["To"] = "für später", "zurück@back.invalid", "später@there.invalid"
    message.set_content("text\n")
    client.send_message(message)
    mail = arrived(sink, "zurück@back.invalid")[0]
    _, recipients, _ = dissect(mail)
    tier.same(recipients[0]["Action"], "failed", "Action")
    tier.check("SMTPUTF8" in mail.sender_parameters.upper(), "the DSN to an address beyond ASCII goes without SMTPUTF8")


def dissect(mail):
    """Per-message fields, per-recipient fields and headers of the original of a DSN (RFC 3464)."""
    tier.same(mail.sender, "", "sender of the DSN")
    message = email.message_from_bytes(mail.without_trace(0), policy=email.policy.default)
    tier.same(message.defects, [], "defects that Python's email sees")
    tier.same(message.get_content_type(), "multipart/report", "Content-Type")
    tier.check(message["Auto-Submitted"] is not None, "no Auto-Submitted header (RFC 3834)")
    for name in ("From", "To", "Date", "Message-ID", "Subject"):
        tier.same(len(message.get_all(name, [])), 1, f"{name} headers of the DSN")
    text, report, original = message.iter_parts()
    tier.same(text.get_content_type(), "text/plain", "first part")
    tier.check(report.get_content_type() in ("message/delivery-status", "message/global-delivery-status"), "second part")
    tier.same(message.get_param("report-type"), report.get_content_subtype(), "report-type (RFC 6522, 3)")
    # Python parses message/delivery-status into blocks of fields, the global form into text.
    if report.get_content_type() == "message/delivery-status":
        blocks = report.get_payload()
    else:
        payload = report.get_payload(decode=True) or report.get_payload(0).as_bytes()
        texts = payload.replace(b"\r\n", b"\n").strip().split(b"\n\n")
        blocks = [email.message_from_bytes(block, policy=email.policy.default) for block in texts]
    payload = original.get_payload(decode=True)
    headers = payload.decode("utf-8") if payload else original.get_payload(0).as_string()
    return blocks[0], [block for block in blocks[1:] if block.keys()], email.message_from_string(headers)


def broken_off(relay, sink):
    """A client that goes away before the final dot leaves nothing."""
    before = sink.count()
    with socket.create_connection(("127.0.0.1", relay.port)) as client:
        client.sendall(
            b"EHLO x\r\nMAIL FROM:<a@back.invalid>\r\nRCPT TO:<cut@there.invalid>\r\nDATA\r\nSubject: cut\r\n\r\nhalf a mess")
        client.recv(4096)
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
        client.sendmail(SENDER, ["later@there.invalid"], b"Subject: later\r\n\r\nlater\r\n")
    arrived(sink, "later@there.invalid")
    tier.same(sink.to("cut@there.invalid"), [], "messages of a client that broke off")
    tier.same(sink.count(), before + 1, "messages since")


def too_large(relay):
    """SIZE beyond the limit is refused at MAIL; the session goes on."""
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
        client.ehlo()
        limit = int(client.esmtp_features["size"])
        tier.same(client.mail(SENDER, [f"SIZE={limit + 1}"])[0], 552, "reply to MAIL with a SIZE beyond the limit")
        tier.same(client.mail(SENDER, [f"SIZE={limit}"])[0], 250, "reply to MAIL with a SIZE at the limit")


if __name__ == "__main__":
    tier.run(row)
