//! One query file, two backends: the same calls leave the same rows.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bongsu::clock::Clock;
use bongsu::domain::{Class, EventName, TenantId, Topic};
use bongsu::log::{
    AppendRequest, Appended, EventLog, LogObserver, LogOptions, NewEvent, NodeNotice, TenantLog,
};
use bongsu::settings::Settings;
use bongsu::storage::{
    ApiKeyRow, Backend, BlockRow, Database, DatabaseOptions, DeclaredTopicRow, Feed, FleetRow,
    IdempotencyRow, OutboxRow, PostgresOptions, ProposalRow, ReadingRow, StorageRuntime, StoreError,
    TicketRow, TopicMemberRow,
};

use bongsu::telemetry::Metrics;
use bongsu::wire::Event;

use crate::support::postgres;

/// Runs `scenario` on SQLite, and on PostgreSQL where one is at hand.
fn on_both<F>(scenario: impl Fn(Database) -> F)
where
    F: Future<Output = Result<(), StoreError>> + Send + 'static,
{
    let dir = tempfile::tempdir().expect("a directory");
    on(&options(String::new(), dir.path()), &scenario);
    match postgres::database() {
        Some(url) => on(&options(url, dir.path()), &scenario),
        None => eprintln!("no BONGSU_TEST_POSTGRES_URL: SQLite only"),
    }
}

fn options(url: String, dir: &Path) -> DatabaseOptions {
    let wait = Duration::from_secs(5);
    DatabaseOptions {
        url,
        data_dir: dir.to_owned(),
        connections: 4,
        wait,
        max_bytes: 0,
        postgres: PostgresOptions::default(),
    }
}

fn on<F>(options: &DatabaseOptions, scenario: &impl Fn(Database) -> F)
where
    F: Future<Output = Result<(), StoreError>> + Send + 'static,
{
    let runtime = StorageRuntime::start().expect("a runtime");
    let handle = runtime.handle();
    let own = options.clone();
    let opened = runtime.block_on(handle.spawn(async move {
        let runtime = tokio::runtime::Handle::current();
        let database = Database::open(&own, runtime, &Metrics::default()).await?;
        assert!(!database.migrate().await?.is_empty(), "the first run migrates");
        assert!(database.migrate().await?.is_empty(), "the second finds nothing to do");
        Ok::<_, StoreError>(database)
    }));
    let database = opened.expect("no panic").expect("a database");
    runtime.block_on(handle.spawn(scenario(database))).expect("no panic").expect("the scenario");
}

fn key(id: &str) -> ApiKeyRow {
    ApiKeyRow {
        key_id: id.into(),
        hash: format!("hash of {id}"),
        tenant: "acme".into(),
        scopes: "publish".into(),
        sub: None,
        development: false,
        created_us: 1,
        revoked_us: None,
    }
}

#[test]
fn keys_move_their_generation_and_are_revoked_once() {
    on_both(|db| async move {
        bongsu::write_tx!(db, |conn, q| Ok(q::api_keys::insert(conn, &key("a")).await?))?;
        let twice = bongsu::write_tx!(db, |conn, q| Ok(q::api_keys::insert(conn, &key("a")).await?));
        assert!(matches!(twice, Err(StoreError::Exists)), "{twice:?}");
        let before = bongsu::read!(db, |conn, q| q::generations::of(conn, Feed::Keys).await)?;
        let others =
            bongsu::write_tx!(db, |conn, q| Ok(q::api_keys::revoke(conn, Some("other"), "a", 5).await?))?;
        let first =
            bongsu::write_tx!(db, |conn, q| Ok(q::api_keys::revoke(conn, Some("acme"), "a", 6).await?))?;
        let again = bongsu::write_tx!(db, |conn, q| Ok(q::api_keys::revoke(conn, None, "a", 7).await?))?;
        assert_eq!((others, first, again), (None, Some(true), Some(false)));
        let after = bongsu::read!(db, |conn, q| q::generations::of(conn, Feed::Keys).await)?;
        let all = bongsu::read!(db, |conn, q| q::api_keys::all(conn).await)?;
        assert_eq!((after, all.len(), all[0].revoked_us), (before + 1, 1, Some(6)));
        Ok(())
    });
}

