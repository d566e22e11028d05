use std::error::Error as _;
use std::fmt::Display;
use std::future::poll_fn;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conn::{Conn, Trust};
use super::tls;
use crate::storage::StoreError;

/// The oldest release whose SQL this build speaks.
const OLDEST_MAJOR: u32 = 13;
/// An idle connection is looked after by the kernel: a peer that has gone without a word is noticed in 25 s.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);
/// What was sent must be acknowledged by the peer's kernel within this time.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// How a PostgreSQL server is reached, beside its URL.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// PEM file of the authorities whose certificates are believed; empty: those of the system.
    pub tls_ca: PathBuf,
    /// Refuses what would connect in plain text to another host.
    pub require_tls: bool,
    /// The server gives up a statement after this time.
    pub statement_timeout: Duration,
    /// The server ends a transaction in which nothing was asked for this time.
    pub idle_transaction_timeout: Duration,
    /// Who this is, as the server's administrator reads it.
    pub application: String,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        PostgresOptions {
            tls_ca: PathBuf::new(),
            require_tls: false,
            statement_timeout: Duration::from_secs(5),
            idle_transaction_timeout: Duration::from_secs(10),
            application: "bongsu".to_owned(),
        }
    }
}

/// Why no connection was made; never holds the password.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(in crate::storage) struct ConnectError(String);

/// Makes connections to one server.
pub(in crate::storage) struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
    options: PostgresOptions,
    /// How long a connection may take to make, and a lock to get.
    wait: Duration,
    trust: Arc<Trust>,
}

impl Connector {
    /// Reads the URL and the certificates; refuses what the options forbid.
    pub fn new(url: &str, options: &PostgresOptions, wait: Duration) -> Result<Self, StoreError> {
        let wrong = |problem: String| StoreError::Misconfigured(format!("storage.database_url {problem}"));
        let mut config: Config =
            tls::known_modes(url).parse().map_err(|error: Error| wrong(causes(&error)))?;
        if options.require_tls
            && config.get_ssl_mode() != SslMode::Require
            && !config.get_hosts().iter().all(is_here)
        {
            return Err(wrong(format!(
                "may connect to {} in plain text, which storage.require_tls forbids: add sslmode=verify-full",
                place(&config)
            )));
        }
        config
            .application_name(&options.application)
            .connect_timeout(wait)
            .keepalives_idle(KEEPALIVE.0)
            .keepalives_interval(KEEPALIVE.1)
            .keepalives_retries(KEEPALIVE.2)
            .tcp_user_timeout(UNACKNOWLEDGED);
        let tls = tls::client(&options.tls_ca, config.get_ssl_mode() == SslMode::Require)?;
        let tls = MakeRustlsConnect::new(tls);
        Ok(Connector { config, tls, options: options.clone(), wait, trust: Arc::default() })
    }

    /// A connection whose statements end in a bounded time.
    pub async fn connect(&self) -> Result<Conn, ConnectError> {
        // the server's own bound comes first: it also frees what the statement holds
        let patience = self.options.statement_timeout + self.wait;
        let millis = |time: Duration| time.as_millis();
        self.open(
            Some(patience),
            format!(
                "SET statement_timeout = {}; SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {}",
                millis(self.options.statement_timeout),
                millis(self.wait),
                millis(self.options.idle_transaction_timeout)
            ),
        )
        .await
    }

    /// A connection for what takes as long as it takes, such as a migration. The server lets go of it soon
    /// after its peer has gone without a word.
    pub async fn connect_patiently(&self) -> Result<Conn, ConnectError> {
        let settings = "SET statement_timeout = 0; SET lock_timeout = 0; SET tcp_keepalives_idle = 5; \
                        SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3";
        self.open(None, settings.to_owned()).await
    }

