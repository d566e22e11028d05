use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use diesel::connection::{CacheSize, Instrumentation};
use diesel::query_builder::{AsQuery, QueryFragment, QueryId};
use diesel::result::{ConnectionError, DatabaseErrorKind, Error};
use diesel::{ConnectionResult, QueryResult};
use diesel_async::{
    AnsiTransactionManager, AsyncConnection, AsyncConnectionCore, AsyncPgConnection, SimpleAsyncConnection,
    TransactionManager,
};
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt, unfold};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A connection to PostgreSQL on which nothing takes for ever.
///
/// A statement that is not answered in time fails, and its connection with it: what the server makes of it
/// later is nobody's any more. A COMMIT whose answer did not come fails as `ClosedConnection`: its outcome
/// is unknown.
pub struct Conn {
    inner: AsyncPgConnection,
    link: Link,
    /// Carries the bytes; ends with the connection.
    driver: JoinHandle<()>,
    wakes: mpsc::Receiver<()>,
    /// Not to be used by anybody else any more.
    is_spent: bool,
}

/// What is known of the way to the server.
struct Link {
    /// How long a statement may take; None: as long as it takes.
    patience: Option<Duration>,
    /// When the server last answered.
    heard: Instant,
    /// A statement was begun, and nobody has waited for its end.
    is_busy: bool,
    is_lost: Arc<AtomicBool>,
    trust: Arc<Trust>,
}

/// When a connection of a pool was last lost without a word: those that were silent since are as dead.
#[derive(Debug, Default)]
pub(super) struct Trust(Mutex<Option<Instant>>);

impl Trust {
    fn withdraw(&self) {
        *self.0.lock().expect("no panic while held") = Some(Instant::now());
    }

    fn reaches(&self, heard: Instant) -> bool {
        self.0.lock().expect("no panic while held").is_none_or(|lost| heard > lost)
    }
}

fn lost(problem: String) -> Error {
    Error::DatabaseError(DatabaseErrorKind::UnableToSendCommand, Box::new(problem))
}

fn is_lost(error: &Error) -> bool {
    matches!(error, Error::DatabaseError(DatabaseErrorKind::UnableToSendCommand, _))
}

impl Link {
    /// Waits for a statement no longer than it may take.
    async fn wait<T>(&mut self, statement: impl Future<Output = QueryResult<T>>) -> QueryResult<T> {
        if self.is_lost.load(Ordering::Relaxed) {
            return Err(lost("the connection was lost".into()));
        }
        self.is_busy = true;
        let outcome = within(self.patience, &self.is_lost, &self.trust, statement).await;
        self.is_busy = false;
        match &outcome {
            Err(error) if is_lost(error) => self.is_lost.store(true, Ordering::Relaxed),
            _ => self.heard = Instant::now(),
        }
        outcome
    }
}

async fn within<T>(
    patience: Option<Duration>,
    is_lost: &AtomicBool,
    trust: &Trust,
    statement: impl Future<Output = QueryResult<T>>,
) -> QueryResult<T> {
    let Some(patience) = patience else { return statement.await };
    timeout(patience, statement).await.unwrap_or_else(|_| {
        is_lost.store(true, Ordering::Relaxed);
        trust.withdraw();
        Err(lost(format!("PostgreSQL has not answered within {} ms", patience.as_millis())))
    })
}

impl Conn {
    pub(super) fn new(
        inner: AsyncPgConnection,
        (driver, wakes): (JoinHandle<()>, mpsc::Receiver<()>),
        patience: Option<Duration>,
        trust: Arc<Trust>,
    ) -> Self {
        let is_lost = Arc::default();
        let link = Link { patience, heard: Instant::now(), is_busy: false, is_lost, trust };
        Conn { inner, link, driver, wakes, is_spent: false }
    }

    /// Lets the present transaction take as long as it takes; the connection serves for this one alone.
    pub(in crate::storage) async fn take_your_time(&mut self) -> QueryResult<()> {
        self.batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0").await?;
        (self.link.patience, self.is_spent) = (None, true);
        Ok(())
    }

    /// Waits for the next notification, one for all that have come since; None once the connection has ended.
    pub(in crate::storage) async fn notified(&mut self) -> Option<()> {
        self.wakes.recv().await
    }

    /// Whether the connection has ended, as far as one can tell without asking the server.
    pub(in crate::storage) fn is_over(&self) -> bool {
        self.driver.is_finished() || self.link.is_lost.load(Ordering::Relaxed)
    }

