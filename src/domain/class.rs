use serde::{Deserialize, Serialize};

/// How much of an event's history matters to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Every event is delivered and replayed.
    Durable,
    /// Only the newest event per key matters; a full queue may conflate older ones away.
    Latest,
    /// Live only: never logged, first to be dropped.
    Volatile,
}

impl Class {
    /// The word used on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Durable => "durable",
            Class::Latest => "latest",
            Class::Volatile => "volatile",
        }
    }

    /// Reads the word written by [`Class::as_str`].
    pub fn parse(text: &str) -> Option<Class> {
        [Class::Durable, Class::Latest, Class::Volatile].into_iter().find(|class| class.as_str() == text)
    }
}
