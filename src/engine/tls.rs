use std::path::Path;
use std::sync::{Arc, RwLock};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::StartError;
use crate::settings::Settings;

/// The certificate that clients are shown; a renewed one takes its place without touching open connections.
#[derive(Debug)]
pub(super) struct Certificate {
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// The one that the options name, if they name one.
    pub fn load(settings: &Settings) -> Result<Option<Arc<Self>>, StartError> {
        if settings.server.tls_cert.is_empty() {
            return Ok(None);
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let current = read(settings, &provider).map_err(StartError::Unsupported)?;
        Ok(Some(Arc::new(Certificate { provider, current: RwLock::new(Arc::new(current)) })))
    }

    /// Reads it again; what cannot be read leaves the former one in force.
    pub fn reload(&self, settings: &Settings) -> Result<(), String> {
        let renewed = read(settings, &self.provider)?;
        *self.current.write().expect("no panic while held") = Arc::new(renewed);
        Ok(())
    }

    /// TLS 1.2 and 1.3 for HTTP/1.1, no client certificates.
    pub fn config(self: &Arc<Self>) -> Result<ServerConfig, StartError> {
        let failed = |error: rustls::Error| StartError::Runtime(error.to_string());
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // clients that come back all at once are spared the larger half of the handshake
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(failed)?;
        Ok(config)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().expect("no panic while held").clone())
    }
}

/// A chain and its key from PEM files, checked to belong together.
fn read(settings: &Settings, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let (chain, key) = (Path::new(&settings.server.tls_cert), Path::new(&settings.server.tls_key));
    let failed = |option: &str, path: &Path, problem: &dyn std::fmt::Display| {
        format!("server.{option}: {}: {problem}", path.display())
    };
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(chain).map_err(|error| failed("tls_cert", chain, &error))?.collect();
    let certificates = certificates.map_err(|error| failed("tls_cert", chain, &error))?;
    if certificates.is_empty() {
        return Err(failed("tls_cert", chain, &"holds no certificate"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| failed("tls_key", key, &error))?;
    CertifiedKey::from_der(certificates, private, provider).map_err(|error| failed("tls_key", key, &error))
}
