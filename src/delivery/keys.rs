//! What connections show to remotes and judge them by: the system's trust store, and the files that sites name. Read once,
//! at the start.

use std::fs;
use std::sync::Arc;

use crate::net::tls::{ClientTls, TlsError, Trust};
use crate::protocol::sasl::prove::Credentials;
use crate::routing::site::Site;
use crate::routing::{Security, TlsPolicy};

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A file with a password.
    #[error(
        "site {site}: auth_password_file {path}: {reason}; a file with nothing but the password is needed"
    )]
    Password {
        /// Whose it is.
        site: String,
        /// The file.
        path: String,
        /// How it failed.
        reason: String,
    },
}

/// Everything there is; each executor clones it.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    trust: Trust,
    /// Without a certificate of our own.
    plain: Tls,
    /// With that of a site, by its place in the file.
    shown: Vec<Option<Tls>>,
    /// Who logs in, by the site's place in the file.
    logins: Vec<Option<Credentials>>,
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
    pub fn read(sites: &[Site]) -> Result<Self, KeysError> {
        Self::with(&Trust::of_system(), sites)
    }

    /// Nothing is shown, and nobody trusted.
    ///
    /// # Panics
    /// Never: no file is read.
    pub fn none() -> Self {
        Self::with(&Trust::default(), &[]).expect("no file is read")
    }

    fn with(trust: &Trust, sites: &[Site]) -> Result<Self, KeysError> {
        let tls = |site: Option<&Site>| {
            let shows = site.map(|site| (&*site.rules.client_certificate, &*site.rules.client_key));
            let encrypting = ClientTls::encrypting(shows)?;
            Ok::<_, TlsError>(Tls { encrypting, verifying: ClientTls::verifying(trust, shows)? })
        };
        let shows = |site: &&Site| !site.rules.client_certificate.as_os_str().is_empty();
        let shown = sites.iter().map(|site| Some(site).filter(shows).map(|site| tls(Some(site))).transpose());
        let shown = shown.collect::<Result<_, TlsError>>()?;
        let logins = sites.iter().map(login).collect::<Result<_, KeysError>>()?;
        Ok(Self(Arc::new(Inner { trust: trust.clone(), plain: tls(None)?, shown, logins })))
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

    /// Who logs in on a path, if anybody does.
    pub fn login(&self, security: Security) -> Option<&Credentials> {
        self.0.logins.get(security.logs_in?)?.as_ref()
    }

    /// What certificates are judged by.
    pub fn trust(&self) -> &Trust {
        &self.0.trust
    }
}

fn login(site: &Site) -> Result<Option<Credentials>, KeysError> {
    let (user, path) = (&site.rules.auth_user, &site.rules.auth_password_file);
    if user.is_empty() {
        return Ok(None);
    }
    let wrong = |reason: String| KeysError::Password {
        site: site.name.clone(),
        path: path.display().to_string(),
        reason,
    };
    let mut password = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    // Editors end a file with a line end, which no password has.
    let end = password.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
    password.truncate(end);
    if password.is_empty() || password.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
        return Err(wrong("it is empty, or has more than one line".to_owned()));
    }
    Ok(Some(Credentials { user: user.as_str().into(), password: password.into() }))
}
