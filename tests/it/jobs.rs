//! Jobs on both databases: the order they are done in, what becomes of those that fail, and of those whose node dies.

mod looked_after;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bongsu::clock::Clock;
use bongsu::jobs::{
    Backoff, Completion, Delivery, Failure, Handler, JobDesk, JobOptions, JobRow, JobWake, Jobs, Kind,
    NewJob, Revived, State,
};
use bongsu::storage::{Database, DatabaseOptions, JobOutcome, PostgresOptions, StorageRuntime, StoreError};
use bongsu::telemetry::Metrics;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::support::{eventually, postgres};

const AGAIN: Kind = Kind { name: "again", channel: "work", delivery: Delivery::AtLeastOnce };
const ONCE: Kind = Kind { name: "once", channel: "work", delivery: Delivery::AtMostOnce };
const ELSEWHERE: Kind = Kind { name: "elsewhere", channel: "other", delivery: Delivery::AtLeastOnce };

/// Runs `scenario` on SQLite, and on PostgreSQL.
fn on_both<F>(scenario: impl Fn(Database) -> F)
where
    F: Future<Output = Result<(), StoreError>>,
{
    let dir = tempfile::tempdir().expect("a directory");
    on(String::new(), dir.path(), &scenario);
    on(postgres::database().expect("BONGSU_TEST_POSTGRES_URL, as ./test sets it"), dir.path(), &scenario);
}

fn on<F>(url: String, dir: &Path, scenario: &impl Fn(Database) -> F)
where
    F: Future<Output = Result<(), StoreError>>,
{
    let runtime = StorageRuntime::start().expect("a runtime");
    let handle = runtime.handle();
    let options = DatabaseOptions {
        url,
        data_dir: dir.to_owned(),
        connections: 8,
        wait: Duration::from_secs(10),
        max_bytes: 0,
        postgres: PostgresOptions::default(),
    };
    let opened = runtime.block_on(handle.spawn(async move {
        let runtime = tokio::runtime::Handle::current();
        let database = Database::open(&options, runtime, &Metrics::default()).await?;
        database.migrate().await?;
        Ok::<_, StoreError>(database)
    }));
    let database = opened.expect("no panic").expect("a database");
    runtime.block_on(scenario(database)).expect("the scenario");
}

type Outcome = Arc<dyn Fn(&JobRow) -> Result<Completion, Failure> + Send + Sync>;

/// What was done, and what is to come of it.
#[derive(Clone)]
struct Work {
    begun: Arc<Mutex<Vec<(String, i64)>>>,
    now: Arc<Mutex<HashMap<String, usize>>>,
    twice_at_once: Arc<Mutex<Vec<String>>>,
    gate: Arc<Semaphore>,
    outcome: Outcome,
}

impl Work {
    /// That comes out like this; `open`: nobody has to let it go on.
    fn with(
        open: bool,
        outcome: impl Fn(&JobRow) -> Result<Completion, Failure> + Send + Sync + 'static,
    ) -> Self {
        let gate = Arc::new(Semaphore::new(if open { 1_000_000 } else { 0 }));
        let outcome = Arc::new(outcome);
        Work { begun: Arc::default(), now: Arc::default(), twice_at_once: Arc::default(), gate, outcome }
    }

    fn begun(&self) -> Vec<(String, i64)> {
        self.begun.lock().unwrap().clone()
    }

    async fn has_begun(&self, count: usize) {
        eventually("jobs to begin", async || (self.begun().len() >= count).then_some(())).await;
    }

    /// A node that does it.
    fn node(&self, database: &Database, most: usize, attempt: Duration) -> (Jobs, JobWake) {
        let options = JobOptions {
            channels: vec![("work", most), ("other", 1)],
            poll: Duration::from_millis(50),
            attempt,
            backoff: Backoff { first: Duration::from_millis(20) },
            keep_done: Duration::from_secs(3600),
        };
        self.node_with(database, options)
    }

    fn node_with(&self, database: &Database, options: JobOptions) -> (Jobs, JobWake) {
        let handler = |kind| -> Arc<dyn Handler> { Arc::new(Worker { kind, work: self.clone() }) };
        let handlers = [AGAIN, ONCE, ELSEWHERE].map(handler).to_vec();
        let (wake, metrics) = (JobWake::default(), Arc::new(Metrics::default()));
        let means = (database.clone(), Clock::system());
        (Jobs::start(means, metrics, options, handlers, wake.clone()), wake)
    }
}

struct Worker {
    kind: Kind,
    work: Work,
}

