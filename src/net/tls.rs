//! TLS in both directions, by rustls. A full handshake costs its executor some hundred µs of CPU.
//!
//! `server` chooses the certificate by the name that the client wants; `client` judges the certificates of remotes.

mod client;
mod server;

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

pub use client::{ClientTls, Trust};
pub use server::{Certificates, ServerTls, Tickets};

/// Why TLS could not be set up. Each names the file and what it must hold.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read.
    #[error("{path}: {reason}; a PEM file with {wanted} is needed")]
    File {
        /// The file.
        path: String,
        /// How it failed.
        reason: String,
        /// What should be in it.
        wanted: &'static str,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate for {hostname}: {reason}")]
    Make {
        /// For whom.
        hostname: String,
        /// Why.
        reason: String,
    },
    /// The two do not fit together, or rustls does not support them.
    #[error("certificate {certificate} with key {key}: {reason}")]
    Pair {
        /// Certificate file.
        certificate: String,
        /// Key file.
        key: String,
        /// What rustls says.
        reason: String,
    },
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn load_pair(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let file_error = |path: &Path, reason: String, wanted| TlsError::File {
        path: path.display().to_string(),
        reason,
        wanted,
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|error| file_error(certificate, error.to_string(), "a certificate chain"))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| file_error(key, error.to_string(), "a private key"))?;
    let pair = CertifiedKey::from_der(chain, private, &provider());
    pair.map(Arc::new).map_err(|reason| TlsError::Pair {
        certificate: certificate.display().to_string(),
        key: key.display().to_string(),
        reason: reason.to_string(),
    })
}
