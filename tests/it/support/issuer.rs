//! Somebody who issues tokens, with keys made for the test, and the address where its public keys are shown.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeys, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Seconds since 1970 that many from now.
pub fn from_now(seconds: i64) -> i64 {
    bongsu::clock::Clock::system().now().millis().div_euclid(1000) + seconds
}

/// A key pair with a name, which signs claims.
pub struct Issuer {
    algorithm: Algorithm,
    kid: Option<String>,
    key: EncodingKey,
    public_der: Vec<u8>,
}

impl Issuer {
    /// With a fresh key; shared secrets are made by [`Issuer::shared`].
    pub fn new(algorithm: Algorithm, kid: &str) -> Self {
        let (key, public_der) = match algorithm {
            Algorithm::RS256 => {
                let keys = RsaKeys::generate(KeySize::Rsa2048).expect("a key pair");
                let private: aws_lc_rs::encoding::Pkcs8V1Der<'_> = keys.as_der().expect("it encodes");
                let public: PublicKeyX509Der<'_> = keys.public_key().as_der().expect("it encodes");
                (
                    EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()),
                    public.as_ref().to_vec(),
                )
            }
            Algorithm::ES256 => {
                let rng = SystemRandom::new();
                let private =
                    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).expect("a key");
                let keys = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_ref())
                    .expect("a key");
                let public: PublicKeyX509Der<'_> = keys.public_key().as_der().expect("it encodes");
                (Ok(EncodingKey::from_ec_der(private.as_ref())), public.as_ref().to_vec())
            }
            _ => {
                let private = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
                let keys = Ed25519KeyPair::from_pkcs8(private.as_ref()).expect("a key");
                let public: PublicKeyX509Der<'_> = keys.public_key().as_der().expect("it encodes");
                (Ok(EncodingKey::from_ed_der(private.as_ref())), public.as_ref().to_vec())
            }
        };
        Issuer { algorithm, kid: Some(kid.to_owned()), key: key.expect("a signing key"), public_der }
    }

    /// With a shared secret (HS256) under a name or none.
    pub fn shared(secret: impl AsRef<[u8]>, kid: Option<&str>) -> Self {
        let key = EncodingKey::from_secret(secret.as_ref());
        Issuer { algorithm: Algorithm::HS256, kid: kid.map(str::to_owned), key, public_der: Vec::new() }
    }

    /// The same key under another name, or none.
    pub fn called(self, kid: Option<&str>) -> Self {
        Issuer { kid: kid.map(str::to_owned), ..self }
    }

    /// A token with exactly these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: self.kid.clone(), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).expect("it signs")
    }

    /// A token for a user with these roles, issued now and good for a minute.
    pub fn token(&self, sub: &str, roles: &[&str]) -> String {
        self.sign(&json!({"sub": sub, "roles": roles, "iat": from_now(0), "exp": from_now(60)}))
    }

    /// Its public key as PEM.
    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &self.public_der)
    }

    /// Writes its public key to a file and says so as an item of `jwt.keys`.
    pub fn configured(&self, dir: &Path) -> String {
        let kid = self.kid.as_deref().expect("a name");
        let file = dir.join(format!("{kid}.pem"));
        std::fs::write(&file, self.public_pem()).expect("writable");
        let algorithm = match self.algorithm {
            Algorithm::RS256 => "RS256",
            Algorithm::ES256 => "ES256",
            _ => "EdDSA",
        };
        format!("{{id = {kid:?}, algorithm = {algorithm:?}, file = {:?}}}", file.to_string_lossy())
    }

    /// Its public key as an item of a JWK set.
    pub fn jwk(&self) -> Value {
        if self.algorithm == Algorithm::EdDSA {
            // the key itself ends the structure around it (RFC 8410 §4)
            let x = URL_SAFE_NO_PAD.encode(&self.public_der[self.public_der.len() - 32..]);
            return json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": x});
        }
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("a public key");
        jwk.common.key_id = self.kid.clone();
        serde_json::to_value(jwk).expect("plain data")
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A small HTTP server that shows a JWK set, and can go away and come back.
pub struct KeyServer {
    address: SocketAddr,
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
    serving: Option<JoinHandle<()>>,
}

impl KeyServer {
    /// Shows the keys of these issuers.
    pub async fn showing(issuers: &[&Issuer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut own = KeyServer {
            address: listener.local_addr().expect("an address"),
            answer: Arc::default(),
            asked: Arc::default(),
            serving: None,
        };
        own.show(issuers);
        own.serve(listener);
        own
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    /// Shows other keys from now on.
    pub fn show(&self, issuers: &[&Issuer]) {
        let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.jwk()).collect();
        self.say(200, &json!({"keys": keys}).to_string());
    }

    /// Answers this from now on.
    pub fn say(&self, status: u16, body: &str) {
        *self.answer.lock().unwrap() = (status, body.to_owned());
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Stops listening: connections are refused.
    pub async fn go_away(&mut self) {
        let serving = self.serving.take().expect("it serves");
        serving.abort();
        assert!(serving.await.expect_err("it never ends by itself").is_cancelled());
    }

    /// Listens again at the same address.
    pub async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("the port is free");
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let (answer, asked) = (self.answer.clone(), self.asked.clone());
        self.serving = Some(tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.expect("a connection");
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(1..) = socket.read_buf(&mut head).await else { break };
                }
                asked.fetch_add(1, Ordering::SeqCst);
                let (status, body) = answer.lock().unwrap().clone();
                let answer = format!(
                    "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                     connection: close\r\n\r\n{body}",
                    body.len()
                );
                // whoever asked may have gone
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        }));
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}
