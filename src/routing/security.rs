//! PURE. How safe the way to a path's hosts must be, and who we say we are there.

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
    /// Whether a connection may go on in the clear when encryption is not to be had.
    pub fn falls_back(self) -> bool {
        matches!(self, TlsPolicy::Off | TlsPolicy::Opportunistic)
    }
}

/// The safety of a path. Files and secrets stay with the sites that name them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// What encryption it asks for.
    pub tls: TlsPolicy,
    /// The site, by its place in the file, whose client certificate is shown to remotes that ask for one.
    pub shows: Option<usize>,
    /// The site whose user logs in.
    pub logs_in: Option<usize>,
}
