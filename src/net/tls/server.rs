//! The server's side: certificates by name, tickets bound to a listener, certificates of clients.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures_rustls::{TlsAcceptor, server};
use glommio::net::TcpStream;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoClientAuth, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, ServerConfig,
};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};

use super::{TlsError, load_pair, provider};

/// Certificates with their keys: the first for clients that name nobody we know, the others by the names in them.
#[derive(Debug)]
pub struct Certificates {
    default: Arc<CertifiedKey>,
    /// Lower case; `*.example.com` as it stands in the certificate.
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    /// Of PEM files: chains, own certificate first, and their keys. At least one pair.
    ///
    /// # Errors
    /// When a file cannot be read, or the two do not belong together.
    pub fn load(pairs: &[(&Path, &Path)]) -> Result<Self, TlsError> {
        let mut keys = pairs.iter().map(|(chain, key)| load_pair(chain, key));
        let default = keys.next().expect("a relay has a certificate, if it had to make one")?;
        let mut by_name = HashMap::new();
        add_names(&mut by_name, &default);
        for key in keys {
            add_names(&mut by_name, &key?);
        }
        Ok(Self { default, by_name })
    }

    fn named(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let wide = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        self.by_name.get(&name).or_else(wide)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.named(name));
        Some(named.unwrap_or(&self.default).clone())
    }
}

/// A name that two certificates have belongs to the first.
fn add_names(by_name: &mut HashMap<String, Arc<CertifiedKey>>, key: &Arc<CertifiedKey>) {
    let parsed = key.end_entity_cert().ok().and_then(|der| webpki::EndEntityCert::try_from(der).ok());
    let Some(certificate) = parsed else { return };
    for name in certificate.valid_dns_names() {
        by_name.entry(name.to_ascii_lowercase()).or_insert_with(|| key.clone());
    }
}

/// Makes and opens the tickets of one listener: a session begun there is resumed there and nowhere else. Lives as long as
/// the process, through reloads.
#[derive(Clone, Debug)]
pub struct Tickets(Arc<dyn ProducesTickets>);

impl Tickets {
    /// With keys of its own, which change every few hours.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new() -> io::Result<Self> {
        ring::Ticketer::new().map(Self).map_err(io::Error::other)
    }
}

/// What a listener needs to shake hands. Made once; each executor clones it.
#[derive(Clone)]
pub struct ServerTls(TlsAcceptor);

impl ServerTls {
    /// TLS 1.2 and 1.3. `asks` for a certificate of the client, which need not have one: any is taken whose key signs the
    /// handshake, and what it means is decided by its fingerprint.
    pub fn new(certificates: Arc<Certificates>, tickets: &Tickets, asks: bool) -> Self {
        let provider = provider();
        let verifier: Arc<dyn ClientCertVerifier> =
            if asks { Arc::new(AnyClient(provider.clone())) } else { Arc::new(NoClientAuth) };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has suites for both versions")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(certificates);
        config.ticketer = tickets.0.clone();
        // Resumption by ticket only: nothing to keep for clients that never come back.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Self(TlsAcceptor::from(Arc::new(config)))
    }

    pub(in crate::net) async fn accept(&self, tcp: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        self.0.accept(tcp).await
    }
}

/// Takes any certificate of a client, or none, but checks that its key signed this handshake.
#[derive(Debug)]
struct AnyClient(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_found_by_its_names_and_the_first_stands_for_all_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let make = |file: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
            let (chain, key) =
                (directory.path().join(format!("{file}.pem")), directory.path().join(format!("{file}.key")));
            std::fs::write(&chain, made.cert.pem()).expect("written");
            std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
            (chain, key)
        };
        let files = [make("one", &["mx.one.test"]), make("two", &["*.Two.test", "two.test"])];
        let pairs: Vec<_> = files.iter().map(|(chain, key)| (chain.as_path(), key.as_path())).collect();
        let certificates = Certificates::load(&pairs).expect("valid");
        let is_second = |name: &str| {
            let key = certificates.named(name).unwrap_or(&certificates.default);
            !Arc::ptr_eq(key, &certificates.default)
        };
        for (name, want) in [
            ("mx.one.test", false),
            ("MX.TWO.test", true),
            ("two.test", true),
            ("a.b.two.test", false),
            ("other.test", false),
        ] {
            assert_eq!(is_second(name), want, "{name}");
        }
    }
}
