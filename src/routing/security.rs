//! PURE. How safe the way to a path's hosts must be, and who we say we are there.

use super::Target;

/// What encryption a path asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TlsPolicy {
    /// None, whatever the remote offers.
    Off,
    /// Where the remote offers it and can do it, with any certificate; else in the clear (RFC 7435).
    #[default]
    Opportunistic,
    /// Never in the clear, with any certificate.
    Required,
    /// Never in the clear, and only with a certificate that the system's trust store believes for the host's name.
    Verified,
}

impl TlsPolicy {
    /// This policy, or the weakest one that encrypts.
    pub fn at_least_required(self) -> Self {
        if self.falls_back() { TlsPolicy::Required } else { self }
    }

    /// Whether a connection may go on in the clear when encryption is not to be had.
    pub fn falls_back(self) -> bool {
        matches!(self, TlsPolicy::Off | TlsPolicy::Opportunistic)
    }
}

/// How a path's hosts are known, and spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Way {
    /// By MX records, which nobody has signed.
    #[default]
    Mx,
    /// By the operator.
    Named,
    /// Likewise, with TLS from the first byte on.
    NamedTls,
}

impl Way {
    /// That of a route.
    pub fn of(target: &Target) -> Self {
        match target {
            Target::Smtp { implicit_tls: true, .. } => Way::NamedTls,
            Target::Smtp { .. } => Way::Named,
            _ => Way::Mx,
        }
    }
}

/// The safety of a path. Files and secrets stay with the sites that name them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// What encryption it asks for.
    pub tls: TlsPolicy,
    /// How its hosts are known.
    pub way: Way,
    /// The site, by its place in the file, whose client certificate is shown to remotes that ask for one.
    pub shows: Option<usize>,
    /// The site whose user logs in.
    pub logs_in: Option<usize>,
}