#[test]
fn kicks_and_revoked_tickets_are_found_by_their_generation() {
    on_both(|db| async move {
        let start = bongsu::read!(db, |conn, q| q::generations::of(conn, Feed::Revocations).await)?;
        let kick =
            async |at| bongsu::write_tx!(db, |conn, q| Ok(q::kicks::kick(conn, "acme", "kim", at).await?));
        let (first, earlier, later) = (kick(50).await?, kick(40).await?, kick(60).await?);
        let moments = [first.not_before_us, earlier.not_before_us, later.not_before_us];
        assert_eq!(moments, [50, 50, 60], "a kick is never taken back");
        assert_eq!(later.generation, start + 3);
        let all = bongsu::read!(db, |conn, q| q::kicks::since(conn, start).await)?;
        let news = bongsu::read!(db, |conn, q| q::kicks::since(conn, later.generation).await)?;
        assert_eq!((all, news), (vec![later], vec![]), "one row a user");
        bongsu::write_tx!(db, |conn, q| Ok(q::tickets::insert(conn, &ticket("t", 99), 0).await?))?;
        let revoke = async |tenant, mine: bool| {
            bongsu::write_tx!(db, |conn, q| Ok(q::tickets::revoke(conn, tenant, "t", |_| mine).await?))
        };
        assert_eq!((revoke("other", true).await?, revoke("acme", false).await?), (None, None));
        assert_eq!((revoke("acme", true).await?, revoke("acme", true).await?), (Some(()), Some(())));
        let revoked = bongsu::read!(db, |conn, q| q::tickets::revoked_since(conn, start + 3).await)?;
        let found = bongsu::read!(db, |conn, q| q::tickets::find(conn, "hash of t").await)?;
        assert_eq!(revoked, [("t".to_owned(), 99)]);
        assert_eq!(found.and_then(|row| row.revoked_generation), Some(start + 4));
        Ok(())
    });
}

#[test]
fn members_keep_their_first_grant_until_it_is_withdrawn() {
    on_both(|db| async move {
        let member = |sub: &str, since: &str, generation| TopicMemberRow {
            tenant: "acme".into(),
            name: "crew".into(),
            sub: sub.into(),
            since: Some(since.into()),
            generation,
        };
        let topic = |membership, generation| DeclaredTopicRow {
            tenant: "acme".into(),
            name: "crew".into(),
            membership,
            created_us: 1,
            generation,
        };
        let moved =
            async || bongsu::write_tx!(db, |conn, q| Ok(q::generations::advance(conn, Feed::Topics).await?));
        assert_eq!((moved().await?, moved().await?), (1, 2));
        for row in [topic(true, 1), topic(false, 2)] {
            bongsu::write_tx!(db, |conn, q| Ok(q::topics::save(conn, &row).await?))?;
        }
        let found = bongsu::read!(db, |conn, q| q::topics::find(conn, "acme", "crew").await)?;
        assert_eq!(found, Some(topic(false, 2)));
        let grant = async |rows: Vec<TopicMemberRow>| {
            bongsu::write_tx!(db, |conn, q| Ok(q::topics::grant(conn, &rows).await?))
        };
        grant(vec![member("kim", "p1", 3), member("lee", "p1", 3)]).await?;
        grant(vec![member("kim", "p2", 4), member("김", "p2", 4)]).await?;
        let gone = vec!["lee".to_owned(), "nobody".to_owned()];
        bongsu::write_tx!(db, |conn, q| Ok(q::topics::withdraw(conn, "acme", "crew", &gone, 5).await?))?;
        let now = bongsu::read!(db, |conn, q| q::topics::members(conn, "acme", "crew", "", 9).await)?;
        assert_eq!(now, [member("kim", "p1", 3), member("김", "p2", 4)]);
        let page = bongsu::read!(db, |conn, q| q::topics::members(conn, "acme", "crew", "kim", 9).await)?;
        assert_eq!(page, [member("김", "p2", 4)]);
        grant(vec![member("lee", "p3", 6)]).await?;
        let mut news = bongsu::read!(db, |conn, q| q::topics::members_since(conn, 3).await)?;
        news.sort_by_key(|row| row.generation);
        assert_eq!(news, [member("김", "p2", 4), member("lee", "p3", 6)]);
        let count = bongsu::read!(db, |conn, q| q::topics::count_members(conn, "acme", "crew").await)?;
        let changed = bongsu::read!(db, |conn, q| q::topics::since(conn, 2).await)?;
        assert_eq!((count, changed), (3, vec![]));
        Ok(())
    });
}

