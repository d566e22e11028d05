use std::path::Path;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::settings;

/// Lines that may wait for one file; further ones are dropped and counted, so that a slow or full disk
/// never holds up a worker. Standard error still gets them.
const WAITING_LINES: usize = 8192;

/// One counter a file, of the process that has started logging.
static DROPPED: OnceLock<Vec<ErrorCounter>> = OnceLock::new();

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The directory, or a file in it.
    #[error("logging.dir: cannot write log files into {directory}: {problem}")]
    Directory {
        /// The directory as configured.
        directory: String,
        /// What stands against it.
        problem: String,
    },
    /// It is for the whole process and once.
    #[error("logging was started before in this process")]
    Started,
}

/// The process's logging. Dropping it writes what still waits for the files, for at most a second a
/// file; keep it until the process ends.
#[must_use]
pub struct Logging {
    level: Handle<EnvFilter, Registry>,
    _files: Vec<WorkerGuard>,
}

impl Logging {
    /// Puts a new level or new directives in force, for the files too; false when they cannot be read.
    pub fn set_level(&self, directives: &str) -> bool {
        EnvFilter::try_new(directives).is_ok_and(|filter| self.level.reload(filter).is_ok())
    }
}

/// Starts logging to standard error and, with `logging.dir`, into files; for the whole process and once.
pub fn init_logging(settings: &settings::Logging) -> Result<Logging, LoggingError> {
    let filter = EnvFilter::try_new(&settings.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, level) = reload::Layer::new(filter);
    let (mut layers, mut guards, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
    layers.push(match settings.format.as_str() {
        "json" => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_writer(std::io::stderr)
            .boxed(),
        _ => fmt::layer().compact().with_writer(std::io::stderr).boxed(),
    });
    if !settings.dir.is_empty() {
        for (name, at_most) in [("error", LevelFilter::ERROR), ("combined", LevelFilter::TRACE)] {
            let (writer, guard) = open(name, settings)?;
            dropped.push(writer.error_counter());
            guards.push(guard);
            layers.push(lines(writer).with_filter(at_most).boxed());
        }
    }
    tracing_subscriber::registry().with(filter).with(layers).try_init().map_err(|_| LoggingError::Started)?;
    // only the one call that got this far sets them
    let _ = DROPPED.set(dropped);
    Ok(Logging { level, _files: guards })
}

/// Lines that were not written to a file because too many waited for it.
pub(super) fn dropped_lines() -> u64 {
    DROPPED.get().into_iter().flatten().map(|counter| counter.dropped_lines() as u64).sum()
}

fn lines<S>(writer: NonBlocking) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    fmt::layer().json().flatten_event(true).with_current_span(false).with_ansi(false).with_writer(writer)
}

/// `{name}.{date}.log`, a new one each day (UTC), and the link `{name}.log` to the newest.
///
/// The library names its files by date, so the stable name is a link.
fn open(name: &str, settings: &settings::Logging) -> Result<(NonBlocking, WorkerGuard), LoggingError> {
    let failed = |problem: String| LoggingError::Directory { directory: settings.dir.clone(), problem };
    std::fs::create_dir_all(&settings.dir).map_err(|error| failed(error.to_string()))?;
    // the link holds the path as given here: a relative one would be looked up from the directory itself
    let directory = Path::new(&settings.dir).canonicalize().map_err(|error| failed(error.to_string()))?;
    let file = RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix(name)
        .filename_suffix("log")
        .latest_symlink(format!("{name}.log"))
        .max_log_files(settings.max_files)
        .build(directory)
        .map_err(|error| failed(chain(&error)))?;
    let writer = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .lossy(true)
        .thread_name(&format!("log-{name}"));
    Ok(writer.finish(file))
}

/// An error with its causes, which this library's own message leaves out.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
