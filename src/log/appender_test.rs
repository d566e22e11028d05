//! The appender when a transaction's outcome is not known, and when what is stored is damaged.

use std::sync::Arc;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::append::Source;
use super::appender::Appender;
use super::batch::{Relay, new_tenant};
use super::floor::Floor;
use super::head_file::HeadFile;
use super::retention::Retention;
use super::tenant_log::WindowRead;
use super::tenant_logs::TenantLogs;
use super::trimming::TRIM_BATCH;
use super::{
    AppendRequest, Appended, Dedup, EventLog, Idempotency, LogError, LogObserver, LogOptions, NewEvent,
    NodeNotice, PageLimit, TenantLog,
};
use crate::actor_kit::Mailbox;
use crate::clock::Clock;
use crate::domain::{Class, EventName, Selector, TenantId, Topic};
use crate::settings::Settings;
use crate::storage::{Database, DatabaseOptions, LogTx, LogWriter, PostgresOptions, StoreError};
use crate::telemetry::Metrics;
use crate::wire::Event;

struct Nobody;
impl LogObserver for Nobody {
    fn advanced(&self, _: &Arc<TenantLog>) {}
    fn renewed(&self, _: &Arc<TenantLog>) {}
    fn lost(&self, _: &TenantId) {}
    fn announced(&self, _: &NodeNotice) {}
    fn volatile(&self, _: &Arc<TenantLog>, _: Arc<Event>) {}
}

/// An appender on a database of its own, driven by hand.
struct Scene {
    dir: TempDir,
    logs: Arc<TenantLogs>,
    appender: Appender,
}

fn tenant() -> TenantId {
    TenantId::default_tenant()
}

fn topic() -> Topic {
    Topic::parse("topic:a").unwrap()
}

fn event(data: &str) -> NewEvent {
    NewEvent {
        topic: topic(),
        name: EventName::parse("tick").unwrap(),
        class: Class::Durable,
        key: None,
        version: None,
        ttl: None,
        dedup: None,
        data: data.into(),
        public: None,
    }
}

fn other(data: &str) -> NewEvent {
    NewEvent { topic: Topic::parse("topic:b").unwrap(), ..event(data) }
}

fn request(event: NewEvent) -> AppendRequest {
    AppendRequest { tenant: tenant(), groups: vec![vec![event]], idempotency: None }
}

fn at(seq: u64) -> Result<Vec<Appended>, LogError> {
    Ok(vec![Appended::At { seq, duplicate: false }])
}

impl Scene {
    async fn set(retention_count: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = DatabaseOptions {
            url: String::new(),
            data_dir: dir.path().to_owned(),
            connections: 1,
            wait: Duration::from_secs(5),
            max_bytes: 0,
            postgres: PostgresOptions::default(),
        };
        let metrics = Arc::new(Metrics::default());
        let database = Database::open(&options, Handle::current(), &metrics).await.unwrap();
        database.migrate().await.unwrap();
        database.log_transaction(|tx| tx.create_commit("instance", "holder")).await.unwrap();
        let defaults = LogOptions::from(&Settings::defaults());
        let retention = Retention { count: retention_count, ..defaults.retention };
        let options = LogOptions { retention, ..defaults };
        let logs = TenantLogs::new(database, (Clock::system(), metrics), options, Arc::new(Nobody));
        let (_, jobs) = mpsc::channel(1);
        let head_file = HeadFile::open(dir.path()).unwrap();
        let mailbox = Mailbox::new(1, logs.metrics.mailboxes("appender"));
        let writer = LogWriter::new(logs.database.clone(), "holder");
        let own = (writer, head_file, "instance".to_owned());
        let appender = Appender::new(logs.clone(), (jobs, mailbox), own, Vec::new());
        Scene { dir, logs, appender }
    }

    async fn append(
        &mut self,
        requests: Vec<AppendRequest>,
    ) -> Result<Vec<Result<Vec<Appended>, LogError>>, StoreError> {
        let requests = requests.into_iter().map(|request| (request, Source::current())).collect();
        self.appender.commit(requests, Relay::None).await.map(|(answers, _)| answers)
    }