    /// Whether it may be used again; asks the server after a silence.
    pub(super) async fn is_usable(&mut self, silence: Duration, wait: Duration) -> bool {
        if self.is_spent
            || self.is_over()
            || self.link.is_busy
            || AnsiTransactionManager::is_broken_transaction_manager(self)
            || !self.link.trust.reaches(self.link.heard)
        {
            return false;
        }
        if self.link.heard.elapsed() < silence {
            return true;
        }
        let patience = self.link.patience.replace(wait);
        let answer = self.batch_execute("").await;
        self.link.patience = patience;
        answer.is_ok()
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if self.link.is_lost.load(Ordering::Relaxed) || self.link.is_busy {
            // nothing to say goodbye to
            self.driver.abort();
        }
    }
}

impl SimpleAsyncConnection for Conn {
    async fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        let was_lost = self.is_over();
        let outcome = self.link.wait(self.inner.batch_execute(query)).await;
        match outcome {
            Err(error) if query == "COMMIT" && !was_lost => Err(in_doubt(error)),
            outcome => outcome,
        }
    }
}

/// Unless the server has said that it has rolled back, a COMMIT that failed may have happened all the same.
fn in_doubt(error: Error) -> Error {
    use DatabaseErrorKind as Kind;
    match error {
        Error::DatabaseError(Kind::UnableToSendCommand | Kind::Unknown, information) => {
            let text = format!("the outcome of a COMMIT is unknown: {}", information.message());
            Error::DatabaseError(Kind::ClosedConnection, Box::new(text))
        }
        other => other,
    }
}

type Rows<'conn, 'query> = <AsyncPgConnection as AsyncConnectionCore>::Stream<'conn, 'query>;
type Row<'conn, 'query> = <AsyncPgConnection as AsyncConnectionCore>::Row<'conn, 'query>;

impl AsyncConnectionCore for Conn {
    type ExecuteFuture<'conn, 'query> = BoxFuture<'conn, QueryResult<usize>>;
    type LoadFuture<'conn, 'query> = BoxFuture<'conn, QueryResult<Self::Stream<'conn, 'query>>>;
    type Stream<'conn, 'query> = BoxStream<'static, QueryResult<Row<'conn, 'query>>>;
    type Row<'conn, 'query> = Row<'conn, 'query>;
    type Backend = diesel::pg::Pg;

    fn load<'conn, 'query, T>(&'conn mut self, source: T) -> Self::LoadFuture<'conn, 'query>
    where
        T: AsQuery + 'query,
        T::Query: QueryFragment<Self::Backend> + QueryId + 'query,
    {
        let Conn { inner, link, .. } = self;
        let statement = inner.load(source);
        Box::pin(async move {
            let rows: Rows<'_, '_> = link.wait(statement).await?;
            let state = (rows, link.patience, link.is_lost.clone(), link.trust.clone());
            // each row may be as late as the first one
            let rows = unfold(state, |(mut rows, patience, is_lost, trust)| async move {
                let next = async { rows.next().await.transpose() };
                let row = within(patience, &is_lost, &trust, next).await.transpose()?;
                Some((row, (rows, patience, is_lost, trust)))
            });
            Ok(rows.boxed())
        })
    }

    fn execute_returning_count<'conn, 'query, T>(
        &'conn mut self,
        source: T,
    ) -> Self::ExecuteFuture<'conn, 'query>
    where
        T: QueryFragment<Self::Backend> + QueryId + 'query,
    {
        let Conn { inner, link, .. } = self;
        let statement = inner.execute_returning_count(source);
        Box::pin(link.wait(statement))
    }
}

impl AsyncConnection for Conn {
    type TransactionManager = AnsiTransactionManager;

    async fn establish(_: &str) -> ConnectionResult<Self> {
        Err(ConnectionError::BadConnection("connections are made by a Connector".into()))
    }

    fn transaction_state(&mut self) -> &mut AnsiTransactionManager {
        self.inner.transaction_state()
    }

    fn instrumentation(&mut self) -> &mut dyn Instrumentation {
        self.inner.instrumentation()
    }

    fn set_instrumentation(&mut self, instrumentation: impl Instrumentation) {
        self.inner.set_instrumentation(instrumentation);
    }

    fn set_prepared_statement_cache_size(&mut self, size: CacheSize) {
        self.inner.set_prepared_statement_cache_size(size);
    }
}
