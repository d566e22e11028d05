//! What is published about bids.

use serde_json::{Value, json};

use super::frame::{Frame, Frames, Step};
use super::ranking::BidRanking;
use super::{Bid, Pseudonyms, Status};
use crate::domain::{Class, Timestamp, TopicKind, Visibility};
use crate::storage::OutboxRow;
use crate::wire::RANKING_UPDATED;

/// A bid's status has changed.
pub fn status_changed(
    tenant: &str,
    bid: &Bid,
    old: Status,
    reason: Option<&str>,
    now: Timestamp,
    origin: Option<String>,
) -> OutboxRow {
    let mut data = json!({
        "bid_id": bid.id,
        "old_status": old,
        "new_status": bid.status,
        "updated_at": now,
        "version": bid.version,
    });
    if let Some(reason) = reason {
        data["reason"] = reason.into();
    }
    let mut public = None;
    if let Some(awarded) = &bid.awarded {
        let mut shown = data.clone();
        match bid.visibility {
            Visibility::Open => {}
            Visibility::Anonymous => {
                shown["awarded_proposal_id"] = Pseudonyms::new(&bid.secret).proposal(awarded).into();
                public = Some(shown.to_string());
            }
            Visibility::Sealed => public = Some(shown.to_string()),
        }
        data["awarded_proposal_id"] = Value::from(awarded.as_str());
    }
    OutboxRow { public, origin, ..row(tenant, bid, TopicKind::Bid, data.to_string(), now) }
}

/// A bid ends later than it was to. Counts as a change of its status.
pub fn extended(tenant: &str, bid: &mut Bid, now: Timestamp) -> OutboxRow {
    bid.version += 1;
    bid.updated_at = now;
    let data = json!({
        "bid_id": bid.id,
        "old_status": bid.status,
        "new_status": bid.status,
        "updated_at": now,
        "version": bid.version,
        "reason": "extended",
        "closes_at": bid.closes_at,
    });
    row(tenant, bid, TopicKind::Bid, data.to_string(), now)
}

/// Whether a row tells of a ranking: it may wait for others of its bid.
pub fn is_ranking(row: &OutboxRow) -> bool {
    row.name == RANKING_UPDATED
}

/// Two changes of a ranking, told as one; None where one does not follow on the other.
pub fn joined(earlier: &OutboxRow, later: &OutboxRow) -> Option<OutboxRow> {
    let join = |earlier: &str, later: &str| Some(Frame::read(earlier)?.then(Frame::read(later)?)?.written());
    let public = match (&earlier.public, &later.public) {
        (Some(earlier), Some(later)) if earlier == later => Some(later.clone()),
        (Some(earlier), Some(later)) => Some(join(earlier, later)?),
        (None, None) => None,
        _ => return None,
    };
    Some(OutboxRow {
        data: join(&earlier.data, &later.data)?,
        public,
        created_us: earlier.created_us,
        origin: later.origin.clone().or_else(|| earlier.origin.clone()),
        ..later.clone()
    })
}

/// The proposals of a bid have another order.
pub fn ranking_updated(
    tenant: &str,
    bid: &Bid,
    change: (&BidRanking, &[Step]),
    from_version: i64,
    window: usize,
    now: Timestamp,
    origin: Option<String>,
) -> OutboxRow {
    let frames = Frames::new(&bid.id, change, from_version, window, (bid.visibility, &bid.secret), now);
    OutboxRow {
        name: RANKING_UPDATED.to_owned(),
        class: Class::Latest.as_str().to_owned(),
        key: Some(bid.id.clone()),
        version: Some(bid.ranking_version),
        public: frames.public,
        origin,
        ..row(tenant, bid, TopicKind::Ranking, frames.full, now)
    }
}

fn row(tenant: &str, bid: &Bid, kind: TopicKind, data: String, now: Timestamp) -> OutboxRow {
    OutboxRow {
        id: 0,
        tenant: tenant.to_owned(),
        topic: format!("{}:{}", kind.as_str(), bid.id),
        name: "bid_status_changed".to_owned(),
        class: Class::Durable.as_str().to_owned(),
        key: None,
        version: Some(bid.version),
        data,
        public: None,
        created_us: now.micros(),
        origin: None,
    }
}
