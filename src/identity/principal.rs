use std::sync::Arc;

use super::Scopes;
use crate::domain::{Refusal, Selector, TenantId, Timestamp, UserSub};

/// A user within a tenant, with what its credentials state of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Who.
    pub sub: UserSub,
    /// `dispatcher`, `manager`, `admin`, `shipper`, …
    pub roles: Vec<String>,
    /// The carriers it speaks for, besides itself.
    pub carriers: Vec<String>,
}

impl User {
    /// Roles and carriers of one user, at most.
    pub const MAX_ITEMS: usize = 64;

    /// Whether a text can be a role or a carrier.
    pub fn is_item(text: &str) -> bool {
        (1..=128).contains(&text.len())
    }

    /// A user of whom nothing else is known.
    pub fn plain(sub: UserSub) -> Self {
        User { sub, roles: Vec::new(), carriers: Vec::new() }
    }

    /// Whether it is this carrier, or speaks for it.
    pub fn is_carrier(&self, carrier: &str) -> bool {
        self.sub.as_str() == carrier || self.carriers.iter().any(|own| own == carrier)
    }
}

/// Whoever a request comes from: a service with its key, a user, or a service speaking for a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The tenant it belongs to; none for an operator.
    pub tenant: Option<TenantId>,
    /// The API key behind it; none when a token or the configuration stands for it.
    pub key_id: Option<Arc<str>>,
    /// What the key is for; without effect when the principal is a user.
    pub scopes: Scopes,
    /// Set when it acts with a user's rights.
    pub user: Option<User>,
    /// Set when it came with a ticket.
    pub ticket_id: Option<Arc<str>>,
    /// What its ticket is for, of all that it may hear; None: all of it.
    pub ticket_topics: Option<Arc<[Selector]>>,
    /// When it was last known good: a token's `iat` (none counts as before any kick), or the moment that
    /// other credentials were checked.
    pub issued_at: Option<Timestamp>,
    /// Until when a token is good; its sessions end then.
    pub expires_at: Option<Timestamp>,
}

impl Principal {
    /// A user, by whatever means it was recognised.
    pub fn user(tenant: TenantId, user: User) -> Self {
        Principal {
            tenant: Some(tenant),
            key_id: None,
            scopes: Scopes::default(),
            user: Some(user),
            ticket_id: None,
            ticket_topics: None,
            issued_at: None,
            expires_at: None,
        }
    }

    /// What its sessions live by.
    pub fn credentials(&self) -> Credentials {
        Credentials {
            key_id: self.key_id.clone(),
            ticket_id: self.ticket_id.clone(),
            sub: self.user.as_ref().map(|user| user.sub.clone()),
            issued_at: self.issued_at,
            expires_at: self.expires_at,
        }
    }

    /// Its tenant, or a refusal for operators, who have none.
    pub fn tenant(&self) -> Result<&TenantId, Refusal> {
        self.tenant
            .as_ref()
            .ok_or_else(|| Refusal::forbidden("no_tenant", "an operator key is not bound to a tenant"))
    }

    /// What idempotency keys are kept apart by.
    pub fn scope_of_keys(&self) -> String {
        match (&self.user, &self.key_id) {
            (Some(user), _) => format!("user:{}", user.sub),
            (None, key_id) => format!("key:{}", key_id.as_deref().unwrap_or_default()),
        }
    }
}

/// What a session lives by: when any of it is no longer good, the session ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The API key.
    pub key_id: Option<Arc<str>>,
    /// The ticket, if one was used; a newer connection of it replaces this one.
    pub ticket_id: Option<Arc<str>>,
    /// The user, when the principal is one.
    pub sub: Option<UserSub>,
    /// As [`Principal::issued_at`].
    pub issued_at: Option<Timestamp>,
    /// As [`Principal::expires_at`].
    pub expires_at: Option<Timestamp>,
}
