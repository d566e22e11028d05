use std::sync::Arc;

use crate::wire::Event;

/// Part of a replay.
#[derive(Debug)]
pub enum Page {
    /// The next events of the selected topics.
    Events {
        /// In order, none expired.
        events: Vec<Arc<Event>>,
        /// Everything up to this number has been looked at.
        scanned_to: u64,
    },
    /// Events of the selected topics were trimmed before they could be read.
    Evicted,
}

/// How much of a replay is read at once; a page holds at least one event, however large.
#[derive(Clone, Copy, Debug)]
pub struct PageLimit {
    /// Most events.
    pub events: usize,
    /// Most bytes of data.
    pub bytes: usize,
}

impl PageLimit {
    /// How many of the events of these sizes, oldest first, make a page; fewer than there are when it is full.
    pub fn take(self, sizes: impl IntoIterator<Item = usize>) -> usize {
        let mut sum = 0usize;
        let fitting = sizes.into_iter().take(self.events).enumerate().take_while(|(index, size)| {
            sum = sum.saturating_add(*size);
            *index == 0 || sum <= self.bytes
        });
        fitting.count()
    }
}

#[cfg(test)]
mod tests {
    use super::PageLimit;

    #[test]
    fn a_page_is_bounded_in_events_and_bytes_and_never_empty() {
        let limit = PageLimit { events: 3, bytes: 100 };
        assert_eq!(limit.take([]), 0);
        assert_eq!(limit.take([1000, 1]), 1);
        assert_eq!(limit.take([50, 50, 1]), 2);
        assert_eq!(limit.take([1, 1, 1, 1]), 3);
        assert_eq!(limit.take([usize::MAX, usize::MAX]), 1);
    }
}
