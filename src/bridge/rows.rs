use std::collections::HashMap;

use super::lanes::BATCH_BYTES;
use crate::domain::{TenantId, Timestamp};
use crate::log::{Joined, Outgoing};

/// What goes out for one or more rows of the outbox.
pub(super) struct Row {
    /// The row that it is numbered by, and those that are told with it.
    pub id: i64,
    pub earlier: Vec<i64>,
    pub outgoing: Outgoing,
}

/// Rows that are to be published.
#[derive(Default)]
pub(super) struct Sorted {
    /// By tenant, in the order of their commits, as many of each as one call carries.
    pub lanes: HashMap<TenantId, Vec<Row>>,
    /// Those that can never be published, and why.
    pub dead: Vec<(Vec<i64>, &'static str)>,
    /// Whether some were left for the next time.
    pub is_cut: bool,
}

impl Sorted {
    /// Rows at the moment `now`, by the wall clock: they are stamped by that of the node that wrote them.
    pub fn of(joined: Vec<Joined>, most_bytes: usize, now: Timestamp) -> Self {
        let (mut own, mut bytes) = (Sorted::default(), HashMap::<TenantId, usize>::new());
        for row in joined {
            match Outgoing::read(&row.row, most_bytes, now) {
                Ok(outgoing) => {
                    let taken = bytes.entry(outgoing.tenant.clone()).or_default();
                    let is_first = *taken == 0;
                    *taken += outgoing.event.bytes().max(1);
                    if is_first || *taken <= BATCH_BYTES {
                        let Joined { row, earlier } = row;
                        let row = Row { id: row.id, earlier, outgoing };
                        own.lanes.entry(row.outgoing.tenant.clone()).or_default().push(row);
                    } else {
                        own.is_cut = true;
                    }
                }
                Err(reason) => own.dead.push((row.ids().collect(), reason)),
            }
        }
        own
    }
}