    /// Commits what the appender does not hear the end of.
    async fn append_unheard(&mut self, data: &str) {
        let mut batch = self.appender.batch();
        let requests = vec![(request(event(data)), Source::current())];
        let committed =
            self.logs.database.log_transaction(move |tx| batch.carry_out(tx, &requests, Relay::None)).await;
        assert_eq!(committed.unwrap().rows.len(), 1);
        self.appender.in_doubt = true;
    }

    async fn trim(&mut self) {
        self.appender.look_for_trims().await;
        while self.appender.trim_some().await {}
    }

    fn sql(&self, text: &str) {
        let url = self.dir.path().join("bongsu.db");
        let mut conn = SqliteConnection::establish(&url.to_string_lossy()).unwrap();
        conn.batch_execute(text).unwrap();
    }

    /// How many entries the tenant's log holds.
    async fn stored(&self) -> usize {
        let oldest = |tx: &mut LogTx<'_>| tx.oldest(tenant().as_str(), 0, i64::MAX);
        self.logs.database.log_transaction(oldest).await.unwrap().len()
    }

    fn log(&self) -> Arc<TenantLog> {
        self.logs.tenant(&tenant()).unwrap()
    }

    /// Whether something after a number may be missed by who hears the topic.
    fn is_evicted(&self, seq: u64) -> bool {
        self.log().is_evicted(&[Selector::Topic(topic())], seq, self.logs.clock.steady())
    }

