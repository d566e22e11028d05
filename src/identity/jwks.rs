use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::runtime::Handle;

use super::token_keys::{TokenKey, read_jwk_set};
use crate::settings;
use crate::telemetry::Metrics;

/// A key set is refused beyond this, bytes.
const MAX_DOCUMENT: usize = 256 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);

/// The public keys of an issuer, fetched from its address and kept while that is away.
///
/// They are fetched anew from time to time ([`Jwks::keep_fresh`]), and when a token names a key that is not
/// among them: once for all that ask, and not again within `retry`.
#[derive(Clone, Debug)]
pub struct Jwks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: String,
    refresh: Duration,
    retry: Duration,
    client: reqwest::Client,
    runtime: Handle,
    metrics: Arc<Metrics>,
    keys: RwLock<Arc<[TokenKey]>>,
    /// When it was last tried; held while that is under way.
    tried: tokio::sync::Mutex<Option<Instant>>,
}

impl Jwks {
    /// The set at the configured address; fetches nothing yet. `runtime` is where fetches run, so that
    /// whoever caused one may go away meanwhile.
    pub fn new(jwt: &settings::Jwt, runtime: Handle, metrics: Arc<Metrics>) -> Result<Self, reqwest::Error> {
        // a provider that was installed before serves as well
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent("bongsu")
            .build()?;
        Ok(Jwks(Arc::new(Inner {
            url: jwt.jwks_url.clone(),
            refresh: Duration::from_secs(jwt.jwks_refresh_s),
            retry: Duration::from_secs(jwt.jwks_retry_s),
            client,
            runtime,
            metrics,
            keys: RwLock::new(Arc::new([])),
            tried: tokio::sync::Mutex::default(),
        })))
    }

    /// The keys of the last fetch that succeeded.
    pub(super) fn keys(&self) -> Arc<[TokenKey]> {
        self.0.keys.read().expect("no panic while held").clone()
    }

    /// Fetches, unless that was tried a moment ago; waits for one that is under way.
    pub(super) async fn look_again(&self) {
        let own = self.clone();
        let looking = self.0.runtime.spawn(async move {
            let mut tried = own.0.tried.lock().await;
            if tried.is_none_or(|at| at.elapsed() >= own.0.retry) {
                own.fetch().await;
                *tried = Some(Instant::now());
            }
        });
        if let Err(error) = looking.await {
            tracing::error!(%error, "the fetch of the key set was broken off");
        }
    }

    /// Fetches now and then, for ever.
    pub async fn keep_fresh(self) {
        let mut tick = tokio::time::interval(self.0.refresh);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let mut tried = self.0.tried.lock().await;
            self.fetch().await;
            *tried = Some(Instant::now());
        }
    }

    async fn fetch(&self) {
        let outcome = match self.download().await.and_then(|document| read_jwk_set(&document)) {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), "fetched the key set");
                *self.0.keys.write().expect("no panic while held") = keys.into();
                "ok"
            }
            Err(problem) => {
                tracing::warn!(problem, "jwt.jwks_url could not be fetched; the keys known so far stay");
                "failed"
            }
        };
        self.0.metrics.jwks_fetched(outcome);
    }

    async fn download(&self) -> Result<Vec<u8>, String> {
        let answer = self.0.client.get(&self.0.url).send().await.map_err(explain)?;
        if answer.status() != 200 {
            return Err(format!("was answered {}", answer.status()));
        }
        let (mut pieces, mut document) = (answer.bytes_stream(), Vec::new());
        while let Some(piece) = pieces.next().await {
            document.extend_from_slice(&piece.map_err(explain)?);
            if document.len() > MAX_DOCUMENT {
                return Err(format!("is larger than {MAX_DOCUMENT} bytes"));
            }
        }
        Ok(document)
    }
}

/// An error with its causes, without the address (it may hold credentials).
fn explain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    text
}
