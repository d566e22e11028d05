//! What the process tells about itself: metrics, log lines, and the spans they lie in.

mod bridge_metrics;
mod figures;
mod interop_metrics;
mod job_metrics;
mod limit_metrics;
mod log_metrics;
mod logging;
mod mailbox_metrics;
mod metrics;
mod pool_metrics;
mod process_metrics;
mod ranking_metrics;
mod spans;

pub use bridge_metrics::BridgeMetrics;
pub use figures::{Counts, FRESH, FigureBoard, Figures, NodeFigures, Samples};
pub use interop_metrics::InteropMetrics;
pub use job_metrics::JobMetrics;
pub use limit_metrics::LimitMetrics;
pub use log_metrics::LogMetrics;
pub use logging::{Logging, LoggingError, init_logging};
pub use mailbox_metrics::MailboxMetrics;
pub use metrics::{Metrics, Reading};
pub use pool_metrics::PoolMetrics;
pub use ranking_metrics::RankingMetrics;
pub use spans::{current_origin, within};

/// Ends the process on the spot, as a power cut would, when `BONGSU_CRASH_AT` names this point.
///
/// For fault tests; a release build has no such points.
pub fn crash_point(name: &str) {
    if cfg!(debug_assertions) && std::env::var_os("BONGSU_CRASH_AT").is_some_and(|wanted| wanted == name) {
        std::process::abort();
    }
}
