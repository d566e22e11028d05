use std::sync::Arc;

use super::Scopes;
use crate::domain::{Refusal, TenantId, UserSub};

/// A user within a tenant, with the roles its credentials state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Who.
    pub sub: UserSub,
    /// `dispatcher`, `manager`, `admin`, `shipper`, …
    pub roles: Vec<String>,
}

/// Whoever a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The tenant it belongs to; none for an operator.
    pub tenant: Option<TenantId>,
    /// The API key behind it.
    pub key_id: Arc<str>,
    /// What the key is for; without effect when the principal is a user.
    pub scopes: Scopes,
    /// Set when it acts with a user's rights.
    pub user: Option<User>,
    /// Set when it came with a ticket.
    pub ticket_id: Option<Arc<str>>,
}

impl Principal {
    /// Its tenant, or a refusal for operators, who have none.
    pub fn tenant(&self) -> Result<&TenantId, Refusal> {
        self.tenant
            .as_ref()
            .ok_or_else(|| Refusal::forbidden("no_tenant", "an operator key is not bound to a tenant"))
    }

    /// What idempotency keys are kept apart by.
    pub fn scope_of_keys(&self) -> String {
        match &self.user {
            Some(user) => format!("user:{}", user.sub),
            None => format!("key:{}", self.key_id),
        }
    }
}