impl Handler for Worker {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn run(&self, job: JobRow) -> BoxFuture<'static, Result<Completion, Failure>> {
        let work = self.work.clone();
        async move {
            work.begun.lock().unwrap().push((job.payload.clone(), job.attempts));
            let busy = {
                let mut now = work.now.lock().unwrap();
                let busy = now.entry(job.job_id.clone()).or_default();
                *busy += 1;
                *busy
            };
            if busy > 1 {
                work.twice_at_once.lock().unwrap().push(job.job_id.clone());
            }
            work.gate.acquire().await.expect("it is never closed").forget();
            *work.now.lock().unwrap().get_mut(&job.job_id).expect("inserted above") -= 1;
            (work.outcome)(&job)
        }
        .boxed()
    }
}

/// Adds a job called `name`.
async fn add(
    db: &Database,
    kind: Kind,
    name: &str,
    priority: i64,
    delay_us: i64,
) -> Result<String, StoreError> {
    let payload = format!("\"{name}\"");
    let new = NewJob { kind, tenant: "acme", priority, payload, server_id: "node", max_attempts: 3 };
    let row = JobRow { due_us: delay_us, ..new.row() };
    let id = row.job_id.clone();
    let own = Clock::system().steady().micros();
    bongsu::write_tx!(db, |conn, q| Ok(q::jobs::add(conn, row, own).await?))?;
    Ok(id)
}

fn desk(db: &Database) -> JobDesk {
    JobDesk::new(db.clone(), Clock::system(), JobWake::default())
}

async fn in_state(db: &Database, state: State) -> Vec<JobRow> {
    desk(db).page(None, state, "", 1000).await.expect("jobs")
}

/// Waits until so many jobs are in a state.
async fn reach(db: &Database, state: State, count: usize) -> Vec<JobRow> {
    eventually(&format!("{count} jobs to be {}", state.as_str()), async || {
        Some(in_state(db, state).await).filter(|rows| rows.len() == count)
    })
    .await
}

const LONG: Duration = Duration::from_secs(30);

#[test]
fn the_most_urgent_is_done_first_and_then_what_was_due_first() {
    on_both(|db| async move {
        for (name, priority, delay_s) in
            [("d", 4, -90), ("c", 2, -50), ("b", 2, -80), ("a", 1, -10), ("later", 1, 3600)]
        {
            add(&db, AGAIN, name, priority, delay_s * 1_000_000).await?;
        }
        let work = Work::with(true, |_| Ok(Completion::Done));
        let (jobs, _) = work.node(&db, 1, LONG);
        reach(&db, State::Done, 4).await;
        let names: Vec<String> = work.begun().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["\"a\"", "\"b\"", "\"c\"", "\"d\""]);
        assert_eq!(in_state(&db, State::Pending).await[0].payload, "\"later\"");
        jobs.stop().await;
        Ok(())
    });
}

#[test]
fn a_channel_works_on_no_more_than_it_may_and_holds_up_no_other() {
    on_both(|db| async move {
        for number in 0..5 {
            add(&db, AGAIN, &number.to_string(), 1, 0).await?;
        }
        add(&db, ELSEWHERE, "other", 4, 0).await?;
        let work = Work::with(false, |_| Ok(Completion::Done));
        let (jobs, _) = work.node(&db, 2, LONG);
        work.has_begun(3).await;
        assert_eq!(in_state(&db, State::Sending).await.len(), 3);
        assert!(work.begun().iter().any(|(name, _)| name == "\"other\""));
        assert_eq!(in_state(&db, State::Pending).await.len(), 3);
        work.gate.add_permits(100);
        reach(&db, State::Done, 6).await;
        jobs.stop().await;
        Ok(())
    });
}

#[test]
fn what_fails_is_tried_again_and_after_its_last_attempt_dead() {
    on_both(|db| async move {
        add(&db, AGAIN, "fails twice", 1, 0).await?;
        add(&db, AGAIN, "always fails", 1, 0).await?;
        add(&db, AGAIN, "will always fail", 1, 0).await?;
        add(&db, AGAIN, "panics", 1, 0).await?;
        let work = Work::with(true, |job| match job.payload.as_str() {
            "\"fails twice\"" if job.attempts == 3 => Ok(Completion::Done),
            "\"will always fail\"" => Err(Failure::lasting("gone")),
            "\"panics\"" => panic!("as it was told to"),
            _ => Err(Failure::passing("busy")),
        });
        let (jobs, _) = work.node(&db, 4, LONG);
        let dead = reach(&db, State::Dead, 3).await;
        reach(&db, State::Done, 1).await;
        let told: Vec<(&str, i64, Option<&str>)> =
            dead.iter().map(|row| (&*row.payload, row.attempts, row.error.as_deref())).collect();
        let expected = [
            ("\"always fails\"", 3, Some("busy")),
            ("\"will always fail\"", 1, Some("gone")),
            ("\"panics\"", 3, Some("its handler panicked")),
        ];
        assert_eq!(told, expected);
        assert!(dead.iter().all(|row| row.finished_us.is_some() && row.deadline_us.is_none()));
        jobs.stop().await;
        Ok(())
    });
}

