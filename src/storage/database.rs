use std::fs::File;
use std::future::Future;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use diesel::SqliteConnection;
use diesel::migration::{Migration, MigrationSource, MigrationVersion};
use diesel::pg::Pg;
use diesel_async::pooled_connection::deadpool::Object;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod};
use diesel_async::{AsyncConnection, AsyncMigrationHarness, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use futures_util::FutureExt;
use tokio::runtime::Handle;
use tracing::Instrument;

use super::StoreError;
use super::connections::Connections;
use super::postgres::{Conn as PostgresConn, Postgres, PostgresOptions, locks};
use super::sqlite::Conn as SqliteConn;
use crate::telemetry::Metrics;

const SQLITE_MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");
const POSTGRES_MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Where the database is and how it is reached.
#[derive(Clone, Debug)]
pub struct DatabaseOptions {
    /// `postgres://…`, or empty for SQLite in `data_dir`.
    pub url: String,
    /// Directory of the embedded database.
    pub data_dir: PathBuf,
    /// Connections for reading (SQLite) or for all (PostgreSQL).
    pub connections: usize,
    /// How long to wait for a connection or a lock.
    pub wait: Duration,
    /// Largest size of the embedded database in bytes; 0 for no bound.
    pub max_bytes: u64,
    /// How PostgreSQL is reached, beside its URL.
    pub postgres: PostgresOptions,
}

/// The connections of one backend.
#[derive(Debug)]
pub enum Backend {
    /// Embedded.
    Sqlite(Sqlite),
    /// One server.
    Postgres(Postgres),
}

/// SQLite: one writer, several readers.
pub struct Sqlite {
    write: Connections<AsyncDieselConnectionManager<SqliteConn>>,
    read: Connections<AsyncDieselConnectionManager<SqliteConn>>,
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Sqlite")
    }
}

impl Sqlite {
    /// A connection that sees every committed write.
    pub async fn reader(&self) -> Result<Object<SqliteConn>, StoreError> {
        self.read.get().await
    }

    /// The one connection that writes.
    pub async fn writer(&self) -> Result<Object<SqliteConn>, StoreError> {
        self.write.get().await
    }
}

impl Backend {
    /// Tells the metrics how the pools stand.
    fn report(&self) {
        match self {
            Backend::Sqlite(own) => {
                own.read.report();
                own.write.report();
            }
            Backend::Postgres(own) => own.report(),
        }
    }
}

pub(super) fn unavailable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// A shared handle to the database.
#[derive(Clone, Debug)]
pub struct Database {
    backend: Arc<Backend>,
    runtime: Handle,
}

impl Database {
    /// Opens (and for SQLite creates) the database; must run on the storage runtime.
    pub async fn open(
        options: &DatabaseOptions,
        runtime: Handle,
        metrics: &Metrics,
    ) -> Result<Self, StoreError> {
        let backend = Arc::new(match options.url.is_empty() {
            true => Backend::Sqlite(open_sqlite(options, metrics).await?),
            false => Backend::Postgres(Postgres::open(
                &options.url,
                &options.postgres,
                // whoever waits for a connection while holding one needs a second
                (options.connections.max(2), options.wait),
                metrics.pool("any"),
            )?),
        });
        let reported = Arc::downgrade(&backend);
        metrics.add_reading(Box::new(move |_| {
            if let Some(backend) = reported.upgrade() {
                backend.report();
            }
        }));
        Ok(Database { backend, runtime })
    }

    /// The backend, for [`read!`](crate::read) and [`write_tx!`](crate::write_tx).
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Runs `work` on the storage runtime, within the caller's span, and waits for it; a caller that goes away leaves it running.
    pub async fn run<T, W, F>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(Database) -> F,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let task = self.runtime.spawn(work(self.clone()).in_current_span());
        task.await.unwrap_or_else(|error| Err(StoreError::Unexpected(error.to_string())))
    }

    /// Brings the schema up to date; returns the names of the migrations that ran.
    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        match self.backend() {
            Backend::Sqlite(own) => {
                let mut writer = own.writer().await?;
                // one transaction for all: whoever else migrates waits for it, and finds nothing left to do
                writer.spawn_blocking(|conn| Ok(conn.immediate_transaction(migrate_sqlite))).await?
            }
            Backend::Postgres(own) => migrate_postgres(own.patient().await?).await,
        }
    }
}

/// Whoever else migrates is waited for, this long.
const MIGRATION_WAIT: Duration = Duration::from_secs(60);
const MIGRATION_LOCK: i64 = 7_163_508;

