use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::ids::is_id;
use super::{EntityId, UserSub};

/// What a topic is about: the part before the first colon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TopicKind {
    /// `fleet:{id}`
    Fleet,
    /// `region:{code}`
    Region,
    /// `question:{id}`
    Question,
    /// `tenant`: everybody of the tenant
    Tenant,
    /// `bid:{id}`
    Bid,
    /// `ranking:{id}`
    Ranking,
    /// `order:{id}`
    Order,
    /// `user:{sub}`
    User,
    /// `topic:{name}`: named by the application
    Named,
    /// `presence:{room}`
    Presence,
    /// `admin`
    Admin,
    /// `dashboard`
    Dashboard,
}

impl TopicKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [TopicKind; 12] = [
        TopicKind::Fleet,
        TopicKind::Region,
        TopicKind::Question,
        TopicKind::Tenant,
        TopicKind::Bid,
        TopicKind::Ranking,
        TopicKind::Order,
        TopicKind::User,
        TopicKind::Named,
        TopicKind::Presence,
        TopicKind::Admin,
        TopicKind::Dashboard,
    ];

    /// The word before the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            TopicKind::Fleet => "fleet",
            TopicKind::Region => "region",
            TopicKind::Question => "question",
            TopicKind::Tenant => "tenant",
            TopicKind::Bid => "bid",
            TopicKind::Ranking => "ranking",
            TopicKind::Order => "order",
            TopicKind::User => "user",
            TopicKind::Named => "topic",
            TopicKind::Presence => "presence",
            TopicKind::Admin => "admin",
            TopicKind::Dashboard => "dashboard",
        }
    }

    /// Whether topics of this kind are the bare word, without an id.
    pub const fn is_bare(self) -> bool {
        matches!(self, TopicKind::Tenant | TopicKind::Admin | TopicKind::Dashboard)
    }
}

/// One stream of events inside a tenant: `kind:id`, split at the first colon.
#[derive(Clone)]
pub struct Topic {
    text: Arc<str>,
    kind: TopicKind,
}

/// Why a text is not a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The part before the colon is no known kind.
    #[error("no such kind of topic")]
    UnknownKind,
    /// The part after the colon is missing, superfluous or malformed.
    #[error("the id after the colon is missing or malformed")]
    MalformedId,
    /// A prefix where a single topic is needed.
    #[error("a prefix can only be subscribed to")]
    Prefix,
}

/// Characters of a user's `sub` that stand for themselves inside a topic (RFC 3986 unreserved, and the colon).
const SUB_ESCAPES: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

impl Topic {
    /// Checks and takes a topic's text; a user's `sub` is brought to one spelling of its percent-encoding.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        let (kind, id) = split(text)?;
        match (kind, id) {
            (kind, None) if kind.is_bare() => Ok(Topic { text: kind.as_str().into(), kind }),
            (TopicKind::User, Some(id)) => {
                let sub = percent_decode_str(id).decode_utf8().map_err(|_| TopicError::MalformedId)?;
                UserSub::parse(&sub).map(|sub| Topic::user(&sub)).map_err(|_| TopicError::MalformedId)
            }
            (kind, Some(id)) if !kind.is_bare() && is_id(id) => Ok(Topic { text: text.into(), kind }),
            (kind, Some(id)) if !kind.is_bare() && id.ends_with('*') => Err(TopicError::Prefix),
            _ => Err(TopicError::MalformedId),
        }
    }

    /// The topic of an entity; `kind` is one whose topics carry an id.
    pub fn of(kind: TopicKind, id: &EntityId) -> Self {
        debug_assert!(!kind.is_bare() && kind != TopicKind::User);
        Topic { text: format!("{}:{id}", kind.as_str()).into(), kind }
    }

    /// A user's own topic.
    pub fn user(sub: &UserSub) -> Self {
        let text = format!("user:{}", utf8_percent_encode(sub.as_str(), SUB_ESCAPES));
        Topic { text: text.into(), kind: TopicKind::User }
    }

    /// The kind before the colon.
    pub fn kind(&self) -> TopicKind {
        self.kind
    }

    /// The whole text, `kind:id`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part after the colon; empty for bare topics.
    pub fn id(&self) -> &str {
        self.text.split_once(':').map_or("", |(_, id)| id)
    }
}

fn split(text: &str) -> Result<(TopicKind, Option<&str>), TopicError> {
    let (word, id) = match text.split_once(':') {
        Some((word, id)) => (word, Some(id)),
        None => (text, None),
    };
    let kind = TopicKind::ALL.into_iter().find(|kind| kind.as_str() == word);
    kind.map(|kind| (kind, id)).ok_or(TopicError::UnknownKind)
}