#[test]
fn a_job_waits_as_long_as_the_other_side_asks_for() {
    on_both(|db| async move {
        add(&db, AGAIN, "asked to wait", 1, 0).await?;
        let work = Work::with(true, |_| {
            let hour = Some(Duration::from_secs(3600));
            Err(Failure { retry_after: hour, ..Failure::passing("too many") })
        });
        let (jobs, _) = work.node(&db, 1, LONG);
        let waiting = reach(&db, State::Retry, 1).await.remove(0);
        let delay = waiting.due_us - waiting.created_us;
        assert!((3_600_000_000..3_700_000_000).contains(&delay), "{delay}");
        jobs.stop().await;
        Ok(())
    });
}

#[test]
fn an_attempt_that_takes_too_long_is_given_up() {
    on_both(|db| async move {
        add(&db, AGAIN, "slow", 1, 0).await?;
        let work = Work::with(false, |_| Ok(Completion::Done));
        let (jobs, _) = work.node(&db, 1, Duration::from_millis(20));
        let dead = reach(&db, State::Dead, 1).await.remove(0);
        assert_eq!((dead.attempts, dead.error.as_deref()), (3, Some("it took too long")));
        jobs.stop().await;
        Ok(())
    });
}

/// Marks what is being worked on as a node that was killed in the middle of it leaves it.
async fn kill_its_node(db: &Database, id: &str) -> Result<(), StoreError> {
    let own = Clock::system().steady().micros();
    bongsu::write_tx!(db, |conn, q| {
        let kinds = [AGAIN.name, ONCE.name];
        let now = q::time::now_us(conn, own).await?;
        let taken = q::jobs::take(conn, ("work", &kinds), 10, (now, now - 1)).await?;
        assert!(taken.iter().any(|job| job.job_id == id));
        Ok(())
    })
}

#[test]
fn what_a_dead_node_was_working_on_is_done_by_another_unless_it_must_not_be_done_twice() {
    on_both(|db| async move {
        let work = Work::with(true, |_| Ok(Completion::Done));
        add(&db, ONCE, "once", 1, 0).await?;
        let again = add(&db, AGAIN, "again", 1, 0).await?;
        kill_its_node(&db, &again).await?;
        let (jobs, _) = work.node(&db, 2, LONG);
        let done = reach(&db, State::Done, 1).await.remove(0);
        assert_eq!((done.job_id, done.attempts), (again, 2));
        let dead = reach(&db, State::Dead, 1).await.remove(0);
        assert_eq!((&*dead.payload, dead.attempts), ("\"once\"", 1));
        assert_eq!(work.begun(), [("\"again\"".to_owned(), 2)]);
        jobs.stop().await;
        Ok(())
    });
}

#[test]
fn whoever_is_late_finds_that_the_attempt_is_not_the_present_one() {
    on_both(|db| async move {
        let id = add(&db, AGAIN, "again", 1, 0).await?;
        kill_its_node(&db, &id).await?;
        let late = in_state(&db, State::Sending).await.remove(0);
        let work = Work::with(false, |_| Ok(Completion::Done));
        let (jobs, _) = work.node(&db, 1, LONG);
        work.has_begun(1).await;
        let finished = bongsu::write_tx!(db, |conn, q| Ok(q::jobs::finish(conn, &late, 1).await?))?;
        assert!(!finished, "the second attempt is under way");
        work.gate.add_permits(1);
        assert_eq!(reach(&db, State::Done, 1).await[0].attempts, 2);
        jobs.stop().await;
        Ok(())
    });
}

#[test]
fn whoever_is_late_with_an_attempt_of_a_job_that_was_dead_since_changes_nothing() {
    on_both(|db| async move {
        let id = add(&db, AGAIN, "again", 1, 0).await?;
        kill_its_node(&db, &id).await?;
        let late = in_state(&db, State::Sending).await.remove(0);
        // given up, as after the last of its attempts, and wanted all the same
        let outcome = JobOutcome {
            state: "dead",
            due_us: late.due_us,
            deadline_us: None,
            error: None,
            finished_us: Some(1),
        };
        bongsu::write_tx!(db, |conn, q| Ok(q::jobs::settle(conn, (&id, 1), &outcome).await?))?;
        assert_eq!(desk(&db).revive(None, &id).await?, Revived::Due);
        kill_its_node(&db, &id).await?;
        let present = in_state(&db, State::Sending).await.remove(0);
        assert_eq!((present.attempts, present.last_attempt()), (2, 4));
        let finish = async |job| bongsu::write_tx!(db, |conn, q| Ok(q::jobs::finish(conn, &job, 1).await?));
        assert_eq!((finish(late).await?, finish(present).await?), (false, true));
        Ok(())
    });
}

