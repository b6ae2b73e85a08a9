//! PURE. The header that a proxy writes in front of a connection: PROXY protocol, versions 1 and 2.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Read only where a proxy is expected: everywhere else it
//! is garbage from a client. What the text forbids is refused here; the crates there are take some of it (a letter instead of
//! the blank behind `PROXY`, any datagram family), and who may relay hangs on these few bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1, bytes with CR LF (§2.1).
const V1_BYTES_MAX: usize = 107;
/// First bytes of version 2 (§2.2).
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;
/// Longest header of version 2 that is read: the longest addresses, and extensions such as a client's certificate's name.
/// Must fit the receive buffer.
const V2_BYTES_MAX: usize = 4096;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client; `None` when the proxy speaks for itself (a health check), or for a client without an IP address.
    pub client: Option<SocketAddr>,
    /// Bytes of the header; behind them the client speaks.
    pub bytes: usize,
}

/// The bytes are no header, and no more of them would make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads a header at the start of `input`; `None`: more bytes are needed.
pub fn parse(input: &[u8]) -> Result<Option<Header>, Malformed> {
    if input.first() == V2_SIGNATURE.first() { version_2(input) } else { version_1(input) }
}

/// At least so many bytes are missing of a header that begins with `input`: whoever reads no more than that reads nothing of
/// what the client says. 1 at least.
pub fn least_missing(input: &[u8]) -> usize {
    let shortest = b"PROXY UNKNOWN\r\n".len();
    if input.len() < shortest {
        return shortest - input.len();
    }
    if input.first() != V2_SIGNATURE.first() {
        return if input.ends_with(b"\r") { 1 } else { 2 };
    }
    let whole = match input.get(V2_FIXED_BYTES - 2..V2_FIXED_BYTES) {
        Some(length) => V2_FIXED_BYTES + usize::from(u16::from_be_bytes([length[0], length[1]])),
        None => V2_FIXED_BYTES,
    };
    whole.saturating_sub(input.len()).max(1)
}

fn version_1(input: &[u8]) -> Result<Option<Header>, Malformed> {
    let start = b"PROXY ";
    let common = start.len().min(input.len());
    if input[..common] != start[..common] {
        return Err(Malformed);
    }
    let seen = &input[..input.len().min(V1_BYTES_MAX)];
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        return if seen.len() < V1_BYTES_MAX { Ok(None) } else { Err(Malformed) };
    };
    let line = seen[..end].strip_suffix(b"\r").ok_or(Malformed)?;
    let words = std::str::from_utf8(&line[start.len()..]).map_err(|_| Malformed)?;
    let bytes = end + 1;
    // Whatever stands behind it is to be ignored.
    if words == "UNKNOWN" || words.starts_with("UNKNOWN ") {
        return Ok(Some(Header { client: None, bytes }));
    }
    let words: Vec<&str> = words.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = words[..] else {
        return Err(Malformed);
    };
    let address = |word: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let (source, _) = (address(source).ok_or(Malformed)?, address(destination).ok_or(Malformed)?);
    let (port, _) = (port(source_port).ok_or(Malformed)?, port(destination_port).ok_or(Malformed)?);
    Ok(Some(Header { client: Some(SocketAddr::new(source, port)), bytes }))
}

/// A port in decimal, without a sign and without zeros in front.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if plain { word.parse().ok() } else { None }
}

