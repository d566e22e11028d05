//! How a node keeps one tenant's log without holes: live messages may be lost, doubled and late; the log is
//! not.

use std::collections::VecDeque;

use super::envelope::Entry;
use crate::domain::Epoch;

/// Most live entries kept while what came before them is fetched; what is beyond is fetched as well.
const HELD: usize = 4096;

/// What a follower wants done.
#[derive(Debug)]
pub(super) enum Action {
    /// Ask the log where it stands.
    AskTop,
    /// Fetch what lies within `(after, up_to]`.
    Fill { epoch: Epoch, after: u64, up_to: u64 },
    /// A run of the log begins for this node after this number.
    Begin { epoch: Epoch, before: u64 },
    /// These are the next ones.
    Show(Vec<Entry>),
    /// What lay before this number is gone for good: the log goes on after it.
    Lost { epoch: Epoch, before: u64 },
}

/// One tenant's log as far as this node has it.
#[derive(Debug, Default)]
pub(super) struct Follower {
    /// The run it follows, and the newest number shown of it.
    at: Option<(Epoch, u64)>,
    /// What came beyond a hole, or before anything is known, in order.
    held: VecDeque<Entry>,
    held_epoch: Option<Epoch>,
    /// Up to where is being fetched.
    filling: Option<u64>,
}

impl Follower {
    /// The newest entry shown.
    pub fn head(&self) -> Option<(Epoch, u64)> {
        self.at
    }

    /// A live message has come.
    pub fn live(&mut self, epoch: Epoch, entries: Vec<Entry>) -> Vec<Action> {
        let Some((own, head)) = self.at else {
            self.hold(epoch, entries);
            return Vec::new();
        };
        if own != epoch {
            // of the run before, or of one that is not known yet: the log says which
            self.hold(epoch, entries);
            return vec![Action::AskTop];
        }
        let news: Vec<Entry> = entries.into_iter().filter(|entry| entry.seq > head).collect();
        match news.first().map(|first| first.seq) {
            None => Vec::new(),
            Some(first) if first == head + 1 && self.filling.is_none() => {
                self.at = Some((own, news.last().map_or(head, |last| last.seq)));
                vec![Action::Show(news)]
            }
            Some(first) => {
                self.hold(epoch, news);
                self.fill(first - 1)
            }
        }
    }

    /// The log stands at `top`, and has nothing up to `trimmed` any more.
    pub fn top(&mut self, epoch: Epoch, top: u64, trimmed: u64) -> Vec<Action> {
        match self.at {
            Some((own, head)) if own == epoch => {
                if top > head {
                    self.fill(top)
                } else {
                    Vec::new()
                }
            }
            former => {
                // a new run is given from its beginning to those who were here; one who comes needs no past
                let before = if former.is_some() { trimmed } else { top };
                self.at = Some((epoch, before));
                self.filling = None;
                let mut actions = vec![Action::Begin { epoch, before }];
                actions.extend(if top > before { self.fill(top) } else { self.take_held() });
                actions
            }
        }
    }

    /// What was fetched after the head: everything there is up to `scanned_to`.
    pub fn filled(&mut self, epoch: Epoch, entries: Vec<Entry>, scanned_to: u64) -> Vec<Action> {
        let Some((own, head)) = self.at.filter(|(own, _)| *own == epoch) else {
            return Vec::new();
        };
        let up_to = self.filling.take().unwrap_or(scanned_to);
        let mut actions = Vec::new();
        let news: Vec<Entry> = entries.into_iter().filter(|entry| entry.seq > head).collect();
        let first = news.first().map_or(scanned_to + 1, |entry| entry.seq);
        if first > head + 1 {
            self.at = Some((own, first - 1));
            actions.push(Action::Lost { epoch, before: first - 1 });
        }
        if let Some(last) = news.last() {
            self.at = Some((own, last.seq));
            actions.push(Action::Show(news));
        }
        if scanned_to < up_to {
            actions.extend(self.fill(up_to));
        } else {
            actions.extend(self.take_held());
        }
        actions
    }

    /// The log could not be asked; what is missing is asked for again after the next look at its top.
    pub fn failed(&mut self) {
        self.filling = None;
    }

    fn fill(&mut self, up_to: u64) -> Vec<Action> {
        let Some((epoch, after)) = self.at else { return Vec::new() };
        if self.filling.is_some() {
            // one at a time: what comes meanwhile is held
            return Vec::new();
        }
        self.filling = Some(up_to);
        vec![Action::Fill { epoch, after, up_to }]
    }

    fn hold(&mut self, epoch: Epoch, entries: Vec<Entry>) {
        if self.held_epoch != Some(epoch) {
            self.held.clear();
            self.held_epoch = Some(epoch);
        }
        for entry in entries {
            let follows = self.held.back().is_none_or(|last| last.seq + 1 == entry.seq);
            if !follows && self.held.back().is_some_and(|last| last.seq >= entry.seq) {
                continue;
            }
            if !follows || self.held.len() >= HELD {
                // the newest are worth most: what is before them is fetched
                self.held.clear();
            }
            self.held.push_back(entry);
        }
    }

