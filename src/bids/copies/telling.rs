use std::collections::HashMap;
use std::sync::Arc;

use super::followed::{Fresh, Place, Tell};
use super::listening::Listening;
use crate::bids::Frames;
use crate::clock::Clock;
use crate::domain::{Class, EntityId, EventName, TenantId, Topic, TopicKind};
use crate::rooms::{ConnectionId, Workers};
use crate::telemetry::Metrics;
use crate::wire::{Content, Event, EventParts, RANKING_UPDATED};

/// Makes events of what is to be told, and gives them to the sessions of this node.
pub struct Teller {
    workers: Arc<Workers>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Teller {
    /// To the sessions of these.
    pub fn new(workers: Arc<Workers>, metrics: Arc<Metrics>, clock: Clock) -> Self {
        Teller { workers, metrics, clock }
    }

    /// Tells it.
    pub fn tell(&self, (tenant, bid): (&TenantId, &str), listening: &Listening, tell: Tell) {
        let to = |ids: Vec<ConnectionId>| Some(ids.into());
        match tell {
            Tell::Whole(version, frames) => {
                self.workers.tell(tenant, self.whole(bid, version, frames), None);
            }
            Tell::WholeTo(ids, version, frames) => {
                self.workers.tell(tenant, self.whole(bid, version, frames), to(ids));
            }
            Tell::Standing(carrier, place) => {
                let mut by_topic: HashMap<&Topic, Vec<ConnectionId>> = HashMap::new();
                for id in listening.carriers.listeners(&carrier) {
                    if let Some(topic) = listening.topic_of(id) {
                        by_topic.entry(topic).or_default().push(id);
                    }
                }
                for (topic, ids) in by_topic {
                    self.workers.tell(tenant, self.place(topic, bid, &place), to(ids));
                }
            }
            Tell::StandingTo(Fresh::Session(id), place) => {
                if let Some(topic) = listening.topic_of(id) {
                    self.workers.tell(tenant, self.place(topic, bid, &place), to(vec![id]));
                }
            }
            Tell::StandingTo(Fresh::Owed(owed), place) => owed.add(self.place(owed.topic(), bid, &place)),
        }
    }

    fn whole(&self, bid: &str, version: i64, frames: Frames) -> Arc<Event> {
        self.metrics.ranking().computed("whole");
        let topic = Topic::of(TopicKind::Ranking, &EntityId::parse(bid).expect("the id of a bid"));
        let (full, public) = (Content::new(frames.full), frames.public.map(Content::new));
        let parts = self.parts(topic, RANKING_UPDATED, bid.to_owned(), full);
        Arc::new(Event::new(EventParts { version: Some(version), public, ..parts }).whole())
    }

    fn place(&self, topic: &Topic, bid: &str, place: &Place) -> Arc<Event> {
        self.metrics.ranking().computed("place");
        let standing = &place.standing;
        let data = serde_json::json!({
            "bid_id": bid,
            "proposal_id": &*standing.proposal_id,
            "rank": standing.rank,
            "previous_rank": place.previous_rank,
            "total": standing.total,
            "version": place.version,
        });
        let key = format!("{bid} {}", standing.proposal_id);
        let full = Content::new(data.to_string());
        Arc::new(Event::new(self.parts(topic.clone(), "my_proposal_rank", key, full)))
    }

    /// Of no place in the log; of the same thing only the newest is kept for a slow reader.
    fn parts(&self, topic: Topic, name: &'static str, key: String, full: Content) -> EventParts {
        EventParts {
            position: None,
            topic,
            name: EventName::trusted(name),
            class: Class::Latest,
            key: Some(key.into()),
            version: None,
            at: self.clock.steady(),
            expires_at: None,
            full,
            public: None,
        }
    }
}
