use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of the requests that wait for the appender; one larger than the limit waits alone.
#[derive(Clone, Debug)]
pub(super) struct Loads {
    waiting: Arc<AtomicUsize>,
    limit: usize,
}

/// One request's share, given back when dropped.
#[derive(Debug)]
pub struct Load {
    waiting: Arc<AtomicUsize>,
    bytes: usize,
}

impl Loads {
    pub fn new(limit: usize) -> Self {
        Loads { waiting: Arc::default(), limit }
    }

    /// None when there is no room.
    pub fn enter(&self, bytes: usize) -> Option<Load> {
        let fits =
            |waiting: usize| (waiting == 0 || waiting + bytes <= self.limit).then_some(waiting + bytes);
        let entered = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        entered.ok().map(|_| Load { waiting: self.waiting.clone(), bytes })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_in_bytes_and_one_larger_request_waits_alone() {
        let loads = Loads::new(100);
        let (first, second) = (loads.enter(60).unwrap(), loads.enter(40).unwrap());
        assert!(loads.enter(1).is_none());
        drop(first);
        assert!(loads.enter(200).is_none());
        drop(second);
        let large = loads.enter(200).unwrap();
        assert!(loads.enter(1).is_none());
        drop(large);
        assert!(loads.enter(100).is_some());
    }
}
