//! The only place that reads the operating system's clocks.
//!
//! [`Clock::now`] is the wall clock, for what people read. [`Clock::steady`] starts at the wall clock
//! and then follows the monotonic one, so a jump of the machine's clock neither expires an event nor
//! trims the log early; it is the clock of an embedded log. In a cluster it is steered by the clock that all
//! nodes share.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::domain::Timestamp;

/// A handle to the process's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    anchor: Instant,
    anchored_at: Timestamp,
    /// What another clock is ahead of this one, µs; never freed, so that a handle stays a plain value.
    ahead: Option<&'static AtomicI64>,
}

impl Clock {
    /// Anchors the steady clock at the present wall clock.
    pub fn system() -> Self {
        Clock { anchor: Instant::now(), anchored_at: wall(), ahead: None }
    }

    /// The same, whose steady clock follows another one: once per process, or per engine of a test.
    pub fn steered() -> Self {
        Clock { ahead: Some(Box::leak(Box::default())), ..Clock::system() }
    }

    /// The other clock shows `present`.
    pub fn steer(&self, present: Timestamp) {
        if let Some(ahead) = self.ahead {
            let own = self.anchored_at.plus(self.anchor.elapsed());
            ahead.store(present.micros() - own.micros(), Ordering::Relaxed);
        }
    }

    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        wall()
    }

    /// The wall clock as it was at start, moved on by the monotonic clock.
    pub fn steady(&self) -> Timestamp {
        let own = self.anchored_at.plus(self.anchor.elapsed());
        let ahead = self.ahead.map_or(0, |ahead| ahead.load(Ordering::Relaxed));
        Timestamp::from_micros(own.micros() + ahead)
    }

    /// Time since this clock was made.
    pub fn uptime(&self) -> Duration {
        self.anchor.elapsed()
    }
}

#[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// 64 bits from the operating system's generator.
///
/// # Panics
/// When the operating system has no randomness to give.
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives randomness");
    u64::from_le_bytes(bytes)
}

/// `duration` and up to `spread` (0–1) of itself more, drawn anew at each call.
pub fn jittered(duration: Duration, spread: f64) -> Duration {
    duration.mul_f64(1.0 + spread * (random_u64() as f64 / u64::MAX as f64))
}
