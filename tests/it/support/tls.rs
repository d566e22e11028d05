//! Certificates made for a test, and curl, which believes them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{PATIENCE, ServerOptions};

/// An authority and a certificate for `localhost`, as files.
pub struct Certificates {
    directory: TempDir,
    names: Vec<String>,
}

impl Certificates {
    /// Made by a new authority.
    pub fn new() -> Self {
        Self::naming([])
    }

    /// With more names, or addresses.
    pub fn naming(names: impl IntoIterator<Item = String>) -> Self {
        let names = ["localhost".to_owned()].into_iter().chain(names).collect();
        let own = Certificates { directory: tempfile::tempdir().expect("a directory"), names };
        own.renew();
        own
    }

    /// Puts others, by another authority, in their place.
    pub fn renew(&self) {
        let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
        authority.distinguished_name.push(DnType::CommonName, "an authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("signed");
        let key = KeyPair::generate().expect("a key");
        let mut leaf = CertificateParams::new(self.names.clone()).expect("parameters");
        leaf.distinguished_name.push(DnType::CommonName, "localhost");
        let leaf = leaf.signed_by(&key, &authority).expect("signed");
        for (name, text) in
            [("ca.pem", authority.pem()), ("cert.pem", leaf.pem()), ("key.pem", key.serialize_pem())]
        {
            std::fs::write(self.path(name), text).expect("written");
        }
    }

    /// `ca.pem`, `cert.pem` or `key.pem`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The options of a server that shows them.
    pub fn options(&self) -> ServerOptions {
        let path = |name| self.path(name).to_string_lossy().into_owned();
        ServerOptions::default()
            .set("server.tls_cert", path("cert.pem"))
            .set("server.tls_key", path("key.pem"))
    }
}

fn command(authority: &Path, address: SocketAddr, path: &str, args: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--no-buffer", "--max-time", "20", "--cacert"]).arg(authority);
    command.args(args).arg("--resolve").arg(format!("localhost:{}:{}", address.port(), address.ip()));
    command
        .arg(format!("https://localhost:{}{path}", address.port()))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// What curl gets over TLS, or what it says is wrong.
pub async fn curl(
    authority: &Path,
    address: SocketAddr,
    path: &str,
    args: &[&str],
) -> Result<String, String> {
    let output = command(authority, address, path, args).output().await.expect("curl runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A connection over TLS that believes an authority.
pub async fn connect(authority: &Path, address: SocketAddr) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).expect("a certificate")).expect("an authority");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.expect("it listens");
    let host = "localhost".try_into().expect("a name");
    TlsConnector::from(Arc::new(config)).connect(host, stream).await.expect("a handshake")
}

/// An open stream over TLS, line by line.
pub struct CurlStream {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl CurlStream {
    /// Opens it.
    pub fn open(authority: &Path, address: SocketAddr, path: &str, args: &[&str]) -> Self {
        let mut child =
            command(authority, address, path, args).stdout(Stdio::piped()).spawn().expect("curl runs");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        CurlStream { lines, _child: child }
    }

    /// Reads until a line holds `text`; that line.
    pub async fn until(&mut self, text: &str) -> String {
        let found = async {
            while let Some(line) = self.lines.next_line().await.expect("text") {
                if line.contains(text) {
                    return line;
                }
            }
            panic!("the stream ended before {text:?}")
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("waited in vain for {text:?}"))
    }
}
