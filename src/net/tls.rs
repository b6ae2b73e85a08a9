//! TLS in both directions, by rustls. A full handshake costs its executor some hundred µs of CPU.
//!
//! `server` chooses the certificate by the name that the client wants; this file has what sending needs.

mod server;

use std::io;
use std::sync::Arc;

use futures_rustls::{TlsConnector, client};
use glommio::net::TcpStream;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

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

/// What a client needs to shake hands.
#[derive(Clone)]
pub struct ClientTls(TlsConnector);

impl ClientTls {
    /// Opportunistic TLS (RFC 7435): encrypts against listeners, and takes any certificate, since a server that offers none
    /// we could verify would otherwise get the mail in the clear.
    pub fn opportunistic() -> Self {
        let provider = provider();
        let verifier = Arc::new(AnyCertificate(provider.clone()));
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has suites for both versions")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Self(TlsConnector::from(Arc::new(config)))
    }

    pub(super) async fn connect(
        &self,
        tcp: TcpStream,
        name: &str,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, "the host's name cannot be sent in TLS")
        })?;
        self.0.connect(name, tcp).await
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Takes any certificate, but checks that its key signed this handshake.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