#[test]
fn the_secret_of_an_installation_is_made_once() {
    on_both(|db| async move {
        let first =
            bongsu::write_tx!(db, |conn, q| Ok(q::token_secrets::find_or_insert(conn, "one", 1).await?))?;
        let again =
            bongsu::write_tx!(db, |conn, q| Ok(q::token_secrets::find_or_insert(conn, "two", 2).await?))?;
        assert_eq!((first.as_str(), again.as_str()), ("one", "one"));
        Ok(())
    });
}

#[test]
fn the_block_list_moves_its_generation_and_forgets_what_has_expired() {
    fn block(cidr: &str, created_us: i64, expires_us: Option<i64>) -> BlockRow {
        BlockRow { cidr: cidr.to_owned(), reason: None, created_us, expires_us }
    }
    on_both(|db| async move {
        let keys = bongsu::read!(db, |conn, q| q::generations::of(conn, Feed::Keys).await)?;
        let before = bongsu::read!(db, |conn, q| q::generations::of(conn, Feed::BlockList).await)?;
        for row in [
            block("192.0.2.0/24", 1, Some(10)),
            block("198.51.100.1/32", 2, None),
            block("192.0.2.0/24", 3, Some(20)),
        ] {
            bongsu::write_tx!(db, |conn, q| Ok(q::block_list::put(conn, &row).await?))?;
        }
        let of = async |now_us| {
            bongsu::read!(db, |conn, q| {
                Ok::<_, StoreError>(q::block_list::page(conn, "", now_us, 10).await?)
            })
        };
        let at_10 = of(10).await?;
        assert_eq!(at_10, [block("192.0.2.0/24", 3, Some(20)), block("198.51.100.1/32", 2, None)]);
        assert_eq!(of(20).await?, [block("198.51.100.1/32", 2, None)]);
        let row = block("203.0.113.0/24", 20, None);
        bongsu::write_tx!(db, |conn, q| Ok(q::block_list::put(conn, &row).await?))?;
        assert_eq!(bongsu::read!(db, |conn, q| q::block_list::count(conn).await)?, 2);
        for removed in [true, false] {
            let own =
                bongsu::write_tx!(db, |conn, q| Ok(q::block_list::remove(conn, "203.0.113.0/24").await?))?;
            assert_eq!(own, removed);
        }
        let after = bongsu::read!(db, |conn, q| q::generations::of(conn, Feed::BlockList).await)?;
        assert_eq!(after, before + 5);
        assert_eq!(bongsu::read!(db, |conn, q| q::generations::of(conn, Feed::Keys).await)?, keys);
        Ok(())
    });
}

#[test]
fn a_transaction_that_fails_leaves_nothing() {
    on_both(|db| async move {
        let failed: Result<(), StoreError> = bongsu::write_tx!(db, |conn, q| {
            q::fleets::insert(conn, &fleet("FLT-1", 1)).await?;
            q::outbox::insert(conn, &outbox(1)).await?;
            Err(StoreError::Unexpected("on purpose".into()))
        });
        assert!(failed.is_err());
        let found = bongsu::read!(db, |conn, q| q::fleets::find(conn, "acme", "FLT-1").await)?;
        let backlog = bongsu::read!(db, |conn, q| q::outbox::backlog(conn).await)?;
        assert_eq!((found, backlog), (None, (0, None)));
        Ok(())
    });
}

