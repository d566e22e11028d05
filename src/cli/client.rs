use anyhow::Context as _;
use clap::Args;

/// How a command reaches a running server.
#[derive(Clone, Debug, Args)]
pub struct ClientArgs {
    /// The server
    #[arg(long, default_value = "http://127.0.0.1:8080", env = "BONGSU_URL")]
    pub url: String,
    /// API key
    #[arg(long, env = "BONGSU_API_KEY", hide_env_values = true)]
    pub key: String,
}

impl ClientArgs {
    /// An HTTP client; TLS by rustls.
    pub fn client(&self) -> anyhow::Result<reqwest::Client> {
        // a provider that was installed before serves as well
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        reqwest::Client::builder().build().context("the HTTP client")
    }

    /// The address of a path on the server.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url.trim_end_matches('/'))
    }
}

/// Runs a future on a runtime of its own.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