    /// Shows what was held, as far as nothing is missing before it.
    fn take_held(&mut self) -> Vec<Action> {
        let Some((epoch, head)) = self.at else { return Vec::new() };
        if self.held_epoch != Some(epoch) {
            return Vec::new();
        }
        let news: Vec<Entry> = self.held.drain(..).filter(|entry| entry.seq > head).collect();
        match news.first().map(|first| first.seq) {
            None => Vec::new(),
            Some(first) if first == head + 1 => {
                self.at = Some((epoch, news.last().map_or(head, |last| last.seq)));
                vec![Action::Show(news)]
            }
            Some(first) => {
                self.held = news.into();
                self.fill(first - 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::envelope::tests::entry;
    use super::*;
    use proptest::prelude::*;

    const EPOCH: Epoch = Epoch::new(1);

    /// What a node sees of a log, whatever becomes of its messages.
    #[derive(Default)]
    struct Node {
        follower: Follower,
        shown: Vec<u64>,
        began: u64,
        lost: bool,
        fills: VecDeque<(u64, u64)>,
        asks: usize,
    }

    impl Node {
        fn take(&mut self, actions: Vec<Action>) {
            for action in actions {
                match action {
                    Action::AskTop => self.asks += 1,
                    Action::Fill { after, up_to, .. } => self.fills.push_back((after, up_to)),
                    Action::Begin { before, .. } => {
                        self.shown.clear();
                        self.began = before;
                    }
                    Action::Show(entries) => self.shown.extend(entries.iter().map(|entry| entry.seq)),
                    Action::Lost { before, .. } => {
                        self.lost = true;
                        self.shown.clear();
                        self.began = before;
                    }
                }
            }
        }

        fn answer(&mut self, top: u64, page: u64) {
            if let Some((after, up_to)) = self.fills.pop_front() {
                let scanned = up_to.min(top).min(after + page);
                let entries = (after + 1..=scanned).map(entry).collect();
                let actions = self.follower.filled(EPOCH, entries, scanned);
                self.take(actions);
            }
        }
    }

    fn entries(range: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
        range.map(entry).collect()
    }

    proptest! {
        #[test]
        fn whatever_is_lost_doubled_or_late_what_is_shown_has_no_hole(
            start in 0..20_u64,
            steps in prop::collection::vec((0..6_u8, 1..5_u64), 0..80),
            page in 1..7_u64,
        ) {
            let (mut node, mut top, mut late) = (Node::default(), start, VecDeque::new());
            let actions = node.follower.top(EPOCH, top, 0);
            node.take(actions);
            for (kind, count) in steps {
                match kind {
                    // published and lost, delayed, or delivered, perhaps twice
                    0 => top += count,
                    1 => {
                        late.push_back(entries(top + 1..=top + count));
                        top += count;
                    }
                    2 | 3 => {
                        for _ in 1..kind {
                            let actions = node.follower.live(EPOCH, entries(top + 1..=top + count));
                            node.take(actions);
                        }
                        top += count;
                    }
                    4 => if let Some(message) = late.pop_front() {
                        let actions = node.follower.live(EPOCH, message);
                        node.take(actions);
                    },
                    _ => node.answer(top, page),
                }
                prop_assert!(node.shown.iter().copied().eq(node.began + 1..=node.began + node.shown.len() as u64));
                prop_assert!(node.fills.len() <= 1);
            }
            // in the end a look at the top finds whatever was missed
            for _ in 0..200 {
                let actions = node.follower.top(EPOCH, top, 0);
                node.take(actions);
                node.answer(top, page);
            }
            prop_assert_eq!(node.began + node.shown.len() as u64, top);
            prop_assert!(!node.lost);
        }
    }

    #[test]
    fn one_who_comes_begins_at_the_top_and_one_who_was_here_at_the_start_of_a_new_run() {
        let mut node = Node::default();
        node.follower.live(EPOCH, entries(8..=9));
        let actions = node.follower.top(EPOCH, 8, 0);
        node.take(actions);
        assert_eq!((node.began, &*node.shown), (8, &[9][..]));
        let next = Epoch::new(2);
        let actions = node.follower.live(next, entries(3..=3));
        node.take(actions);
        assert_eq!(node.asks, 1);
        let actions = node.follower.top(next, 3, 1);
        node.take(actions);
        assert_eq!((node.began, node.fills.pop_front()), (1, Some((1, 3))));
        let actions = node.follower.filled(EPOCH, entries(2..=3), 3);
        assert!(actions.is_empty(), "of another run");
    }

    #[test]
    fn a_hole_that_cannot_be_filled_is_told() {
        let mut node = Node::default();
        let actions = node.follower.top(EPOCH, 5, 0);
        node.take(actions);
        let actions = node.follower.live(EPOCH, entries(9..=9));
        node.take(actions);
        assert_eq!(node.fills.pop_front(), Some((5, 8)));
        let actions = node.follower.filled(EPOCH, entries(8..=8), 8);
        node.take(actions);
        assert!(node.lost);
        assert_eq!((node.began, &*node.shown), (7, &[8, 9][..]));
    }
}
