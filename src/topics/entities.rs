//! What entities say of who may hear them: an order's parties, a bid's owner and visibility.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::domain::{EntityId, Selector, Topic, TopicKind, Visibility};
use crate::identity::{Principal, User, rights};
use crate::wire::Audience;

/// What decides who may hear an entity's topics; fixed when it comes into being, and never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Facts {
    /// Of an order.
    Order {
        /// The user that it is shipped for.
        shipper: String,
        /// Who carries it: a user, or what users state in their claim `carriers`.
        carrier: Option<String>,
    },
    /// Of a bid.
    Bid {
        /// The user that has created it; None: a service.
        owner: Option<String>,
        /// What others may see.
        visibility: Visibility,
    },
}

/// What a node knows of an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// It is there.
    Facts(Arc<Facts>),
    /// It was not there when it was last looked for.
    Absent,
    /// It could not be looked for.
    Unknown,
}

/// The code of a topic that may be for a user: the entity that tells could not be asked.
pub const UNAVAILABLE: &str = "unavailable";

/// The entity whose facts decide about a topic, by the topic that is named after it.
pub fn entity_of(topic: &Topic) -> Option<Topic> {
    match topic.kind() {
        TopicKind::Order | TopicKind::Bid => Some(topic.clone()),
        TopicKind::Ranking => Some(Topic::of(TopicKind::Bid, &EntityId::parse(topic.id()).ok()?)),
        _ => None,
    }
}

/// The entity that has to be known before a principal's subscription is judged; None where the table of rights
/// tells all.
pub fn needed(principal: &Principal, selector: &Selector) -> Option<Topic> {
    let room = selector.room()?;
    let by_table = rights::subscription(principal, &Selector::Topic(room.clone()));
    let decides = match (room.kind(), by_table) {
        (TopicKind::Order, None) => principal.user.is_some(),
        (TopicKind::Bid | TopicKind::Ranking, Some(Audience::Public)) => true,
        _ => false,
    };
    decides.then(|| entity_of(&room)).flatten()
}

/// The variant that a principal hears by the table of rights and by what is known of the entity, or the code of
/// the refusal. One that nobody has seen is judged by the table alone.
pub fn audience(
    principal: &Principal,
    selector: &Selector,
    known: impl FnOnce(&Topic) -> Knowledge,
) -> Result<Audience, &'static str> {
    let by_table = rights::subscription(principal, selector).ok_or("forbidden");
    let (Some(entity), Some(room)) = (needed(principal, selector), selector.room()) else {
        return by_table;
    };
    let user = principal.user.as_ref();
    let heard = match known(&entity) {
        Knowledge::Absent => by_table,
        // what a bid tells everybody may be heard meanwhile
        Knowledge::Unknown if room.kind() == TopicKind::Bid => Ok(Audience::Public),
        Knowledge::Unknown => Err(UNAVAILABLE),
        Knowledge::Facts(facts) => facts.audience(user, room.kind()),
    };
    // who is present has no variants
    heard.map(|heard| if selector.kind() == TopicKind::Presence { Audience::Full } else { heard })
}

