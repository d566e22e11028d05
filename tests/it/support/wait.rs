//! Waiting by condition, never by time.

use std::time::Duration;

/// How long anything may take before a test fails; far above what it does take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until the answer is something, or fails saying what was waited for.
pub async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_or(|| what.to_owned(), ask).await
}

/// The same, saying what is known once it fails.
pub async fn eventually_or<T>(what: impl Fn() -> String, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for: {}", what());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a count that only grows has grown this far; as long as it does grow, however slowly.
pub async fn eventually_counts(what: &str, goal: u64, count: impl Fn() -> u64) {
    let mut reached = count();
    while reached < goal {
        reached = eventually(what, async || Some(count()).filter(|count| *count > reached)).await;
    }
}

/// Lets time pass: how slow a client is, or when a fault strikes; never a way to wait for something.
pub async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
