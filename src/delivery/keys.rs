//! What connections show to remotes and judge them by: the system's trust store, and the files that sites name. Read once,
//! at the start.

use std::sync::Arc;

use crate::net::tls::{ClientTls, TlsError, Trust};
use crate::routing::site::Site;
use crate::routing::{Security, TlsPolicy};

/// Everything there is; each executor clones it.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    /// Without a certificate of our own.
    plain: Tls,
    /// With that of a site, by its place in the file.
    shown: Vec<Option<Tls>>,
}

/// One way to shake hands for each policy.
struct Tls {
    encrypting: ClientTls,
    verifying: ClientTls,
}

impl Keys {
    /// Reads the files of `sites`, given in the order of the configuration.
    ///
    /// # Errors
    /// When one cannot be read, or does not hold what it should.
    pub fn read(sites: &[Site]) -> Result<Self, TlsError> {
        Self::with(&Trust::of_system(), sites)
    }

    /// Nothing is shown, and nobody trusted.
    ///
    /// # Panics
    /// Never: no file is read.
    pub fn none() -> Self {
        Self::with(&Trust::default(), &[]).expect("no file is read")
    }

    fn with(trust: &Trust, sites: &[Site]) -> Result<Self, TlsError> {
        let tls = |site: Option<&Site>| {
            let shows = site.map(|site| (&*site.rules.client_certificate, &*site.rules.client_key));
            let encrypting = ClientTls::encrypting(shows)?;
            Ok(Tls { encrypting, verifying: ClientTls::verifying(trust, shows)? })
        };
        let shows = |site: &&Site| !site.rules.client_certificate.as_os_str().is_empty();
        let shown = sites.iter().map(|site| Some(site).filter(shows).map(|site| tls(Some(site))).transpose());
        let shown = shown.collect::<Result<_, TlsError>>()?;
        Ok(Self(Arc::new(Inner { plain: tls(None)?, shown })))
    }

    /// How to shake hands on a path; `None` leaves its mail in the clear.
    pub fn tls(&self, security: Security) -> Option<&ClientTls> {
        let shown = security.shows.and_then(|site| self.0.shown.get(site)?.as_ref());
        let tls = shown.unwrap_or(&self.0.plain);
        match security.tls {
            TlsPolicy::Off => None,
            TlsPolicy::Opportunistic | TlsPolicy::Required => Some(&tls.encrypting),
            TlsPolicy::Verified => Some(&tls.verifying),
        }
    }
}
