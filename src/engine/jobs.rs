//! Who does which jobs: the one place where kinds and channels meet their handlers.

use std::sync::Arc;
use std::time::Duration;

use crate::accounts;
use crate::http::Services;
use crate::jobs::{Backoff, Handler, JobOptions, JobWake, Jobs};

/// Begins to work; must run on the storage runtime.
pub(super) fn start(services: &Services, wake: JobWake) -> Jobs {
    let own = &services.settings.jobs;
    let kept = services.settings.accounts.snapshots_kept;
    let handlers: Vec<Arc<dyn Handler>> =
        accounts::events::all().handlers(&services.database, &services.log, kept);
    let options = JobOptions {
        channels: vec![(accounts::CHANNEL, own.snapshots_at_a_time)],
        poll: Duration::from_millis(own.poll_ms),
        attempt: Duration::from_millis(own.attempt_timeout_ms),
        backoff: Backoff { first: Duration::from_millis(own.backoff_ms) },
        keep_done: Duration::from_secs(own.keep_done_s),
    };
    let means = (services.database.clone(), services.log.clock());
    Jobs::start(means, services.metrics.clone(), options, handlers, wake)
}
