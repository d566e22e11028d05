use std::fmt;
use std::sync::Arc;

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 1–64 characters of the allowed alphabet.
    #[error("must be 1-64 characters of A-Z a-z 0-9 _ . : -")]
    Malformed,
    /// A user's `sub` that is empty or longer than 128 bytes.
    #[error("must be 1-128 bytes of UTF-8")]
    MalformedSub,
}

/// The alphabet of ids and event names: 1–64 of `[A-Za-z0-9_.:-]`.
pub(super) fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'-'))
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $valid:expr, $error:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes the text.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok($name(text.into())) } else { Err($error) }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, out)
            }
        }
    };
}

text_id!(
    /// A tenant: the wall that no event, key or query crosses.
    TenantId, is_id, IdError::Malformed
);
text_id!(
    /// The id of a fleet, bid, order or other entity, chosen by the caller or generated.
    EntityId, is_id, IdError::Malformed
);
text_id!(
    /// A user within a tenant (`sub`): any UTF-8 of 1–128 bytes.
    UserSub, |text| (1..=128).contains(&text.len()), IdError::MalformedSub
);

impl TenantId {
    /// The tenant used where none is named.
    pub fn default_tenant() -> Self {
        TenantId("default".into())
    }
}

/// The name of an event, as clients listen for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventName(Arc<str>);

/// Why a text is not an event name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventNameError {
    /// Not 1–64 characters of the allowed alphabet.
    #[error("must be 1-64 characters of A-Z a-z 0-9 _ . : -")]
    Malformed,
    /// A name that transports use for themselves.
    #[error("is reserved for the transports")]
    Reserved,
}

/// Names that a transport or a client library gives a meaning of its own.
const TRANSPORT_NAMES: &[&str] = &[
    "ready",
    "close",
    "heartbeat",
    "ping",
    "position",
    "batch",
    "unsubscribed",
    "message",
    "open",
    "error",
    EventName::ENTITY_CREATED,
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
];

impl EventName {
    /// Tells nodes of a new entity before anything else about it; never sent to clients.
    pub const ENTITY_CREATED: &str = "entity.created";

    /// Checks a name that somebody wants to publish under.
    pub fn parse(text: &str) -> Result<Self, EventNameError> {
        if !is_id(text) {
            return Err(EventNameError::Malformed);
        }
        if TRANSPORT_NAMES.contains(&text) {
            return Err(EventNameError::Reserved);
        }
        Ok(EventName(text.into()))
    }

    /// A name the product itself uses or has stored before.
    pub fn trusted(text: &str) -> Self {
        EventName(text.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_never_hold_a_line_break() {
        assert!(EntityId::parse("FLT-A01").is_ok());
        assert!(EntityId::parse(&"x".repeat(64)).is_ok());
        for text in ["", "a b", "a\nb", "a\rb", "é", "a/b", &"x".repeat(65)] {
            assert_eq!(EntityId::parse(text), Err(IdError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn names_of_the_transports_cannot_be_published() {
        for name in TRANSPORT_NAMES {
            assert_eq!(EventName::parse(name), Err(EventNameError::Reserved));
        }
        assert_eq!(EventName::parse("a\r\nid: 1"), Err(EventNameError::Malformed));
        assert!(EventName::parse("order.created").is_ok());
    }
}