/// The connection holds the lock that serialises nodes that start together, and frees it by its end. The
/// harness blocks inside, which a thread of a multi-thread runtime may.
async fn migrate_postgres(mut conn: PostgresConn) -> Result<Vec<String>, StoreError> {
    let deadline = tokio::time::Instant::now() + MIGRATION_WAIT;
    while !locks::try_lock(&mut conn, MIGRATION_LOCK).await? {
        if tokio::time::Instant::now() >= deadline {
            return Err(unavailable(
                "another process has been migrating the database for a minute: wait until it has finished, or end \
                 it (SELECT pid FROM pg_locks WHERE locktype = 'advisory' finds it)",
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut harness = AsyncMigrationHarness::new(conn);
    let applied = harness.applied_migrations().map_err(unavailable)?;
    refuse_newer::<Pg>(&applied, &POSTGRES_MIGRATIONS)?;
    let ran = harness.run_pending_migrations(POSTGRES_MIGRATIONS).map_err(unavailable)?;
    Ok(ran.iter().map(|version| version.to_string()).collect())
}

fn migrate_sqlite(conn: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
    let applied = conn.applied_migrations().map_err(unavailable)?;
    refuse_newer::<diesel::sqlite::Sqlite>(&applied, &SQLITE_MIGRATIONS)?;
    let ran = conn.run_pending_migrations(SQLITE_MIGRATIONS).map_err(unavailable)?;
    Ok(ran.iter().map(|version| version.to_string()).collect())
}

/// A newer release's schema is left alone: it may have been narrowed since this release. A node that was
/// running before goes on (expand, then contract).
fn refuse_newer<DB: diesel::backend::Backend>(
    applied: &[MigrationVersion<'_>],
    own: &EmbeddedMigrations,
) -> Result<(), StoreError> {
    let known: Vec<Box<dyn Migration<DB>>> = own.migrations().map_err(unavailable)?;
    let newest = known.iter().map(|migration| migration.name().version().as_owned()).max();
    match applied.iter().max().filter(|applied| Some(applied.as_owned()) > newest) {
        Some(newer) => Err(StoreError::Newer(newer.to_string())),
        None => Ok(()),
    }
}

/// Fails when an embedded database is there and cannot be written, so that a start says so.
///
/// To be called before the database is opened: closing a file frees its locks for the whole process.
pub fn check_writable(data_dir: &Path) -> Result<(), StoreError> {
    for name in ["bongsu.db", "bongsu.db-wal"] {
        let path = data_dir.join(name);
        match File::options().write(true).open(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(unavailable(format!(
                    "{} cannot be written ({error}): check its owner and permissions, and that its file system \
                     is not mounted read-only",
                    path.display()
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the file, when it is new, readable by its owner alone: it holds a secret. SQLite gives its
/// companions (`-wal`, `-shm`) the same permissions.
fn create_private(path: &Path) -> Result<(), StoreError> {
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(unavailable(format!("{}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

async fn open_sqlite(options: &DatabaseOptions, metrics: &Metrics) -> Result<Sqlite, StoreError> {
    std::fs::create_dir_all(&options.data_dir)
        .map_err(|error| unavailable(format!("{}: {error}", options.data_dir.display())))?;
    let path = options.data_dir.join("bongsu.db");
    create_private(&path)?;
    let pool = |name: &'static str, size: usize| {
        let url = path.to_string_lossy().into_owned();
        let manager = AsyncDieselConnectionManager::new_with_config(url, sqlite_config(options));
        Connections::pool(manager, size, options.wait, metrics.pool(name))
    };
    let own = Sqlite { write: pool("write", 1)?, read: pool("read", options.connections)? };
    drop(own.writer().await?);
    Ok(own)
}

fn sqlite_config(options: &DatabaseOptions) -> ManagerConfig<SqliteConn> {
    let max_pages = if options.max_bytes == 0 { 0xffff_fffe } else { (options.max_bytes / 4096).max(1) };
    let pragmas = format!(
        "PRAGMA busy_timeout={}; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;
         PRAGMA page_size=4096; PRAGMA max_page_count={max_pages};",
        options.wait.as_millis()
    );
    let mut config = ManagerConfig::default();
    config.recycling_method = RecyclingMethod::Fast;
    config.custom_setup = Box::new(move |url| {
        let (url, pragmas) = (url.to_owned(), pragmas.clone());
        async move {
            let mut connection = SqliteConn::establish(&url).await?;
            connection
                .batch_execute(&pragmas)
                .await
                .map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
            Ok(connection)
        }
        .boxed()
    });
    config
}

/// Held by the one process that serves an embedded database.
#[derive(Debug)]
pub struct ServeLock {
    _file: File,
}

impl ServeLock {
    /// Takes the lock of a data directory, or says that another process has it.
    pub fn take(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join("serve.lock");
        let shown = path.display();
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| unavailable(format!("{shown}: {error}")))?;
        match file.try_lock() {
            Ok(()) => Ok(ServeLock { _file: file }),
            Err(_) => {
                Err(unavailable(format!("another process serves this data directory ({shown} is locked)")))
            }
        }
    }
}