fn ticket(id: &str, expires_us: i64) -> TicketRow {
    TicketRow {
        ticket_id: id.into(),
        hash: format!("hash of {id}"),
        tenant: "acme".into(),
        key_id: Some("a".into()),
        sub: None,
        path: None,
        topics: Some("[]".into()),
        first_use_by_us: 5,
        first_used_us: None,
        expires_us,
        roles: "[]".into(),
        carriers: "[]".into(),
        issued_us: 1,
        revoked_generation: None,
    }
}

fn fleet(id: &str, version: i64) -> FleetRow {
    let (tenant, fleet_id, grade) = ("acme".to_owned(), id.to_owned(), "B".to_owned());
    FleetRow {
        tenant,
        fleet_id,
        ei: 72_500_000 + version,
        grade,
        measured_us: version,
        updated_us: version,
        version,
    }
}

fn outbox(created_us: i64) -> OutboxRow {
    OutboxRow {
        id: 0,
        tenant: "acme".into(),
        topic: "fleet:FLT-1".into(),
        name: "ei_updated".into(),
        class: "latest".into(),
        key: Some("FLT-1".into()),
        version: Some(1),
        data: "{\"ü\":1}".into(),
        public: None,
        origin: None,
        created_us,
    }
}

#[test]
fn fleets_keep_their_state_their_order_and_a_bounded_history() {
    on_both(|db| async move {
        bongsu::write_tx!(db, |conn, q| {
            for id in ["FLT-2", "FLT-1", "FLT-3"] {
                q::fleets::insert(conn, &fleet(id, 1)).await?;
            }
            for version in 1..=7 {
                let reading = ReadingRow {
                    tenant: "acme".into(),
                    fleet_id: "FLT-1".into(),
                    version,
                    ei: version,
                    grade: "A".into(),
                    measured_us: version,
                };
                q::fleets::add_reading(conn, &reading, 4).await?;
            }
            q::fleets::update(conn, &fleet("FLT-1", 7)).await?;
            q::outbox::insert(conn, &outbox(9)).await?;
            q::outbox::insert(conn, &outbox(8)).await?;
            Ok(())
        })?;
        let locked =
            bongsu::write_tx!(db, |conn, q| Ok(q::fleets::find_locked(conn, "acme", "FLT-1").await?))?;
        assert_eq!(locked, Some(fleet("FLT-1", 7)));
        let page = bongsu::read!(db, |conn, q| q::fleets::page(conn, "acme", "FLT-1", 10).await)?;
        assert_eq!(page.iter().map(|row| row.fleet_id.as_str()).collect::<Vec<_>>(), ["FLT-2", "FLT-3"]);
        let foreign = bongsu::read!(db, |conn, q| q::fleets::page(conn, "other", "", 10).await)?;
        assert_eq!(foreign, []);
        let readings = bongsu::read!(db, |conn, q| q::fleets::readings(conn, "acme", "FLT-1", 7, 2).await)?;
        assert_eq!(readings.iter().map(|row| row.version).collect::<Vec<_>>(), [6, 5]);
        let all = bongsu::read!(db, |conn, q| q::fleets::readings(conn, "acme", "FLT-1", 100, 100).await)?;
        assert_eq!(all.len(), 4);
        assert_eq!(bongsu::read!(db, |conn, q| q::outbox::backlog(conn).await)?, (2, Some(8)));
        Ok(())
    });
}