    async fn open(&self, patience: Option<Duration>, settings: String) -> Result<Conn, ConnectError> {
        let opening = async {
            let (client, mut connection) =
                self.config.connect(self.tls.clone()).await.map_err(|error| self.told(&error))?;
            let version = connection.parameter("server_version").unwrap_or_default().to_owned();
            let (woken, wakes) = mpsc::channel(1);
            let driver = tokio::spawn(async move {
                while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                    if let AsyncMessage::Notification(_) = message {
                        // one that waits is enough for any number
                        let _ = woken.try_send(());
                    }
                }
            });
            self.refuse_old(&version)?;
            let failed = |error: &dyn Display| self.failed(&format!("cannot be used: {error}"));
            let inner = AsyncPgConnection::try_from(client).await.map_err(|error| failed(&error))?;
            let mut own = Conn::new(inner, (driver, wakes), patience, self.trust.clone());
            own.batch_execute(&settings).await.map_err(|error| failed(&error))?;
            Ok(own)
        };
        timeout(self.wait, opening).await.unwrap_or_else(|_| {
            let problem = format!(
                "has not answered within {} ms (storage.wait_ms): is the address right, and does a firewall let it through?",
                self.wait.as_millis()
            );
            Err(self.failed(&problem))
        })
    }

    fn refuse_old(&self, version: &str) -> Result<(), ConnectError> {
        match major(version) {
            Some(major) if major < OLDEST_MAJOR => Err(self.failed(&format!(
                "is release {version}, which is too old: Bongsu needs PostgreSQL {OLDEST_MAJOR} or later"
            ))),
            _ => Ok(()),
        }
    }

    fn failed(&self, problem: &str) -> ConnectError {
        ConnectError(format!("PostgreSQL at {} {problem}", place(&self.config)))
    }

    /// What is wrong and what to do about it, by the code that the server gave.
    fn told(&self, error: &Error) -> ConnectError {
        let user = self.config.get_user().unwrap_or_default();
        let database = self.config.get_dbname().unwrap_or(user);
        let Some(refused) = error.as_db_error() else {
            return self.failed(&format!("cannot be reached: {}", advice(causes(error))));
        };
        let said = refused.message();
        self.failed(&match refused.code() {
            code if *code == SqlState::INVALID_PASSWORD => format!(
                "does not accept the password of user {user:?}: correct it in storage.database_url (DATABASE_URL)"
            ),
            code if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => format!(
                "does not let user {user:?} in ({said}): check the user in storage.database_url and the server's pg_hba.conf"
            ),
            code if *code == SqlState::INVALID_CATALOG_NAME => format!(
                "has no database {database:?}: create it (CREATE DATABASE), or correct storage.database_url"
            ),
            code if *code == SqlState::TOO_MANY_CONNECTIONS => format!(
                "has no connection left ({said}): raise its max_connections, or lower storage.read_connections"
            ),
            code if *code == SqlState::CANNOT_CONNECT_NOW => format!("is not ready yet ({said})"),
            code => format!("refused the connection: {said} ({})", code.code()),
        })
    }
}

/// The error with what caused it; tokio-postgres keeps the passwords out of them.
fn causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(own) = cause {
        text = format!("{text}: {own}");
        cause = own.source();
    }
    text
}

fn advice(problem: String) -> String {
    if problem.contains("server does not support TLS") {
        return format!("{problem}; switch TLS on there (ssl = on), or ask for less with sslmode=prefer");
    }
    if problem.contains("certificate") {
        return format!(
            "{problem}; name its authority in storage.tls_ca, and the host as the certificate does in storage.database_url"
        );
    }
    if problem.contains("password missing") {
        return format!("{problem}; put one into storage.database_url");
    }
    format!("{problem}; is it running, and is storage.database_url right?")
}

/// Where the server is, as the configuration says.
fn place(config: &Config) -> String {
    let ports = config.get_ports();
    let named = config.get_hosts().iter().enumerate().map(|(number, host)| {
        let port = ports.get(number).or(ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(path) => path.display().to_string(),
        }
    });
    named.collect::<Vec<_>>().join(", ")
}

/// Whether nobody else can listen on the way there.
fn is_here(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    }
}

fn major(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connector(url: &str, require_tls: bool) -> Result<Connector, StoreError> {
        let options = PostgresOptions { require_tls, ..PostgresOptions::default() };
        Connector::new(url, &options, Duration::from_secs(1))
    }

    #[test]
    fn plain_text_to_another_host_is_refused_where_tls_is_required() {
        let refused = |url: &str| connector(url, true).err().map(|error| error.to_string());
        for url in ["postgres://u:secret@db.example/x", "postgres://u:secret@db.example/x?sslmode=disable"] {
            let error = refused(url).expect("it is refused");
            assert!(error.contains("storage.require_tls") && !error.contains("secret"), "{error}");
        }
        for url in [
            "postgres://u@db.example/x?sslmode=require",
            "postgres://u@db.example/x?sslmode=verify-full",
            "postgres://u@127.0.0.1/x",
            "postgres://u@localhost/x",
            "postgres://u@%2Frun%2Fpostgresql/x",
        ] {
            assert_eq!(refused(url), None, "{url}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_without_the_password() {
        for url in [
            "postgres://u:secret@h/x?sslmode=maybe",
            "postgres://u:secret@h:port/x",
            "postgres://u:secret@h/x?sslrootcert=a",
        ] {
            let error = connector(url, false).err().expect("it is refused").to_string();
            assert!(error.contains("storage.database_url") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn releases_before_13_are_too_old() {
        let own = connector("postgres://u@h/x", false).unwrap();
        for old in ["9.6.24", "12.22 (Debian)"] {
            assert!(own.refuse_old(old).unwrap_err().to_string().contains("PostgreSQL 13 or later"));
        }
        for good in ["13.0", "15.18 (Debian 15.18-0)", "18beta1", "19devel", ""] {
            assert!(own.refuse_old(good).is_ok(), "{good}");
        }
    }
}
