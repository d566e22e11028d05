use std::future::Future;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing::{Instrument, Span};

use crate::domain::Origin;

tokio::task_local! {
    static ORIGIN: Arc<Origin>;
}

/// Works for a request: within its span, and with it as the origin of what comes of it.
pub fn within<F: Future>(origin: Arc<Origin>, span: Span, work: F) -> impl Future<Output = F::Output> {
    ORIGIN.scope(origin, work).instrument(span)
}

/// The request that is being worked for. None also while no log line asks for it, which is below level
/// `debug`: then nothing carries its origin along.
pub fn current_origin() -> Option<Arc<Origin>> {
    let is_wanted = LevelFilter::current() >= LevelFilter::DEBUG;
    is_wanted.then(|| ORIGIN.try_with(Arc::clone).ok())?
}