impl PartialEq for Topic {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Topic {}

impl Hash for Topic {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl std::borrow::Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, out)
    }
}

/// What a session subscribes to: one topic, or every topic of a kind whose id begins in a certain way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// One topic.
    Topic(Topic),
    /// `kind:start*`
    Prefix {
        /// The kind before the colon.
        kind: TopicKind,
        /// The text before the star, kind included (`bid:`).
        start: Arc<str>,
    },
}

impl Selector {
    /// Reads a topic or a prefix such as `bid:*`.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        let Some(start) = text.strip_suffix('*') else {
            return Topic::parse(text).map(Selector::Topic);
        };
        let (kind, id) = split(start)?;
        let id = id.filter(|_| !kind.is_bare()).ok_or(TopicError::MalformedId)?;
        if !id.is_empty() && !is_id(id) {
            return Err(TopicError::MalformedId);
        }
        Ok(Selector::Prefix { kind, start: start.into() })
    }

    /// The kind of the topics selected.
    pub fn kind(&self) -> TopicKind {
        match self {
            Selector::Topic(topic) => topic.kind(),
            Selector::Prefix { kind, .. } => *kind,
        }
    }

    /// The topic that decides who may hear it: its own, or that of the room whose presence it tells of. None for
    /// prefixes, and for the presence of what is no room.
    pub fn room(&self) -> Option<Topic> {
        match self {
            Selector::Prefix { .. } => None,
            Selector::Topic(topic) if topic.kind() == TopicKind::Presence => {
                Topic::parse(topic.id()).ok().filter(|room| room.kind() != TopicKind::Presence)
            }
            Selector::Topic(topic) => Some(topic.clone()),
        }
    }

    /// Whether `topic` is selected.
    pub fn matches(&self, topic: &Topic) -> bool {
        match self {
            Selector::Topic(own) => own == topic,
            Selector::Prefix { start, .. } => topic.as_str().starts_with(&**start),
        }
    }

    /// Whether every topic of `other` is selected.
    pub fn covers(&self, other: &Selector) -> bool {
        match (self, other) {
            (own, Selector::Topic(topic)) => own.matches(topic),
            (Selector::Prefix { start, .. }, Selector::Prefix { start: other, .. }) => {
                other.starts_with(&**start)
            }
            (Selector::Topic(_), Selector::Prefix { .. }) => false,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Topic(topic) => topic.fmt(out),
            Selector::Prefix { start, .. } => write!(out, "{start}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_prefix_covers_what_it_begins() {
        let covers =
            |own: &str, other: &str| Selector::parse(own).unwrap().covers(&Selector::parse(other).unwrap());
        assert!(
            covers("topic:*", "topic:a") && covers("topic:a*", "topic:ab*") && covers("topic:a", "topic:a")
        );
        assert!(
            !covers("topic:ab*", "topic:a*") && !covers("topic:a", "topic:a*") && !covers("bid:*", "topic:a")
        );
    }

    #[test]
    fn a_topic_splits_at_its_first_colon() {
        let topic = Topic::parse("fleet:KR:1").unwrap();
        assert_eq!((topic.kind(), topic.id()), (TopicKind::Fleet, "KR:1"));
        assert_eq!(Topic::parse("tenant").unwrap().kind(), TopicKind::Tenant);
    }

    #[test]
    fn malformed_topics_are_refused_by_name() {
        assert_eq!(Topic::parse("truck:1"), Err(TopicError::UnknownKind));
        assert_eq!(Topic::parse("fleet"), Err(TopicError::MalformedId));
        assert_eq!(Topic::parse("tenant:x"), Err(TopicError::MalformedId));
        assert_eq!(Topic::parse("fleet:a\r\nid: 9"), Err(TopicError::MalformedId));
        assert_eq!(Topic::parse("user:%ff"), Err(TopicError::MalformedId));
        assert_eq!(Topic::parse("bid:*"), Err(TopicError::Prefix));
        assert!(matches!(Selector::parse("tenant*"), Err(TopicError::MalformedId)));
    }

    #[test]
    fn a_prefix_selects_its_kind_only() {
        let all = Selector::parse("bid:*").unwrap();
        assert!(all.matches(&Topic::parse("bid:1").unwrap()));
        assert!(!all.matches(&Topic::parse("fleet:1").unwrap()));
        assert_eq!(all.to_string(), "bid:*");
    }

    proptest! {
        #[test]
        fn every_sub_has_one_topic_without_control_characters(sub in "\\PC{1,40}|[\\x00-\\x1f]{1,9}") {
            let Ok(sub) = UserSub::parse(&sub) else { return Ok(()) };
            let topic = Topic::user(&sub);
            prop_assert!(topic.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(Topic::parse(topic.as_str()), Ok(topic));
        }
    }
}
