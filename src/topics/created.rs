//! The entries that tell every node of a new entity, before anything else about it; clients never get them.

use super::Facts;
use crate::domain::{Class, EntityId, EventName, TenantId, Timestamp, Topic};
use crate::storage::OutboxRow;

/// Those of an entity with facts, to be inserted before any other outbox row of the transaction that creates it:
/// one on each of its topics, so that whoever hears any of them is judged again.
pub fn created_rows(tenant: &TenantId, id: &EntityId, facts: &Facts, now: Timestamp) -> Vec<OutboxRow> {
    let row = |topic: Topic| created_row(tenant, &topic, facts.written(id), now);
    facts.topics(id).into_iter().map(row).collect()
}

/// The entry on one topic.
pub(super) fn created_row(tenant: &TenantId, topic: &Topic, data: String, now: Timestamp) -> OutboxRow {
    OutboxRow {
        id: 0,
        tenant: tenant.as_str().to_owned(),
        topic: topic.as_str().to_owned(),
        name: EventName::ENTITY_CREATED.to_owned(),
        class: Class::Durable.as_str().to_owned(),
        key: None,
        version: None,
        data,
        public: None,
        created_us: now.micros(),
        origin: None,
    }
}
