use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::server::Serving;
use crate::http::Services;
use crate::jobs::Jobs;
use crate::rooms;

/// Part of the drain window in which all sessions are told; the rest is for sockets and the log.
const TELLING: f64 = 0.5;
const POLL: Duration = Duration::from_millis(20);

/// Readiness says no, sessions end at an even pace, what was accepted is finished, sockets close, jobs are
/// finished, the log drains.
pub(super) async fn shutdown(services: &Services, serving: Serving, jobs: &Jobs) {
    let options = &services.settings.drain;
    let started = Instant::now();
    let window = Duration::from_secs(options.window_s);
    tracing::info!(window_s = options.window_s, "draining");
    services.draining.store(true, Ordering::Relaxed);
    sleep(Duration::from_millis(options.announce_ms).min(window.mul_f64(TELLING))).await;
    let told_by = window.mul_f64(TELLING).saturating_sub(started.elapsed());
    services.workers.drain(rooms::pace(services.workers.sessions(), told_by));
    let patience = started + window.mul_f64(0.75);
    while services.workers.sessions() > 0 && Instant::now() < patience {
        sleep(POLL).await;
    }
    let rest = window.saturating_sub(started.elapsed());
    let stopped = timeout(rest, async {
        for handle in &serving.handles {
            handle.stop(true).await;
        }
        jobs.stop().await;
        services.log.stop().await;
    });
    match stopped.await {
        Ok(()) => tracing::info!(seconds = started.elapsed().as_secs_f64(), "stopped"),
        Err(_) => tracing::warn!("the drain window ended before everything had stopped"),
    }
}
