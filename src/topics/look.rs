//! Looks entities up in the database.

use std::collections::HashMap;

use super::Facts;
use crate::domain::{EntityId, TenantId, Topic, TopicKind, Visibility};
use crate::storage::{BidFactsRow, Database, OrderFactsRow, StoreError};

/// The facts of those of these entities that are there.
pub async fn look(
    database: &Database,
    tenant: &TenantId,
    asked: &[Topic],
) -> Result<HashMap<Topic, Facts>, StoreError> {
    let of = |kind: TopicKind| {
        let own = asked.iter().filter(|entity| entity.kind() == kind);
        own.map(|entity| entity.id().to_owned()).collect::<Vec<_>>()
    };
    let mut found = HashMap::new();
    for (kind, facts) in [
        (TopicKind::Order, orders(database, tenant, of(TopicKind::Order)).await?),
        (TopicKind::Bid, bids(database, tenant, of(TopicKind::Bid)).await?),
    ] {
        for (id, facts) in facts {
            let id = EntityId::parse(&id).map_err(|error| StoreError::Unexpected(error.to_string()))?;
            found.insert(Topic::of(kind, &id), facts);
        }
    }
    Ok(found)
}

async fn orders(
    database: &Database,
    tenant: &TenantId,
    ids: Vec<String>,
) -> Result<Vec<(String, Facts)>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let tenant = tenant.as_str().to_owned();
    let rows: Vec<OrderFactsRow> =
        database
            .run(move |db| async move {
                crate::read!(db, |conn, q| Ok(q::orders::facts(conn, &tenant, &ids).await?))
            })
            .await?;
    let facts =
        |row: OrderFactsRow| (row.order_id, Facts::Order { shipper: row.shipper, carrier: row.carrier });
    Ok(rows.into_iter().map(facts).collect())
}

async fn bids(
    database: &Database,
    tenant: &TenantId,
    ids: Vec<String>,
) -> Result<Vec<(String, Facts)>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let tenant = tenant.as_str().to_owned();
    let rows: Vec<BidFactsRow> =
        database
            .run(move |db| async move {
                crate::read!(db, |conn, q| Ok(q::bids::facts(conn, &tenant, &ids).await?))
            })
            .await?;
    let facts = |row: BidFactsRow| {
        let visibility = Visibility::parse(&row.visibility);
        let visibility = visibility.ok_or_else(|| StoreError::Unexpected(format!("bid {}", row.bid_id)))?;
        Ok((row.bid_id, Facts::Bid { owner: row.owner, visibility }))
    };
    rows.into_iter().map(facts).collect()
}
