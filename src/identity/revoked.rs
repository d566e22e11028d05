//! Credentials that are no longer good, and the sessions that end with them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Credentials;
use crate::domain::{TenantId, Timestamp, UserSub};
use crate::wire::CloseCode;

/// Keys and tickets that were revoked, users that were kicked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Ids of API keys.
    pub keys: HashSet<Arc<str>>,
    /// Ids of tickets.
    pub tickets: HashSet<Arc<str>>,
    /// Users, each with the moment up to which what was issued for it is no longer good.
    pub kicked: HashMap<(TenantId, UserSub), Timestamp>,
}

impl Revoked {
    /// Whether there is nothing to end.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.tickets.is_empty() && self.kicked.is_empty()
    }

    /// How a session of the tenant ends that lives by these credentials; None when it goes on.
    pub fn end_of(&self, tenant: &TenantId, credentials: &Credentials) -> Option<CloseCode> {
        let holds =
            |gone: &HashSet<Arc<str>>, id: &Option<Arc<str>>| id.as_ref().is_some_and(|id| gone.contains(id));
        if holds(&self.keys, &credentials.key_id) || holds(&self.tickets, &credentials.ticket_id) {
            return Some(CloseCode::Unauthenticated);
        }
        let user = (tenant.clone(), credentials.sub.clone()?);
        let not_before = self.kicked.get(&user)?;
        let is_older = credentials.issued_at.is_none_or(|issued_at| issued_at <= *not_before);
        is_older.then_some(CloseCode::Forbidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_with_what_it_lives_by_and_with_nothing_else() {
        let tenant = |name: &str| TenantId::parse(name).unwrap();
        let sub = |name: &str| UserSub::parse(name).unwrap();
        let at = Timestamp::from_micros;
        let revoked = Revoked {
            keys: [Arc::from("k1")].into(),
            tickets: [Arc::from("t1")].into(),
            kicked: [((tenant("acme"), sub("kim")), at(100))].into(),
        };
        let session = |key: Option<&str>, ticket: Option<&str>, name: Option<&str>, issued: Option<i64>| {
            let credentials = Credentials {
                key_id: key.map(Arc::from),
                ticket_id: ticket.map(Arc::from),
                sub: name.map(sub),
                issued_at: issued.map(at),
                expires_at: None,
            };
            revoked.end_of(&tenant("acme"), &credentials)
        };
        let (gone, kicked) = (Some(CloseCode::Unauthenticated), Some(CloseCode::Forbidden));
        assert_eq!(session(Some("k1"), None, None, Some(200)), gone);
        assert_eq!(session(Some("k2"), None, None, None), None);
        assert_eq!(session(Some("k2"), Some("t1"), Some("lee"), Some(200)), gone);
        assert_eq!(session(None, Some("t2"), Some("kim"), Some(100)), kicked);
        assert_eq!(session(None, None, Some("kim"), Some(101)), None, "issued after the kick");
        assert_eq!(session(None, None, Some("kim"), None), kicked, "without iat: before any kick");
        assert_eq!(session(Some("k2"), None, Some("lee"), None), None);
        let namesake = Credentials { sub: Some(sub("kim")), ..Credentials::default() };
        assert_eq!(revoked.end_of(&tenant("other"), &namesake), None, "another tenant's");
    }
}