fn version_2(input: &[u8]) -> Result<Option<Header>, Malformed> {
    let common = V2_SIGNATURE.len().min(input.len());
    if input[..common] != V2_SIGNATURE[..common] {
        return Err(Malformed);
    }
    let Some([command, family, high, low]) = input.get(V2_SIGNATURE.len()..V2_FIXED_BYTES) else {
        return Ok(None);
    };
    let bytes = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed),
    };
    if bytes > V2_BYTES_MAX {
        return Err(Malformed);
    }
    let Some(addresses) = input.get(V2_FIXED_BYTES..bytes) else { return Ok(None) };
    let client = match family {
        // The addresses of the proxy itself are to be ignored, whatever they are.
        _ if is_local => None,
        // Unspecified.
        0x00 => None,
        // TCP over IPv4: two addresses, two ports.
        0x11 => {
            let [a, b, c, d, _, _, _, _, high, low, _, _, ..] = addresses else { return Err(Malformed) };
            Some(SocketAddr::new([*a, *b, *c, *d].into(), u16::from_be_bytes([*high, *low])))
        }
        // TCP over IPv6.
        0x21 => {
            let (source, rest) = addresses.split_first_chunk::<16>().ok_or(Malformed)?;
            let (_, ports) = rest.split_first_chunk::<16>().ok_or(Malformed)?;
            let [high, low, _, _, ..] = ports else { return Err(Malformed) };
            Some(SocketAddr::new((*source).into(), u16::from_be_bytes([*high, *low])))
        }
        // A Unix socket: 108 bytes each, and no IP address.
        0x31 if addresses.len() >= 216 => None,
        // Datagrams carry no SMTP.
        _ => return Err(Malformed),
    };
    Ok(Some(Header { client, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend((payload.len() as u16).to_be_bytes());
        header.extend(payload);
        header
    }

    fn header(client: Option<&str>, bytes: usize) -> Result<Option<Header>, Malformed> {
        Ok(Some(Header { client: client.map(|text| text.parse().expect("a test address")), bytes }))
    }

    #[test]
    fn the_text_of_version_1_is_read_as_the_specification_writes_it() {
        let check = |line: &str, client: Option<&str>| {
            let with_more = format!("{line}\r\nEHLO x\r\n");
            assert_eq!(parse(with_more.as_bytes()), header(client, line.len() + 2), "{line}");
        };
        check("PROXY TCP4 192.0.2.7 198.51.100.1 56324 25", Some("192.0.2.7:56324"));
        check("PROXY TCP6 2001:db8::7 ::1 65535 0", Some("[2001:db8::7]:65535"));
        check("PROXY UNKNOWN", None);
        check("PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535", None);
        let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        check(&format!("PROXY TCP6 {long} {long} 65535 65535"), Some(&format!("[{long}]:65535")));
    }

    #[test]
    fn what_version_1_forbids_is_refused() {
        for line in [
            "PROXYxTCP4 192.0.2.7 198.51.100.1 1 2\r\n",
            "proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY  TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 \r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n",
            "PROXY TCP4 192.0.2 198.51.100.1 1 2\r\n",
            "PROXY TCP4 ::1 198.51.100.1 1 2\r\n",
            "PROXY TCP6 192.0.2.7 ::1 1 2\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "EHLO client.test\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(Malformed), "{line:?}");
        }
        assert_eq!(parse(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 93]].concat()), Err(Malformed), "no end");
    }

    #[test]
    fn the_bytes_of_version_2_are_read_as_the_specification_lays_them_out() {
        let four = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 0, 25];
        assert_eq!(parse(&v2(0x21, 0x11, &four)), header(Some("192.0.2.7:56324"), 28));
        let extended = [four.as_slice(), &[0x03, 0, 4, 1, 2, 3, 4]].concat();
        assert_eq!(parse(&v2(0x21, 0x11, &extended)), header(Some("192.0.2.7:56324"), 35));
        let mut six = [0; 36];
        (six[0], six[1], six[15], six[31], six[33], six[35]) = (0x20, 0x01, 7, 1, 9, 25);
        assert_eq!(parse(&v2(0x21, 0x21, &six)), header(Some("[2001::7]:9"), 52));
        // A health check of the proxy, with addresses and without.
        assert_eq!(parse(&v2(0x20, 0x00, &[])), header(None, 16));
        assert_eq!(parse(&v2(0x20, 0x11, &four)), header(None, 28));
        assert_eq!(parse(&v2(0x21, 0x00, &[1, 2, 3])), header(None, 19));
        assert_eq!(parse(&v2(0x21, 0x31, &[0; 216])), header(None, 232));
    }

    #[test]
    fn what_version_2_forbids_is_refused() {
        let bad = [(0x11, 0x11, 12), (0x22, 0x11, 12), (0x21, 0x11, 11), (0x21, 0x21, 35), (0x21, 0x31, 215)];
        for (command, family, length) in bad.into_iter().chain([(0x21, 0x12, 12), (0x21, 0x41, 12)]) {
            let header = v2(command, family, &vec![0; length]);
            assert_eq!(parse(&header), Err(Malformed), "{command:#x} {family:#x} {length}");
        }
        assert_eq!(parse(&v2(0x21, 0x11, &[0; 5000])), Err(Malformed), "longer than is read");
        assert_eq!(parse(b"\r\n\r\n\0\r\nQUIT\r"), Err(Malformed), "another signature");
    }

    proptest! {
        /// Whatever comes, a part of it never says more than "more", or the same.
        #[test]
        fn a_header_that_comes_in_pieces_is_the_same_header(
            kind in 0..4usize, tail in prop::collection::vec(any::<u8>(), 0..40), cut in 0..200usize
        ) {
            let mut input = match kind {
                0 => b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\r\n".to_vec(),
                1 => v2(0x21, 0x11, &[192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 0x04, 0, 25]),
                2 => b"PROXY ".to_vec(),
                _ => Vec::new(),
            };
            input.extend(tail);
            let whole = parse(&input);
            let part = parse(&input[..cut.min(input.len())]);
            prop_assert!(part == Ok(None) || part == whole, "{:?} {:?}", part, whole);
            if let Ok(Some(header)) = whole {
                prop_assert!(header.bytes <= input.len());
                prop_assert_eq!(parse(&input[..header.bytes]), whole);
                prop_assert_eq!(parse(&input[..header.bytes - 1]), Ok(None));
                // Read by what is missing at least, it ends where it ends.
                let mut read = 0;
                while parse(&input[..read]) == Ok(None) {
                    read += least_missing(&input[..read]);
                    prop_assert!(read <= header.bytes, "{} of {}", read, header.bytes);
                }
                prop_assert_eq!(read, header.bytes);
            }
        }
    }
}