impl Facts {
    /// What somebody without a role or scope for all of them hears on a topic of this kind.
    fn audience(&self, user: Option<&User>, topic: TopicKind) -> Result<Audience, &'static str> {
        let is_user = |name: &str| user.is_some_and(|user| user.sub.as_str() == name);
        match self {
            Facts::Order { shipper, carrier } => {
                let carries = |carrier: &String| user.is_some_and(|user| user.is_carrier(carrier));
                let is_party = is_user(shipper) || carrier.as_ref().is_some_and(carries);
                if is_party { Ok(Audience::Full) } else { Err("forbidden") }
            }
            Facts::Bid { owner, visibility } => match visibility {
                _ if owner.as_deref().is_some_and(is_user) => Ok(Audience::Full),
                Visibility::Open => Ok(Audience::Full),
                Visibility::Sealed if topic == TopicKind::Ranking => Err("forbidden"),
                Visibility::Anonymous | Visibility::Sealed => Ok(Audience::Public),
            },
        }
    }

    /// The topics that it is about: a new entity is told of on each of them.
    pub fn topics(&self, id: &EntityId) -> Vec<Topic> {
        let kinds: &[TopicKind] = match self {
            Facts::Order { .. } => &[TopicKind::Order],
            Facts::Bid { .. } => &[TopicKind::Bid, TopicKind::Ranking],
        };
        kinds.iter().map(|kind| Topic::of(*kind, id)).collect()
    }

    /// What the field with its id is called.
    fn id_field(&self) -> &'static str {
        match self {
            Facts::Order { .. } => "order_id",
            Facts::Bid { .. } => "bid_id",
        }
    }

    /// As the entry says it that tells nodes of a new entity.
    pub fn written(&self, id: &EntityId) -> String {
        let mut fields = serde_json::to_value(self).expect("facts are plain data");
        fields[self.id_field()] = id.as_str().into();
        fields.to_string()
    }

    /// Reads what [`Facts::written`] writes, of an entity of this kind.
    pub fn read(entity: &Topic, text: &str) -> Option<Self> {
        let facts: Facts = serde_json::from_str(text).ok()?;
        let is_kind = match facts {
            Facts::Order { .. } => entity.kind() == TopicKind::Order,
            Facts::Bid { .. } => entity.kind() == TopicKind::Bid,
        };
        is_kind.then_some(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{TenantId, UserSub};
    use crate::identity::Scopes;

    fn user(name: &str, roles: &[&str], carriers: &[&str]) -> Principal {
        let texts = |own: &[&str]| own.iter().map(|own| (*own).to_owned()).collect();
        let (roles, carriers) = (texts(roles), texts(carriers));
        let user = User { roles, carriers, ..User::plain(UserSub::parse(name).unwrap()) };
        Principal::user(TenantId::default_tenant(), user)
    }

    fn service(scopes: &str) -> Principal {
        Principal { scopes: Scopes::parse(scopes).unwrap(), user: None, ..user("x", &[], &[]) }
    }

    fn order(shipper: &str, carrier: Option<&str>) -> Knowledge {
        let carrier = carrier.map(str::to_owned);
        Knowledge::Facts(Arc::new(Facts::Order { shipper: shipper.to_owned(), carrier }))
    }

    fn bid(visibility: Visibility) -> Knowledge {
        Knowledge::Facts(Arc::new(Facts::Bid { owner: Some("own".to_owned()), visibility }))
    }

    fn heard(principal: &Principal, topic: &str, known: Knowledge) -> Result<Audience, &'static str> {
        audience(principal, &Selector::parse(topic).unwrap(), |_| known)
    }

    #[test]
    fn an_order_is_heard_by_its_parties_and_by_those_whose_role_it_is() {
        let known = || order("kim", Some("CJ"));
        for topic in ["order:1", "presence:order:1"] {
            for (principal, expected) in [
                (user("kim", &[], &[]), Ok(Audience::Full)),
                (user("CJ", &["carrier"], &[]), Ok(Audience::Full)),
                (user("lee", &["carrier"], &["HJ", "CJ"]), Ok(Audience::Full)),
                (user("lee", &["carrier", "shipper"], &["cj"]), Err("forbidden")),
                (user("lee", &["dispatcher"], &[]), Ok(Audience::Full)),
                (service("subscribe"), Ok(Audience::Full)),
                (service("manage,admin,publish,act_as_user"), Err("forbidden")),
            ] {
                assert_eq!(heard(&principal, topic, known()), expected, "{topic} {principal:?}");
            }
            let stranger = user("lee", &[], &[]);
            assert_eq!(heard(&stranger, topic, order("kim", None)), Err("forbidden"));
            assert_eq!(heard(&stranger, topic, Knowledge::Absent), Err("forbidden"));
            assert_eq!(heard(&stranger, topic, Knowledge::Unknown), Err("unavailable"));
            let dispatcher = user("lee", &["dispatcher"], &[]);
            for known in [Knowledge::Absent, Knowledge::Unknown] {
                assert_eq!(heard(&dispatcher, topic, known), Ok(Audience::Full), "its role is enough");
            }
        }
        assert_eq!(heard(&user("CJ", &[], &[]), "order:*", known()), Err("forbidden"));
    }

    #[test]
    fn a_bid_is_heard_by_its_owner_in_full_and_by_others_as_its_visibility_says() {
        use Visibility::{Anonymous, Open, Sealed};
        let (full, public, forbidden) = (Ok(Audience::Full), Ok(Audience::Public), Err("forbidden"));
        for (visibility, of_bid, of_ranking) in
            [(Open, full, full), (Anonymous, public, public), (Sealed, public, forbidden)]
        {
            for stranger in [user("lee", &["carrier", "dispatcher"], &["own"]), service("subscribe")] {
                assert_eq!(heard(&stranger, "bid:1", bid(visibility)), of_bid, "{visibility:?}");
                assert_eq!(heard(&stranger, "ranking:1", bid(visibility)), of_ranking, "{visibility:?}");
                let present = of_ranking.map(|_| Audience::Full);
                assert_eq!(heard(&stranger, "presence:ranking:1", bid(visibility)), present);
            }
            for all in [user("own", &[], &[]), user("lee", &["manager"], &[]), service("subscribe,manage")] {
                for topic in ["bid:1", "ranking:1"] {
                    assert_eq!(heard(&all, topic, bid(visibility)), full, "{topic} {visibility:?}");
                }
            }
        }
    }

    #[test]
    fn of_an_entity_that_is_not_there_or_not_known_nobody_is_given_too_much() {
        let lee = user("lee", &[], &[]);
        assert_eq!(heard(&lee, "ranking:1", Knowledge::Absent), Ok(Audience::Public));
        assert_eq!(heard(&lee, "ranking:1", Knowledge::Unknown), Err("unavailable"));
        for known in [Knowledge::Absent, Knowledge::Unknown] {
            assert_eq!(heard(&lee, "bid:1", known.clone()), Ok(Audience::Public));
            assert_eq!(heard(&user("lee", &["admin"], &[]), "ranking:1", known), Ok(Audience::Full));
        }
        assert_eq!(heard(&lee, "fleet:1", Knowledge::Unknown), Ok(Audience::Full));
    }

    #[test]
    fn facts_are_asked_for_only_where_they_decide() {
        let asked = |principal: &Principal, topic: &str| {
            needed(principal, &Selector::parse(topic).unwrap()).map(|entity| entity.as_str().to_owned())
        };
        let lee = user("lee", &[], &[]);
        assert_eq!(asked(&lee, "order:1").as_deref(), Some("order:1"));
        assert_eq!(asked(&lee, "ranking:1").as_deref(), Some("bid:1"));
        assert_eq!(asked(&lee, "presence:ranking:1").as_deref(), Some("bid:1"));
        assert_eq!(asked(&service("subscribe"), "bid:1").as_deref(), Some("bid:1"));
        for topic in ["fleet:1", "topic:a", "order:*", "presence:x", "user:lee"] {
            assert_eq!(asked(&lee, topic), None, "{topic}");
        }
        for topic in ["order:1", "ranking:1", "bid:1"] {
            assert_eq!(asked(&user("lee", &["manager"], &[]), topic), None, "{topic}");
        }
        assert_eq!(asked(&service("publish"), "order:1"), None, "no facts help it");
    }

    #[test]
    fn facts_are_read_as_they_are_written_and_of_their_own_kind_only() {
        let id = EntityId::parse("7").unwrap();
        let own = Facts::Order { shipper: "k \"im".to_owned(), carrier: None };
        let bid = Facts::Bid { owner: Some("lee".to_owned()), visibility: Visibility::Sealed };
        assert_eq!(bid.written(&id), r#"{"bid_id":"7","owner":"lee","visibility":"sealed"}"#);
        for facts in [own.clone(), bid.clone()] {
            let entity = facts.topics(&id).remove(0);
            assert_eq!(Facts::read(&entity, &facts.written(&id)), Some(facts));
        }
        assert_eq!(Facts::read(&Topic::parse("order:7").unwrap(), &bid.written(&id)), None);
        assert_eq!(Facts::read(&Topic::parse("bid:7").unwrap(), "{}"), None);
        let topics = bid.topics(&id);
        assert_eq!(topics.iter().map(Topic::as_str).collect::<Vec<_>>(), ["bid:7", "ranking:7"]);
    }
}
