//! TLS in both directions, by rustls. A full handshake costs its executor about 600 µs of CPU.

use std::io;
use std::path::Path;
use std::sync::Arc;

use futures_rustls::{TlsAcceptor, TlsConnector, client, server};
use glommio::net::TcpStream;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};

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

/// What a server needs to shake hands. Made once; each executor clones it.
#[derive(Clone)]
pub struct ServerTls(TlsAcceptor);

impl ServerTls {
    /// TLS 1.2 and 1.3 with the chain in `certificate`, own certificate first, and its `key`, both PEM files.
    ///
    /// # Errors
    /// When a file cannot be read, or the two do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let file_error = |path: &Path, reason: String, wanted| TlsError::File {
            path: path.display().to_string(),
            reason,
            wanted,
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
        let chain =
            chain.map_err(|error| file_error(certificate, error.to_string(), "a certificate chain"))?;
        let private = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| file_error(key, error.to_string(), "a private key"))?;
        let pair_error = |reason: rustls::Error| TlsError::Pair {
            certificate: certificate.display().to_string(),
            key: key.display().to_string(),
            reason: reason.to_string(),
        };
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(pair_error)?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(pair_error)?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    pub(super) async fn accept(&self, tcp: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        self.0.accept(tcp).await
    }
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
