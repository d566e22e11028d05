//! When a batch goes out, by virtual time.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::send_queue_test::event;
use super::{Batching, Frames, QueueLimits, QueueMetrics, SendQueue};
use crate::clock::Clock;
use crate::domain::Class;
use crate::telemetry::Metrics;
use crate::wire::{Audience, CloseCode, Framing};

const WITHIN: Duration = Duration::from_millis(100);

fn batched(events: usize) -> (Rc<SendQueue>, Frames) {
    let metrics = Rc::new(QueueMetrics::new(&Metrics::default(), Clock::system()));
    let limits = QueueLimits { bytes: 100_000, items: 1000 };
    let queue = Rc::new(SendQueue::new(Framing::SSE_DATA.batched(), limits, metrics));
    let frames =
        Frames::batched(queue.clone(), Batching { within: WITHIN, events }, 100_000, Clock::system());
    (queue, frames)
}

fn push(queue: &SendQueue, seqs: std::ops::Range<u64>) {
    for seq in seqs {
        queue.push_event(&event(seq, Class::Durable, ""), Audience::Full);
    }
}

async fn next(frames: &mut Frames) -> Option<Bytes> {
    poll_fn(|context| frames.poll_next(context)).await
}

async fn text(frames: &mut Frames) -> String {
    String::from_utf8(next(frames).await.expect("a frame").to_vec()).expect("text")
}

fn events(batch: &str) -> usize {
    assert!(batch.starts_with("event: batch\nid: "), "{batch}");
    batch.matches("\"event\":\"tick\"").count()
}

#[tokio::test(start_paused = true)]
async fn a_batch_goes_out_when_the_time_since_its_first_event_is_over() {
    let (queue, mut frames) = batched(50);
    assert!(timeout(WITHIN * 100, next(&mut frames)).await.is_err(), "nothing is no batch");
    push(&queue, 1..3);
    let start = Instant::now();
    assert!(timeout(WITHIN * 2 / 5, next(&mut frames)).await.is_err());
    push(&queue, 3..5);
    let batch = text(&mut frames).await;
    let took = start.elapsed();
    assert!(took >= WITHIN && took <= WITHIN + Duration::from_millis(2), "{took:?}");
    assert_eq!(events(&batch), 4);
    assert!(batch.contains("id: 0000000000000001-4\n"), "{batch}");
    // the time of the next one begins with its own first event
    assert!(timeout(WITHIN * 3, next(&mut frames)).await.is_err());
    push(&queue, 5..6);
    let start = Instant::now();
    assert_eq!(events(&text(&mut frames).await), 1);
    assert!(start.elapsed() >= WITHIN && start.elapsed() <= WITHIN + Duration::from_millis(2));
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_goes_out_at_once() {
    let (queue, mut frames) = batched(3);
    push(&queue, 1..8);
    let start = Instant::now();
    assert_eq!(events(&text(&mut frames).await), 3);
    assert_eq!(events(&text(&mut frames).await), 3);
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(events(&text(&mut frames).await), 1);
    assert!(start.elapsed() >= WITHIN);
}

#[tokio::test(start_paused = true)]
async fn a_control_frame_sends_what_was_held_back_before_it() {
    let (queue, mut frames) = batched(50);
    push(&queue, 1..3);
    assert!(timeout(WITHIN / 10, next(&mut frames)).await.is_err());
    let start = Instant::now();
    queue.finish_with(CloseCode::Draining);
    assert_eq!(events(&text(&mut frames).await), 2);
    assert!(text(&mut frames).await.contains("event: close\n"));
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(next(&mut frames).await, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_back_for_somebody_who_is_cut_is_thrown_away() {
    let (queue, mut frames) = batched(50);
    push(&queue, 1..3);
    assert!(timeout(WITHIN / 10, next(&mut frames)).await.is_err());
    queue.cut(CloseCode::Unauthenticated);
    assert!(text(&mut frames).await.contains("\nevent: close\n"));
    assert_eq!(next(&mut frames).await, None);
}