/// What `EXPLAIN` says.
#[derive(diesel::QueryableByName)]
struct Detail {
    #[diesel(sql_type = diesel::sql_types::Text)]
    detail: String,
}

#[test]
fn jobs_are_counted_without_those_that_are_done() {
    use diesel::{Connection, RunQueryDsl, SqliteConnection};
    on_both(|db| async move {
        for number in 0..3 {
            add(&db, AGAIN, &number.to_string(), 1, 0).await?;
        }
        let (now, kinds) = (Clock::system().steady().micros(), [AGAIN.name]);
        bongsu::write_tx!(db, |conn, q| {
            let taken = q::jobs::take(conn, ("work", &kinds), 1, (now + 60_000_000, now)).await?;
            assert!(q::jobs::finish(conn, &taken[0], now).await?);
            Ok::<_, StoreError>(())
        })?;
        let figures = bongsu::read!(db, |conn, q| q::jobs::figures(conn).await)?;
        let told: Vec<_> =
            figures.iter().map(|own| (&*own.state, &*own.channel, own.count, own.due_us.is_some())).collect();
        assert_eq!(told, [("pending", "work", 2, true)]);
        Ok(())
    });
    // by an index that holds no others
    let dir = tempfile::tempdir().expect("a directory");
    on(String::new(), dir.path(), &|_| async { Ok(()) });
    let path = dir.path().join("bongsu.db");
    let mut database = SqliteConnection::establish(&path.to_string_lossy()).expect("the database opens");
    let explain = "EXPLAIN QUERY PLAN SELECT state, channel, count(*), min(due_us) FROM jobs \
        WHERE state <> 'done' GROUP BY state, channel";
    let plan: Vec<Detail> = diesel::sql_query(explain).load(&mut database).expect("a plan");
    assert!(plan.len() == 1 && plan[0].detail.contains("COVERING INDEX jobs_open"), "{}", plan[0].detail);
}

#[test]
fn several_nodes_do_every_job_once_and_never_one_at_the_same_time() {
    const JOBS: usize = 120;
    on_both(|db| async move {
        let work = Work::with(true, |_| Ok(Completion::Done));
        let nodes: Vec<_> = (0..3).map(|_| work.node(&db, 4, LONG)).collect();
        for number in 0..JOBS {
            add(&db, AGAIN, &number.to_string(), 1, 0).await?;
            nodes.iter().for_each(|(_, wake)| wake.wake());
        }
        reach(&db, State::Done, JOBS).await;
        let mut begun = work.begun();
        begun.sort();
        begun.dedup();
        assert_eq!((begun.len(), work.begun().len()), (JOBS, JOBS));
        assert!(work.twice_at_once.lock().unwrap().is_empty());
        for (jobs, _) in nodes {
            jobs.stop().await;
        }
        Ok(())
    });
}

#[test]
fn a_node_that_ends_finishes_what_it_has_begun_and_begins_nothing_more() {
    on_both(|db| async move {
        add(&db, AGAIN, "first", 1, 0).await?;
        let work = Work::with(false, |_| Ok(Completion::Done));
        let (jobs, wake) = work.node(&db, 1, LONG);
        work.has_begun(1).await;
        let ending = tokio::spawn(async move { jobs.stop().await });
        add(&db, AGAIN, "second", 1, 0).await?;
        wake.wake();
        work.gate.add_permits(10);
        ending.await.expect("no panic");
        assert_eq!(in_state(&db, State::Done).await.len(), 1);
        assert_eq!(in_state(&db, State::Pending).await[0].payload, "\"second\"");
        Ok(())
    });
}

#[test]
fn jobs_that_were_done_are_forgotten_after_a_while_and_dead_ones_are_not() {
    on_both(|db| async move {
        add(&db, AGAIN, "done", 1, 0).await?;
        add(&db, AGAIN, "dead", 1, 0).await?;
        let work = Work::with(true, |job| match job.payload.as_str() {
            "\"done\"" => Ok(Completion::Done),
            _ => Err(Failure::lasting("no")),
        });
        let options = JobOptions {
            channels: vec![("work", 1), ("other", 1)],
            poll: Duration::from_millis(50),
            attempt: LONG,
            backoff: Backoff { first: Duration::from_millis(20) },
            keep_done: Duration::ZERO,
        };
        let (jobs, _) = work.node_with(&db, options);
        work.has_begun(2).await;
        reach(&db, State::Dead, 1).await;
        reach(&db, State::Done, 0).await;
        assert_eq!(in_state(&db, State::Pending).await, []);
        jobs.stop().await;
        Ok(())
    });
}