    /// The data of what is in the window after a number; None where something may have been trimmed.
    fn after(&self, seq: u64) -> Option<Vec<String>> {
        let selectors: Arc<[Selector]> = [Selector::Topic(topic())].into();
        match self.log().select(
            &selectors,
            seq,
            (PageLimit { events: 100, bytes: 1 << 20 }, self.logs.clock.steady()),
        ) {
            WindowRead::Evicted => None,
            WindowRead::Older { before } => panic!("the window begins at {before}"),
            WindowRead::Events { events, .. } => {
                Some(events.iter().map(|event| event.parts().full.data().to_owned()).collect())
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_is_told_of_new_entities_is_told_before_anybody_can_read_the_entry() {
    let mut scene = Scene::set(1000).await;
    let (told, heads) = std::sync::mpsc::sync_channel(8);
    let logs = Arc::downgrade(&scene.logs);
    scene.logs.on_created(Box::new(move |tenant, created| {
        let head = logs.upgrade().unwrap().tenant(tenant).unwrap().head().seq;
        told.send((created.seq(), head)).unwrap();
    }));
    let created = NewEvent { name: EventName::trusted(EventName::ENTITY_CREATED), ..event("{}") };
    let requests = vec![request(event("1")), request(created.clone()), request(event("3"))];
    scene.append(requests).await.unwrap();
    scene.append(vec![request(created)]).await.unwrap();
    assert_eq!(heads.try_iter().collect::<Vec<_>>(), [(2, 0), (4, 3)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_commit_of_unknown_outcome_stored_is_shown_before_the_next() {
    let mut scene = Scene::set(1000).await;
    assert_eq!(scene.append(vec![request(event("1"))]).await.unwrap(), [at(1)]);
    scene.append_unheard("2").await;
    assert_eq!(scene.after(0).unwrap(), ["1"]);
    assert_eq!(scene.append(vec![request(event("3"))]).await.unwrap(), [at(3)]);
    assert_eq!(scene.after(0).unwrap(), ["1", "2", "3"]);
    assert_eq!(scene.log().head().seq, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_log_that_a_transaction_of_unknown_outcome_made_is_not_made_again() {
    let mut scene = Scene::set(1000).await;
    scene.append_unheard("1").await;
    let log = scene.appender.open(tenant()).await.unwrap();
    assert_eq!((log.head().seq, scene.after(0).unwrap()), (1, vec!["1".to_owned()]));
    assert_eq!(scene.append(vec![request(event("2"))]).await.unwrap(), [at(2)]);
    assert_eq!(scene.after(0).unwrap(), ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_log_whose_making_failed_is_looked_for_before_it_is_made() {
    let mut scene = Scene::set(1000).await;
    scene.sql("CREATE TRIGGER fails BEFORE INSERT ON log_tenants BEGIN SELECT RAISE(ABORT, 'no'); END");
    scene.appender.open(tenant()).await.unwrap_err();
    scene.sql("DROP TRIGGER fails");
    // as if that had been stored after all
    let row = new_tenant(&tenant());
    let stored = row.clone();
    scene.logs.database.log_transaction(move |tx| tx.save_tenant(&stored)).await.unwrap();
    let log = scene.appender.open(tenant()).await.unwrap();
    assert_eq!(log.head().epoch.to_string(), row.epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_trim_begins_with_what_a_commit_of_unknown_outcome_stored() {
    let mut scene = Scene::set(2).await;
    scene.append(vec![request(event("1")), request(event("2"))]).await.unwrap();
    scene.append_unheard("3").await;
    scene.trim().await;
    assert_eq!((scene.after(0), scene.after(1).unwrap()), (None, vec!["2".to_owned(), "3".to_owned()]));
    assert_eq!(scene.append(vec![request(event("4"))]).await.unwrap(), [at(4)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_trim_that_failed_leaves_no_floor_behind() {
    let mut scene = Scene::set(2).await;
    scene.append((1..=5).map(|n| request(event(&n.to_string()))).collect()).await.unwrap();
    scene.sql("CREATE TRIGGER fails BEFORE DELETE ON log_entries BEGIN SELECT RAISE(ABORT, 'no'); END");
    scene.trim().await;
    scene.append(vec![request(event("6"))]).await.unwrap();
    assert_eq!(scene.after(0).unwrap(), ["1", "2", "3", "4", "5", "6"]);
    scene.sql("DROP TRIGGER fails");
    scene.trim().await;
    assert_eq!((scene.after(3), scene.after(4).unwrap()), (None, vec!["5".to_owned(), "6".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_trim_of_unknown_outcome_that_was_stored_keeps_its_floors() {
    let mut scene = Scene::set(2).await;
    scene.append((1..=5).map(|n| request(event(&n.to_string()))).collect()).await.unwrap();
    let trim = |tx: &mut LogTx<'_>| {
        tx.trim(tenant().as_str(), 3, &[Floor::lasting(3).to_row(tenant().as_str(), "topic:a")])?;
        let mut row = tx.tenants()?.remove(0);
        row.trimmed = 3;
        tx.save_tenant(&row)
    };
    scene.logs.database.log_transaction(trim).await.unwrap();
    scene.appender.in_doubt = true;
    scene.append(vec![request(event("6"))]).await.unwrap();
    assert_eq!(
        (scene.after(2), scene.after(3).unwrap()),
        (None, vec!["4".to_owned(), "5".to_owned(), "6".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stored_answer_that_cannot_be_read_fails_its_own_request_only() {
    let mut scene = Scene::set(1000).await;
    let own = |key: &str| {
        let (principal, request_hash) = ("somebody".to_owned(), "hash".to_owned());
        let keep = Duration::from_secs(60);
        let idempotency = Some(Idempotency { principal, key: key.to_owned(), request_hash, keep });
        AppendRequest { idempotency, ..request(event("1")) }
    };
    assert_eq!(scene.append(vec![own("damaged"), own("well")]).await.unwrap(), [at(1), at(2)]);
    scene.sql("UPDATE log_answers SET answer = '{' WHERE key = 'damaged'");
    let answers = scene.append(vec![own("damaged"), request(event("3")), own("well")]).await.unwrap();
    assert!(matches!(answers[0], Err(LogError::Unreadable)), "{answers:?}");
    assert_eq!(answers[1..], [at(3), at(2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_volatile_event_has_no_number_even_when_its_name_was_a_durable_ones() {
    let mut scene = Scene::set(1000).await;
    let named = |class| {
        let dedup = Some(Dedup { key: "name".to_owned(), window: Duration::from_secs(60) });
        request(NewEvent { class, dedup, ..event("1") })
    };
    assert_eq!(scene.append(vec![named(Class::Durable)]).await.unwrap(), [at(1)]);
    let again = scene.append(vec![named(Class::Volatile)]).await.unwrap();
    assert_eq!(again, [Ok(vec![Appended::At { seq: 0, duplicate: true }])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_trim_forgets_no_version_of_what_is_still_there_though_a_volatile_event_had_a_newer_one() {
    let mut scene = Scene::set(3).await;
    let versioned = |class, version| request(NewEvent { class, version: Some(version), ..event("1") });
    let entries = [request(event("1")), versioned(Class::Durable, 5), versioned(Class::Volatile, 6)];
    assert_eq!(scene.append(entries.into()).await.unwrap()[2], at(0));
    scene.append(vec![request(event("3")), request(event("4"))]).await.unwrap();
    scene.trim().await;
    assert_eq!(scene.after(1).map(|events| events.len()), Some(3), "the first one has gone");
    let stale = scene.append(vec![versioned(Class::Durable, 4)]).await.unwrap();
    assert_eq!(stale, [Ok(vec![Appended::Stale { stored: 6 }])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn publishes_do_not_wait_until_a_backlog_is_trimmed() {
    const BATCHES: i64 = 40;
    let mut scene = Scene::set(1_000_000).await;
    for _ in 0..BATCHES {
        scene.append((0..TRIM_BATCH).map(|_| request(event("1"))).collect()).await.unwrap();
    }
    scene.sql("UPDATE log_entries SET at_us = 0");
    let Scene { dir, logs, appender } = scene;
    drop(appender);
    let (database, means, options) =
        (logs.database.clone(), (logs.clock, logs.metrics.clone()), logs.options);
    drop(logs);
    let place = (dir.path(), false);
    let log = EventLog::embedded(database.clone(), place, means, options, Arc::new(Nobody)).await.unwrap();
    let appended = log.append(request(event("2"))).await.map(|(_, outcomes)| outcomes);
    assert_eq!(appended, at((BATCHES * TRIM_BATCH + 1) as u64));
    let count = |tx: &mut LogTx<'_>| tx.oldest(tenant().as_str(), 0, i64::MAX);
    let left = database.log_transaction(count).await.unwrap().len() as i64;
    assert!(left > TRIM_BATCH, "{left} of {BATCHES} batches are left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_time_to_live_that_is_over_makes_no_cursor_evicted_though_it_ran_when_it_was_trimmed() {
    let mut scene = Scene::set(2).await;
    let short = |data| NewEvent { ttl: Some(Duration::from_millis(300)), ..event(data) };
    scene.append(vec![request(event("1")), request(short("2"))]).await.unwrap();
    scene.append((3..=5).map(|n| request(event(&n.to_string()))).collect()).await.unwrap();
    scene.trim().await;
    assert!(scene.is_evicted(1), "3 has gone for good");
    scene.append(vec![request(event("6")), request(short("7"))]).await.unwrap();
    scene.append(vec![request(other("8")), request(other("9"))]).await.unwrap();
    scene.trim().await;
    assert!(scene.is_evicted(6), "7 has gone and would still be sent");
    while scene.is_evicted(6) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(scene.is_evicted(5), "6 is missed for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_trim_by_age_that_took_everything_in_whole_batches_is_not_the_last() {
    let mut scene = Scene::set(1_000_000).await;
    for count in [TRIM_BATCH, 1] {
        scene.append((0..count).map(|n| request(event(&n.to_string()))).collect()).await.unwrap();
        scene.sql("UPDATE log_entries SET at_us = 0");
        assert_eq!(scene.stored().await, count as usize);
        scene.trim().await;
        assert_eq!(scene.stored().await, 0, "all {count} were too old");
    }
}
