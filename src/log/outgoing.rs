use std::sync::Arc;
use std::time::Instant;

use super::{NewEvent, Source};
use crate::domain::{Class, EventName, Origin, TenantId, Timestamp, Topic};
use crate::storage::OutboxRow;

/// What an outbox row asks the log for.
#[derive(Debug)]
pub struct Outgoing {
    /// Whose log.
    pub tenant: TenantId,
    /// What is appended: the row's event, or in place of one that is too large a `reset` of its entity.
    pub event: NewEvent,
    /// Where it comes from.
    pub source: Source,
    /// Why the row can never be published as it is.
    pub dead: Option<&'static str>,
}

impl Outgoing {
    /// Reads a row at the moment `now`; the error says why nothing of it can be published.
    pub fn read(row: &OutboxRow, most_bytes: usize, now: Timestamp) -> Result<Self, &'static str> {
        let tenant = TenantId::parse(&row.tenant).map_err(|_| "malformed tenant")?;
        let topic = Topic::parse(&row.topic).map_err(|_| "malformed topic")?;
        let class = Class::parse(&row.class).ok_or("malformed class")?;
        let fits = row.data.len() <= most_bytes;
        let event = NewEvent {
            topic,
            name: EventName::trusted(if fits { &row.name } else { "reset" }),
            class: if fits { class } else { Class::Durable },
            key: row.key.clone(),
            version: row.version.filter(|_| fits),
            ttl: None,
            dedup: None,
            data: if fits { row.data.as_str() } else { "{\"reason\":\"event_too_large\"}" }.into(),
            public: row.public.as_deref().filter(|_| fits).map(Arc::from),
        };
        let (waited, accepted) = (now.since(Timestamp::from_micros(row.created_us)), Instant::now());
        let source = Source {
            origin: row.origin.as_deref().and_then(Origin::parse).map(Arc::new),
            accepted: accepted.checked_sub(waited).unwrap_or(accepted),
        };
        let dead = (!fits).then_some("larger than log.max_message_bytes");
        Ok(Outgoing { tenant, event, source, dead })
    }
}
