use crate::clock::Clock;
use crate::domain::TenantId;
use crate::identity::{NewKey, Scope, Scopes, create_key};
use crate::storage::{Database, StoreError};

/// The key of a first start: good for a first look on this machine, shown once.
#[derive(Clone, Debug)]
pub struct FirstKey {
    /// The key itself.
    pub key: String,
    /// Its id.
    pub key_id: String,
}

/// Makes it.
pub(super) async fn create(database: &Database, clock: Clock) -> Result<FirstKey, StoreError> {
    let scopes = Scopes::default().with(Scope::Publish).with(Scope::Subscribe).with(Scope::Manage);
    let new = NewKey { tenant: Some(TenantId::default_tenant()), scopes, sub: None, development: true };
    let (key, row) = create_key(database, clock, new).await?;
    Ok(FirstKey { key, key_id: row.key_id })
}
