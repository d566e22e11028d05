use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// A handle that changes the log level of the running process.
#[derive(Clone)]
pub struct LogLevel(Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Puts a new level or new directives in force; false when they cannot be read.
    pub fn set(&self, directives: &str) -> bool {
        EnvFilter::try_new(directives).is_ok_and(|filter| self.0.reload(filter).is_ok())
    }
}

/// Starts logging to standard error, for the whole process and once; None when it was started before.
///
/// `format` is `json` for machines, anything else for people.
pub fn init_logging(directives: &str, format: &str) -> Option<LogLevel> {
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = match format {
        "json" => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
        _ => fmt::layer().compact().with_writer(std::io::stderr).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init().ok()?;
    Some(LogLevel(handle))
}
