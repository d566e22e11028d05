//! Several engines live in one process, independent of each other.

use std::path::Path;

use bongsu::engine::{Engine, StartError, StartOptions};
use bongsu::settings::Settings;

use crate::support::Api;

fn start(data_dir: &Path, bind: &str) -> Result<Engine, StartError> {
    let mut settings = Settings::defaults();
    settings.storage.data_dir = data_dir.to_string_lossy().into_owned();
    settings.server.bind = bind.to_owned();
    settings.server.workers = 1;
    Engine::start(settings, StartOptions::default())
}

fn api(engine: &Engine, key: &str) -> Api {
    Api::new(engine.started().address, Some(key.to_owned()))
}

#[tokio::test]
async fn engines_in_one_process_are_independent_and_leave_nothing_behind() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let mut engines: Vec<Engine> =
        dirs.iter().map(|dir| start(dir.path(), "127.0.0.1:0").expect("it starts")).collect();
    let keys: Vec<String> =
        engines.iter().map(|engine| engine.started().first_key.clone().expect("a first start").key).collect();
    let mut streams = Vec::new();
    for (number, engine) in engines.iter().enumerate() {
        let api = api(engine, &keys[number]);
        let mut stream = api.listen("topic:a", None).await;
        stream.ready().await;
        for event in 0..=number {
            api.publish("topic:a", "numbered", event.into()).await;
        }
        streams.push(stream);
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        let events = stream.take(number + 1).await;
        let ids: Vec<_> = events.iter().map(|event| event.id.clone().unwrap()).collect();
        assert!(ids.last().unwrap().ends_with(&format!("-{}", number + 1)), "{ids:?}");
    }
    assert_eq!(
        api(&engines[0], &keys[1]).get("/v2/fleets/FLT-A01").await.status,
        401,
        "another engine's key"
    );

    let busy = start(dirs[0].path(), "127.0.0.1:0").expect_err("the directory is served");
    assert!(busy.to_string().contains("another process serves"), "{busy}");

    let first = engines.remove(0);
    let address = first.started().address;
    // it returns only when its sessions have been told, so they must be read meanwhile
    let ended = tokio::task::spawn_blocking(move || first.shutdown());
    let close = streams[0].expect("close").await;
    assert_eq!(close.data["code"], 3000);
    ended.await.expect("no panic");
    assert!(Api::new(address, None).try_get("/health").await.is_none());

    let again = start(dirs[0].path(), &address.to_string()).expect("port and directory are free");
    assert!(again.started().first_key.is_none(), "not a first start any more");
    let position = api(&again, &keys[0]).publish("topic:a", "numbered", 1.into()).await;
    assert!(position.ends_with("-2"), "{position}");
    for (number, engine) in engines.iter().enumerate() {
        let api = api(engine, &keys[number + 1]);
        let position = api.publish("topic:a", "numbered", 9.into()).await;
        assert_eq!(streams[number + 1].expect("numbered").await.id, Some(position));
    }
    drop(streams);
    tokio::task::spawn_blocking(move || {
        engines.into_iter().for_each(Engine::shutdown);
        again.shutdown();
    })
    .await
    .expect("no panic");
}
