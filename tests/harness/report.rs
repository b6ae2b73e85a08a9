//! Reads a delivery status notification (RFC 3464) as a strict program would, and has Python's `email` read it too where
//! there is a Python.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use super::{has_program, skip};

/// A header or group of fields: names in lower case, values unfolded.
pub type Fields = BTreeMap<String, String>;

/// A notification.
#[derive(Debug)]
pub struct Report {
    pub header: Fields,
    /// The part for people.
    pub text: String,
    pub message_fields: Fields,
    pub recipient_fields: Vec<Fields>,
    /// Type of the third part, and its content.
    pub returned: (String, String),
}

impl Report {
    /// Reads one; panics with what is wrong.
    pub fn parse(content: &[u8]) -> Self {
        let text = std::str::from_utf8(content).expect("a notification is UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").expect("a header and a body");
        let header = fields(head);
        let kind = &header["content-type"];
        assert!(kind.starts_with("multipart/report"), "{kind}");
        assert!(
            kind.contains("report-type=\"delivery-status\"") || kind.contains("report-type=delivery-status"),
            "{kind}"
        );
        let boundary = kind.split_once("boundary=").expect("a boundary").1.trim_matches('"');
        let boundary = boundary.split(['"', ';']).next().expect("a boundary").to_owned();
        let closed = body.split_once(&format!("\r\n--{boundary}--")).expect("a closing boundary").0;
        let whole = format!("\r\n{closed}");
        let parts: Vec<_> = whole.split(&format!("\r\n--{boundary}\r\n")).skip(1).map(part).collect();
        assert_eq!(parts.len(), 3, "three parts: {text}");
        assert!(parts[0].0["content-type"].starts_with("text/plain"), "{:?}", parts[0].0);
        assert!(parts[1].0["content-type"].contains("delivery-status"), "{:?}", parts[1].0);
        let groups = parts[1].1.trim_end().split("\r\n\r\n").map(fields);
        let mut groups: Vec<Fields> = groups.filter(|fields| !fields.is_empty()).collect();
        assert!(groups.len() >= 2, "fields of the message and of a recipient: {}", parts[1].1);
        let message_fields = groups.remove(0);
        let report = Self {
            header,
            text: parts[0].1.clone(),
            message_fields,
            recipient_fields: groups,
            returned: (parts[2].0["content-type"].clone(), parts[2].1.clone()),
        };
        report.check(content);
        report
    }

    fn check(&self, content: &[u8]) {
        assert!(self.message_fields["reporting-mta"].starts_with("dns; "), "{self:?}");
        for fields in &self.recipient_fields {
            let classes: &[&str] = match &*fields["action"] {
                "failed" => &["5", "4"],
                "delayed" => &["4"],
                "relayed" | "delivered" => &["2"],
                _ => &[],
            };
            let digits: Vec<_> = fields["status"].split('.').collect();
            assert!(digits.len() == 3 && classes.contains(&digits[0]), "{fields:?}");
            assert!(fields["final-recipient"].contains(';'), "{fields:?}");
        }
        let named = self.header.contains_key("message-id") && self.header.contains_key("date");
        assert!(named && self.header.contains_key("subject"), "{:?}", self.header);
        self.check_with_python(content);
    }

    fn check_with_python(&self, content: &[u8]) {
        if !has_program("python3") {
            return skip("no python3 to read a notification");
        }
        let script = "import sys, email, email.policy\n\
            m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)\n\
            assert m.get_content_type() == 'multipart/report', m.get_content_type()\n\
            parts = list(m.iter_parts())\n\
            assert len(parts) == 3, parts\n\
            groups = parts[1].get_payload()\n\
            print(groups[0]['Reporting-MTA'])\n\
            for group in groups[1:]: print(group['Final-Recipient'], group['Action'], group['Status'])\n\
            assert not m.defects and not any(p.defects for p in m.walk()), [p.defects for p in m.walk()]\n";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python3 can be run");
        child.stdin.take().expect("a pipe").write_all(content).expect("python reads");
        let output = child.wait_with_output().expect("python ends");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(said.lines().count(), 1 + self.recipient_fields.len(), "{said}");
    }
}

/// A part's header and content.
fn part(text: &str) -> (Fields, String) {
    let (head, content) = text.split_once("\r\n\r\n").expect("a part's header");
    (fields(head), content.to_owned())
}

fn fields(text: &str) -> Fields {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in text.split("\r\n").filter(|line| !line.is_empty()) {
        match (line.strip_prefix([' ', '\t']), found.last_mut()) {
            (Some(more), Some((_, value))) => {
                value.push(' ');
                value.push_str(more.trim());
            }
            _ => {
                let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no field: {line}"));
                found.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }
    found.into_iter().collect()
}