#[test]
fn answers_and_tickets_end_with_their_time() {
    on_both(|db| async move {
        let answer = |expires_us| IdempotencyRow {
            tenant: "acme".into(),
            principal: "key:a".into(),
            key: "k".into(),
            request_hash: "h".into(),
            answer: "{}".into(),
            expires_us,
        };
        bongsu::write_tx!(db, |conn, q| Ok(q::idempotency::store(conn, &answer(10), 0).await?))?;
        let find = async |now| {
            bongsu::read!(db, |conn, q| q::idempotency::find(conn, ("acme", "key:a", "k"), now)
                .await
                .map_err(StoreError::from))
        };
        assert_eq!((find(9).await?, find(10).await?), (Some(answer(10)), None));
        bongsu::write_tx!(db, |conn, q| Ok(q::idempotency::store(conn, &answer(20), 11).await?))?;
        assert_eq!(find(11).await?, Some(answer(20)));

        bongsu::write_tx!(db, |conn, q| Ok(q::tickets::insert(conn, &ticket("old", 10), 0).await?))?;
        bongsu::write_tx!(db, |conn, q| Ok(q::tickets::insert(conn, &ticket("new", 99), 50).await?))?;
        bongsu::write_tx!(db, |conn, q| Ok(
            q::tickets::mark_used(conn, "new", ("/p", Some("[]")), 51).await?
        ))?;
        bongsu::write_tx!(db, |conn, q| Ok(q::tickets::mark_used(conn, "new", ("/p", None), 52).await?))?;
        let old = bongsu::read!(db, |conn, q| q::tickets::find(conn, "hash of old").await)?;
        let new = bongsu::read!(db, |conn, q| q::tickets::find(conn, "hash of new").await)?;
        assert_eq!((old, new.and_then(|row| row.first_used_us)), (None, Some(51)));
        Ok(())
    });
}

#[test]
fn read_modify_write_under_a_lock_loses_no_update() {
    on_both(|db| async move {
        bongsu::write_tx!(db, |conn, q| Ok(q::fleets::insert(conn, &fleet("FLT-1", 0)).await?))?;
        let tasks = (0..8).map(|_| {
            let db = db.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    bongsu::write_tx!(db, |conn, q| {
                        let row =
                            q::fleets::find_locked(conn, "acme", "FLT-1").await?.expect("inserted above");
                        Ok(q::fleets::update(conn, &fleet("FLT-1", row.version + 1)).await?)
                    })?;
                }
                Ok::<_, StoreError>(())
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("no panic")?;
        }
        let found = bongsu::read!(db, |conn, q| q::fleets::find(conn, "acme", "FLT-1").await)?;
        assert_eq!(found.map(|row| row.version), Some(200));
        Ok(())
    });
}

struct Nobody;

impl LogObserver for Nobody {
    fn advanced(&self, _: &Arc<TenantLog>) {}
    fn renewed(&self, _: &Arc<TenantLog>) {}
    fn lost(&self, _: &TenantId) {}
    fn announced(&self, _: &NodeNotice) {}
    fn volatile(&self, _: &Arc<TenantLog>, _: Arc<Event>) {}
}

#[test]
fn readers_that_hold_every_connection_do_not_keep_the_log_from_appending() {
    let dir = tempfile::tempdir().expect("a directory");
    let wait = Duration::from_secs(60);
    let options = DatabaseOptions { wait, connections: 1, ..options(String::new(), dir.path()) };
    let data_dir = dir.path().to_owned();
    on(&options, &|db| {
        let data_dir = data_dir.clone();
        async move {
            let clocks = (Clock::system(), Arc::new(Metrics::default()));
            let limits = LogOptions::from(&Settings::defaults());
            let log =
                EventLog::embedded(db.clone(), (&data_dir, false), clocks, limits, Arc::new(Nobody)).await?;
            let (held, holds) = tokio::sync::oneshot::channel();
            let (release, released) = tokio::sync::oneshot::channel::<()>();
            let reader = tokio::spawn(async move {
                bongsu::read!(db, |conn, q| {
                    q::generations::of(conn, Feed::Keys).await?;
                    held.send(()).expect("somebody waits");
                    Ok::<_, StoreError>(released.await.is_ok())
                })
            });
            holds.await.expect("the only reader is held");
            // long enough for several looks at the outbox, far from long enough for a reader to come free
            let until = Instant::now() + Duration::from_millis(500);
            for n in 0.. {
                if Instant::now() > until {
                    break;
                }
                let event = NewEvent {
                    topic: Topic::parse("topic:a").expect("a topic"),
                    name: EventName::parse("tick").expect("a name"),
                    class: Class::Durable,
                    key: None,
                    version: None,
                    ttl: None,
                    dedup: None,
                    data: n.to_string().into(),
                    public: None,
                };
                let tenant = TenantId::default_tenant();
                let request = AppendRequest { tenant, groups: vec![vec![event]], idempotency: None };
                let appended = tokio::time::timeout(Duration::from_secs(20), log.append(request)).await;
                assert_eq!(
                    appended.expect("not held up").expect("appended").1,
                    [Appended::At { seq: n + 1, duplicate: false }],
                );
            }
            release.send(()).expect("the reader was there all the time");
            assert!(reader.await.expect("no panic")?);
            log.stop().await;
            Ok(())
        }
    });
}

