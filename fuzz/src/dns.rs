//! Any answers of the DNS: a path has hosts with names and addresses that mail may be sent to, within the caps, and the same
//! answers lead to the same path.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ringpost::control::path_map::{
    ADDRESSES_MAX, AddressRule, Asked, Decision, Exchanges, HOSTS_MAX, Missing, PathMap, Resolved, exchanges,
};
use ringpost::routing::site::Sites;
use ringpost::routing::{PathKind, PathLimits, Security, Target, is_host_name};

/// Takes bytes off the input; zero when there are none.
struct Tape<'a>(&'a [u8]);

impl<'a> Tape<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn address(&mut self) -> IpAddr {
        let wide = self.byte() & 1 == 1;
        let mut octets = [0; 16];
        let taken = self.take(if wide { 16 } else { 4 });
        octets[..taken.len()].copy_from_slice(taken);
        let [a, b, c, d, ..] = octets;
        if wide { Ipv6Addr::from(octets).into() } else { Ipv4Addr::new(a, b, c, d).into() }
    }

    fn name(&mut self) -> String {
        let bytes = usize::from(self.byte() % 80);
        String::from_utf8_lossy(self.take(bytes)).into_owned()
    }

    fn addresses(&mut self) -> Result<Vec<IpAddr>, Missing> {
        match self.byte() {
            0 => Err(Missing::Name),
            1 => Err(Missing::Record),
            2 => Err(Missing::Unknown(self.name())),
            many => Ok((0..many % 12).map(|_| self.address()).collect()),
        }
    }
}

fn decide(paths: &mut PathMap, hosts: &[Resolved], rule: AddressRule) -> Option<(u32, u32)> {
    let asked = Asked { domain: "example.test", target: &Target::Mx, pool: Arc::default() };
    let spec = match paths.decide(&asked, hosts.to_vec(), rule) {
        Decision::Path { spec, .. } => spec,
        Decision::Refused(reply) => {
            assert_eq!(reply.enhanced.0, 5, "{reply:?}");
            return None;
        }
        Decision::Delayed(reply) => {
            assert_eq!(reply.enhanced.0, 4, "{reply:?}");
            return None;
        }
    };
    let PathKind::Smtp { hosts: taken } = &spec.kind else { panic!("MX hosts lead to {:?}", spec.kind) };
    assert!(!taken.is_empty() && taken.len() <= HOSTS_MAX, "{} hosts", taken.len());
    assert!(!spec.name.contains(char::is_control), "{:?}", spec.name);
    for host in taken {
        assert!((1..=ADDRESSES_MAX).contains(&host.addresses.len()), "{host:?}");
        assert!(host.addresses.iter().all(|address| rule.allows(*address)), "{host:?}");
        // What stands in logs, metrics and the handshake is a name and nothing else.
        assert!(rule == AddressRule::Any || is_host_name(&host.name), "{host:?}");
    }
    Some((spec.id.0, spec.version))
}

/// Records and addresses off a tape.
pub fn check(bytes: &[u8]) {
    let mut tape = Tape(bytes);
    let limits = PathLimits {
        connections: 1,
        messages_per_connection: 1,
        recipients_per_transaction: 1,
        window: 1,
        idle: Duration::ZERO,
        connection_rate: None,
        message_rate: None,
        security: Security::default(),
    };
    let mut paths = PathMap::new(Sites::new(limits, &[]));
    for _ in 0..4 {
        let records = (0..tape.byte() % 40).map(|_| (u16::from(tape.byte()), tape.name())).collect();
        let Exchanges::Hosts(hosts) = exchanges("example.test", records) else { continue };
        assert!(!hosts.is_empty() && hosts.len() <= HOSTS_MAX, "{} hosts", hosts.len());
        assert!(hosts.is_sorted(), "by preference: {hosts:?}");
        let resolved: Vec<Resolved> = hosts
            .into_iter()
            .map(|(preference, name)| Resolved { preference, name, port: 25, addresses: tape.addresses() })
            .collect();
        let first = decide(&mut paths, &resolved, AddressRule::Public);
        let again = decide(&mut paths, &resolved, AddressRule::Public);
        assert_eq!(first, again, "the same answers, another path");
    }
}
