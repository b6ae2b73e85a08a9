//! The client's side: whether a remote's certificate is looked at, and by what it is judged.

use std::io;
use std::path::Path;
use std::sync::Arc;

use futures_rustls::{TlsConnector, client};
use glommio::net::TcpStream;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{TlsError, load_pair, provider};

/// The authorities that this system trusts: `SSL_CERT_FILE` and `SSL_CERT_DIR` if they are set, else where the
/// distribution keeps them. Read once, each executor clones it.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// `None` where no authority is trusted: then no certificate is.
    verifier: Option<Arc<WebPkiServerVerifier>>,
}

impl Trust {
    /// Reads them. Files that cannot be read are left out: a certificate that needed them will not be believed.
    pub fn of_system() -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        Self { verifier: verifier.ok() }
    }

    /// Whether a chain, own certificate first, is good now for the host `name`.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub(in crate::net) fn judge(&self, chain: &[CertificateDer<'_>], name: &str) -> io::Result<()> {
        let Some((own, others)) = chain.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the remote showed no certificate"));
        };
        self.verify(own, others, &server_name(name)?, UnixTime::now()).map_err(io::Error::other)
    }

    fn verify(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let nobody = || rustls::Error::General("this system trusts no certificate authority".to_owned());
        // No stapled answer is asked for: revocation is not looked at.
        self.verifier.as_ref().ok_or_else(nobody)?.verify_server_cert(own, others, name, &[], now).map(|_| ())
    }
}

/// What a client needs to shake hands.
#[derive(Clone)]
pub struct ClientTls(TlsConnector);

impl ClientTls {
    /// Takes any certificate: encrypts against listeners (RFC 7435), since a server that offers none we could verify would
    /// otherwise get the mail in the clear. `shows` is our own certificate chain and its key, for remotes that ask.
    ///
    /// # Errors
    /// When our own cannot be read.
    pub fn encrypting(shows: Option<(&Path, &Path)>) -> Result<Self, TlsError> {
        Self::new(None, shows)
    }

    /// Takes a certificate only if `trust` judges it good for the remote's name.
    ///
    /// # Errors
    /// As above.
    pub fn verifying(trust: &Trust, shows: Option<(&Path, &Path)>) -> Result<Self, TlsError> {
        Self::new(Some(trust.clone()), shows)
    }

    fn new(trust: Option<Trust>, shows: Option<(&Path, &Path)>) -> Result<Self, TlsError> {
        let provider = provider();
        let verifier = Arc::new(Verifier { provider: provider.clone(), trust });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has suites for both versions")
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match shows {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let own = Arc::new(rustls::sign::SingleCertAndKey::from(load_pair(chain, key)?));
                config.with_client_cert_resolver(own)
            }
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    pub(in crate::net) async fn connect(
        &self,
        tcp: TcpStream,
        name: &str,
    ) -> io::Result<client::TlsStream<TcpStream>> {
        self.0.connect(server_name(name)?, tcp).await
    }
}

fn server_name(name: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the host's name cannot be sent in TLS"))
}

/// Checks that the certificate's key signed this handshake, and the certificate itself if there is trust to do it by.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    trust: Option<Trust>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trust) = &self.trust {
            trust.verify(own, others, name, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