#[test]
fn who_waits_for_a_connection_in_vain_is_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let wait = Duration::from_millis(50);
    let own = DatabaseOptions { connections: 1, wait, ..options(String::new(), dir.path()) };
    let runtime = StorageRuntime::start().expect("a runtime");
    let handle = runtime.handle();
    let scenario = handle.spawn(async move {
        let metrics = Metrics::default();
        let database = Database::open(&own, tokio::runtime::Handle::current(), &metrics).await?;
        let Backend::Sqlite(pools) = database.backend() else { panic!("it is SQLite") };
        let shown = |series: &str, value: &str| {
            let line = format!("bongsu_database_{series}{{pool=\"read\"}} {value}\n");
            let text = metrics.render();
            assert!(text.contains(&line), "{line}{text}");
        };
        let held = pools.reader().await?;
        shown("connections_max", "1");
        shown("connections_in_use", "1");
        assert!(pools.reader().await.is_err(), "there is no second one");
        shown("wait_timeouts_total", "1");
        shown("wait_seconds_count", "2");
        drop(held);
        shown("connections_in_use", "0");
        drop(pools.reader().await?);
        shown("wait_timeouts_total", "1");
        Ok::<_, StoreError>(())
    });
    runtime.block_on(scenario).expect("no panic").expect("the scenario");
}

#[test]
fn proposals_of_a_bid_are_handed_over_page_by_page() {
    on_both(|db| async move {
        let row = |version: i64| ProposalRow {
            tenant: "acme".into(),
            bid_id: "B".into(),
            proposal_id: format!("P-{version}"),
            carrier_id: format!("carrier-{version}"),
            price: 1,
            ei: 1,
            lead_time_hours: 1,
            rating: None,
            withdrawn: false,
            version,
            submitted_us: 1,
            updated_us: 1,
        };
        for from in [1, 501, 1001] {
            let rows = (from..(from + 500).min(1202)).map(row).collect();
            bongsu::write_tx!(db, |conn, q| Ok(q::bids::insert_proposals(conn, rows).await?))?;
        }
        let read = async |version: i64| {
            let mut pages = Vec::<Vec<i64>>::new();
            let take = |rows: Vec<ProposalRow>| pages.push(rows.iter().map(|own| own.version).collect());
            bongsu::read!(db, |conn, q| q::bids::proposals_since(conn, ("acme", "B"), version, take).await)?;
            Ok::<_, StoreError>(pages)
        };
        let pages = read(0).await?;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [500, 500, 201]);
        assert_eq!(
            pages.concat(),
            (1..=1201).collect::<Vec<_>>(),
            "each once, in the order of their changes"
        );
        // just as many as a page holds, and none
        assert_eq!(read(701).await?.concat(), (702..=1201).collect::<Vec<_>>());
        assert_eq!(read(1201).await?, [Vec::<i64>::new()]);
        Ok(())
    });
}
