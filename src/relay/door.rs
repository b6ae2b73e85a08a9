//! What the door is made of beyond the configuration: certificates and users, read from files at the start and again when
//! told so.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StartError;
use super::roles;
use crate::config::{Config, Listener, ListenerKind};
use crate::inbound::listener::Listeners;
use crate::net::tls::{Certificates, ServerTls, Tickets, TlsError};
use crate::users::Users;

/// Certificates and users of one reading.
#[derive(Clone, Default)]
pub struct Door {
    /// By the listener's index; empty, and there is no TLS.
    tls: Vec<ServerTls>,
    /// Who may log in.
    users: Option<Arc<Users>>,
}

impl Door {
    /// The policies of all listeners.
    pub fn listeners(&self, config: &Config) -> Listeners {
        let policies = config.listeners().into_iter().enumerate();
        let policy =
            |(nth, listener)| roles::policy_of(config, listener, self.tls.get(nth), self.users.clone());
        Listeners::new(policies.map(policy).collect())
    }
}

/// Reads the door's files, and keeps what must outlive a reading.
pub struct DoorKeeper {
    config: Arc<Config>,
    /// By the listener's index.
    tickets: Vec<Tickets>,
    /// Chains and keys, the first for clients that ask for no name we have.
    pairs: Vec<(PathBuf, PathBuf)>,
    made: Option<String>,
}

impl DoorKeeper {
    /// Reads what there is, so that errors come before anything is touched.
    ///
    /// # Errors
    /// With what is wrong in which file.
    pub fn new(config: Arc<Config>) -> Result<Self, StartError> {
        let tickets: io::Result<Vec<_>> = config.listeners().iter().map(|_| Tickets::new()).collect();
        let tickets = tickets.map_err(super::system("cannot make keys for TLS tickets"))?;
        let smtp = &config.smtp;
        let first = (!smtp.tls_certificate.as_os_str().is_empty())
            .then(|| (smtp.tls_certificate.clone(), smtp.tls_key.clone()));
        let further = config.certificates.iter().map(|pair| (pair.chain.clone(), pair.key.clone()));
        let pairs: Vec<_> = first.into_iter().chain(further).collect();
        let keeper = Self { config, tickets, pairs, made: None };
        if keeper.pairs.is_empty() {
            load_users(&keeper.config)?;
        } else {
            keeper.read()?;
        }
        Ok(keeper)
    }

    /// Makes a certificate if none is configured and none was made before; then reads everything.
    ///
    /// # Errors
    /// When it cannot be made or kept, and as [`Self::read`].
    pub fn complete(&mut self) -> Result<Door, StartError> {
        if self.pairs.is_empty() {
            let (pair, is_new) = own_certificate(&self.config)?;
            let when = if is_new { "made now" } else { "made at an earlier start" };
            self.made = Some(format!("self-signed, {when}: {}", pair.0.display()));
            self.pairs.push(pair);
        }
        self.read()
    }

    /// What to say of a certificate that was made here.
    pub fn made(&self) -> Option<&str> {
        self.made.as_deref()
    }

    /// Reads certificates and users; there is a certificate.
    ///
    /// # Errors
    /// With what is wrong in which file.
    pub fn read(&self) -> Result<Door, StartError> {
        let pairs: Vec<_> = self.pairs.iter().map(|(chain, key)| (chain.as_path(), key.as_path())).collect();
        let certificates = Arc::new(Certificates::load(&pairs)?);
        let users = load_users(&self.config)?;
        let by_certificate = users.as_ref().is_some_and(|users| users.have_certificates());
        let listeners = self.config.listeners();
        let server = |(listener, tickets): (&Listener, &Tickets)| {
            let logs_in = by_certificate && listener.kind != ListenerKind::Mx;
            ServerTls::new(certificates.clone(), tickets, logs_in || !listener.relay_certificates.is_empty())
        };
        Ok(Door { tls: listeners.iter().zip(&self.tickets).map(server).collect(), users })
    }
}

/// The users of the configured file.
fn load_users(config: &Config) -> Result<Option<Arc<Users>>, StartError> {
    let path = &config.auth.users_file;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let wrong = |what: &dyn std::fmt::Display| format!("users file {}: {what}", path.display());
    let text = fs::read_to_string(path).map_err(|error| StartError::Users(vec![wrong(&error)]))?;
    let users = Users::parse(&text)
        .map_err(|faults| StartError::Users(faults.iter().map(|fault| wrong(fault)).collect()))?;
    Ok(Some(Arc::new(users)))
}

/// The certificate beside the spool, and whether it had to be made.
fn own_certificate(config: &Config) -> Result<((PathBuf, PathBuf), bool), StartError> {
    let mut place = config.spool.directory.components().collect::<PathBuf>().into_os_string();
    place.push(".tls");
    let place = PathBuf::from(place);
    let pair = (place.join("certificate.pem"), place.join("key.pem"));
    if pair.0.exists() && pair.1.exists() {
        return Ok((pair, false));
    }
    let hostname = config.smtp.hostname.clone();
    let fail = |reason: String| TlsError::Make { hostname: hostname.clone(), reason };
    let made = rcgen::generate_simple_self_signed(vec![hostname.clone()])
        .map_err(|error| fail(error.to_string()))?;
    let write = || -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&place) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // The key first: a certificate alone is made anew.
        private_file(&pair.1, &made.signing_key.serialize_pem())?;
        private_file(&pair.0, &made.cert.pem())
    };
    write().map_err(|error| {
        let place = place.display();
        fail(format!("{place}: {error}; set smtp.tls_certificate and smtp.tls_key to one that you have"))
    })?;
    Ok((pair, true))
}

fn private_file(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
