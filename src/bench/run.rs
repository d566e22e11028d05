//! The loops that publish and read until everybody has what was published.

use std::time::{Duration, Instant};

use super::Progress;
use super::plan::Plan;
use super::publisher::Publishers;
use super::swarm::Swarm;

/// A delivery that is this late after the one before it does not come any more.
const DELIVERY_STALL: Duration = Duration::from_secs(5);
const MAX_WAIT: Duration = Duration::from_millis(100);

/// How fast, and for how long, is published.
pub(super) struct Pace {
    /// 0 is the closed loop: the next one as soon as the clients have the previous.
    pub(super) rate_per_s: f64,
    pub(super) seconds: f64,
    /// Publishes that may be on their way at once in the closed loop.
    pub(super) ahead: usize,
}

/// What is still on its way belongs to the run, as long as something keeps arriving.
pub(super) fn drain(swarm: &mut Swarm, publishers: &mut Publishers) -> anyhow::Result<()> {
    let stopped = Instant::now();
    while !publishers.idle() || swarm.tally().outstanding > 0 {
        if publishers.idle() && swarm.last_delivery().max(stopped).elapsed() > DELIVERY_STALL {
            break;
        }
        step(swarm, publishers, MAX_WAIT)?;
    }
    Ok(())
}

fn step(swarm: &mut Swarm, publishers: &mut Publishers, wait: Duration) -> anyhow::Result<()> {
    if swarm.pump(wait)? {
        publishers.advance()?;
    }
    publishers.check()
}

/// Publishes until the time is over; returns how many publishes went out late.
pub(super) fn publish(
    pace: &Pace,
    swarm: &mut Swarm,
    publishers: &mut Publishers,
    progress: &mut Progress<'_>,
) -> anyhow::Result<u64> {
    let started = Instant::now();
    let end = started + Duration::from_secs_f64(pace.seconds);
    let period = (pace.rate_per_s > 0.0).then(|| 1.0 / pace.rate_per_s);
    let Plan { topics, connections, .. } = swarm.plan().clone();
    // what may be on its way when the closed loop goes on
    let room = ((pace.ahead - 1) * connections / topics.len()) as i64;
    let (mut late, mut sent_at, mut told) = (0, started, 0);
    loop {
        let now = Instant::now();
        if now >= end {
            return Ok(late);
        }
        let sent = swarm.tally().published;
        let due = period.map(|period| started + Duration::from_secs_f64(period * sent as f64));
        let go = due.map_or(swarm.tally().outstanding <= room, |due| now >= due);
        if let Some(publisher) = publishers.free().filter(|_| go) {
            let behind = due.zip(period).map(|(due, period)| (now - due).as_secs_f64() > period);
            late += u64::from(behind == Some(true));
            // Expected first: the server may be quicker than the return from the call.
            let topic = sent as usize % topics.len();
            let number = swarm.expect(topic, due.unwrap_or(now));
            publisher.send(&topics[topic], number)?;
            sent_at = now;
            continue;
        }
        if due.is_none() && swarm.last_delivery().max(sent_at).elapsed() > DELIVERY_STALL {
            // A closed loop cannot go on after a loss; the report tells how much is missing.
            progress(1.0, "a delivery is lost: the closed loop ends here");
            return Ok(late);
        }
        let wait = due.filter(|_| publishers.free().is_some()).map_or(MAX_WAIT, |due| due - now);
        step(swarm, publishers, wait.min(end - now).min(MAX_WAIT))?;
        if started.elapsed().as_secs() > told {
            told = started.elapsed().as_secs();
            let tally = swarm.tally();
            progress(
                told as f64 / pace.seconds,
                &format!(
                    "{told} s: {} publishes, {} deliveries, {} on their way",
                    tally.published, tally.received, tally.outstanding
                ),
            );
        }
    }
}

/// Publishes so many events to the topics in turns, each as soon as a publisher is free, and waits until
/// everybody has them.
pub(super) fn publish_each(
    count: usize,
    swarm: &mut Swarm,
    publishers: &mut Publishers,
) -> anyhow::Result<()> {
    let topics = swarm.plan().topics.clone();
    let mut left = (0..topics.len()).cycle().take(count).peekable();
    while let Some(&topic) = left.peek() {
        match publishers.free() {
            Some(publisher) => {
                let number = swarm.expect(topic, Instant::now());
                publisher.send(&topics[topic], number)?;
                left.next();
            }
            None => step(swarm, publishers, MAX_WAIT)?,
        }
    }
    drain(swarm, publishers)
}
