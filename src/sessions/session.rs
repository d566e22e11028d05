use std::collections::VecDeque;
use std::sync::Arc;

use super::{Pushed, Refused, SendQueue};
use crate::domain::{Position, Selector};
use crate::log::Page;
use crate::wire::{Audience, CloseCode, Event};

/// A topic or prefix that a session may see, and which variant of its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What is subscribed to.
    pub selector: Selector,
    /// Which variant is sent.
    pub audience: Audience,
    /// What was logged up to here is not shown: the principal was let in there.
    pub since: Option<Position>,
}

impl Grant {
    /// Whether it shows an event: of its topics, and not from before it was given.
    pub fn shows(&self, event: &Event) -> bool {
        self.selector.matches(event.topic()) && !event.is_up_to(self.since)
    }
}

/// What has to happen next for a session to get or stay live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read the log after this number.
    Read {
        /// Everything up to here is in the queue or did not concern the session.
        after: u64,
    },
    /// Wait until most of the queue has been sent and this many bytes fit.
    Drain {
        /// Bytes of the next event's frame.
        room: usize,
    },
    /// Ask the registry to take it in at this number.
    Join {
        /// Everything up to here is in the queue or did not concern the session.
        after: u64,
    },
    /// End it.
    Close(CloseCode),
}

/// How a session catches up: pages of the log are *pulled* as its queue drains, live events are not
/// queued meanwhile, and it joins the room at the head. No gap, no duplicate, in order.
///
/// ```text
/// read ──► push what fits ──► drain ──► push the rest ──► join ──► (still behind: read …)
/// ```
#[derive(Debug)]
pub struct Session {
    grants: Arc<[Grant]>,
    /// Set for topics that a client's request added late: their replay carries its number.
    request: Option<u64>,
    pending: VecDeque<Arc<Event>>,
    scanned_to: u64,
    replayed: u64,
}

impl Session {
    /// A session that may see what `grants` say.
    pub fn new(grants: Arc<[Grant]>) -> Self {
        Session { grants, request: None, pending: VecDeque::new(), scanned_to: 0, replayed: 0 }
    }

    /// The topics that a request added late.
    pub fn late(grants: Arc<[Grant]>, request: u64) -> Self {
        Session { request: Some(request), ..Session::new(grants) }
    }

    /// What it may see.
    pub fn grants(&self) -> &Arc<[Grant]> {
        &self.grants
    }

    /// It may see something else from now on; what it has still to be given is judged anew.
    pub fn set_grants(&mut self, grants: Arc<[Grant]>) {
        self.pending.retain(|event| is_shown(&grants, event));
        self.grants = grants;
    }

    /// It has to catch up from here.
    pub fn behind(&mut self, after: u64) -> Step {
        self.scanned_to = after;
        self.pending.clear();
        Step::Read { after }
    }

    /// A page has been read.
    pub fn page(&mut self, page: Page, queue: &SendQueue) -> Step {
        match page {
            Page::Evicted => Step::Close(CloseCode::InsufficientState),
            Page::Events { events, scanned_to } => {
                self.scanned_to = scanned_to;
                self.pending.extend(events.into_iter().filter(|event| is_shown(&self.grants, event)));
                self.pump(queue)
            }
        }
    }

    /// The queue has been sent for the most part.
    pub fn drained(&mut self, queue: &SendQueue) -> Step {
        self.pump(queue)
    }

    /// Events replayed since this was last asked.
    pub fn take_replayed(&mut self) -> u64 {
        std::mem::take(&mut self.replayed)
    }

    /// What is to be read from the log.
    pub fn selectors(&self) -> Arc<[Selector]> {
        self.grants.iter().map(|grant| grant.selector.clone()).collect()
    }

    fn pump(&mut self, queue: &SendQueue) -> Step {
        while let Some(event) = self.pending.front() {
            let audience = audience_of(&self.grants, event);
            if !queue.has_room_for(event, audience) {
                return Step::Drain { room: queue.frame_len(event, audience) };
            }
            if queue.push_past(event, audience, self.request) == Pushed::Taken {
                self.replayed += 1;
            }
            self.pending.pop_front();
        }
        self.pending = VecDeque::new();
        Step::Join { after: self.scanned_to }
    }
}

/// What is left of grants, each as it is judged now, and what is not.
pub fn judged_anew(
    grants: &[Grant],
    judge: impl Fn(&Selector) -> Result<Grant, &'static str>,
) -> (Arc<[Grant]>, Vec<Refused>) {
    let (mut kept, mut refused) = (Vec::with_capacity(grants.len()), Vec::new());
    for Grant { selector, .. } in grants {
        match judge(selector) {
            Ok(grant) => kept.push(grant),
            Err(code) => refused.push(Refused { topic: selector.to_string(), code }),
        }
    }
    (kept.into(), refused)
}

/// Whether an event is for a session at all.
pub fn is_shown(grants: &[Grant], event: &Event) -> bool {
    !event.is_internal() && grants.iter().any(|grant| grant.shows(event))
}

/// The variant a session sees of an event on one of its topics.
pub fn audience_of(grants: &[Grant], event: &Event) -> Audience {
    let own = grants.iter().filter(|grant| grant.selector.matches(event.topic()));
    let full = own.map(|grant| grant.audience).any(|audience| audience == Audience::Full);
    if full { Audience::Full } else { Audience::Public }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Epoch;

    #[test]
    fn what_is_judged_anew_is_heard_as_it_is_judged_now() {
        let grant = |topic: &str, audience, since: Option<u64>| Grant {
            selector: Selector::parse(topic).unwrap(),
            audience,
            since: since.map(|seq| Position { epoch: Epoch::new(1), seq }),
        };
        let (full, public) = (Audience::Full, Audience::Public);
        let former =
            [grant("ranking:1", full, None), grant("topic:a", full, Some(3)), grant("admin", full, None)];
        let (kept, refused) = judged_anew(&former, |selector| match selector.to_string().as_str() {
            "ranking:1" => Ok(grant("ranking:1", public, None)),
            "topic:a" => Ok(grant("topic:a", full, Some(9))),
            _ => Err("forbidden"),
        });
        assert_eq!(*kept, [grant("ranking:1", public, None), grant("topic:a", full, Some(9))]);
        assert_eq!(
            refused.iter().map(|own| (&*own.topic, own.code)).collect::<Vec<_>>(),
            [("admin", "forbidden")]
        );
    }
}
