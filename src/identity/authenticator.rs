use std::net::IpAddr;
use std::sync::Arc;

use super::compat::Compat;
use super::token::{looks_like_token, refused};
use super::{Principal, Revocations, Scope, Tokens, User};
use crate::clock::Clock;
use crate::domain::{Refusal, UserSub};

/// What the head of a request shows of its sender; the same for HTTP requests and upgrades.
#[derive(Clone, Copy, Debug, Default)]
pub struct Presented<'a> {
    /// The request's path.
    pub path: &'a str,
    /// The address that the connection comes from.
    pub peer: Option<IpAddr>,
    /// `X-API-Key`.
    pub api_key: Option<&'a str>,
    /// What follows `Bearer` in `Authorization`.
    pub bearer: Option<&'a str>,
    /// `x-tenant-id`.
    pub tenant: Option<&'a str>,
    /// `x-user-id`.
    pub user: Option<&'a str>,
}

impl Presented<'_> {
    /// Whether there is a key or a token to tell somebody by.
    pub fn has_credentials(&self) -> bool {
        self.api_key.is_some() || self.bearer.is_some()
    }

    /// Whether it says for whom it comes.
    pub fn names_somebody(&self) -> bool {
        self.tenant.is_some() || self.user.is_some()
    }

    /// Refuses a sender who says for whom it comes and may not.
    pub fn refuse_names(&self) -> Result<(), Refusal> {
        if !self.names_somebody() {
            return Ok(());
        }
        let detail = "x-tenant-id and x-user-id need a key with the scope act_as_user";
        Err(Refusal::forbidden("identity_headers", detail))
    }
}

/// Tells who sends a request, by any credential but a ticket.
#[derive(Clone, Debug)]
pub struct Authenticator {
    revocations: Arc<Revocations>,
    tokens: Tokens,
    compat: Compat,
    clock: Clock,
}

impl Authenticator {
    /// By these keys and tokens, and by what the configuration lets pass.
    pub fn new(revocations: Arc<Revocations>, tokens: Tokens, compat: Compat, clock: Clock) -> Self {
        Authenticator { revocations, tokens, compat, clock }
    }

    /// Who shows this.
    pub async fn authenticate(&self, presented: &Presented<'_>) -> Result<Principal, Refusal> {
        let principal = match (presented.api_key, presented.bearer) {
            (Some(key), _) => self.by_key(key).await?,
            (None, Some(secret)) => self.by_secret(secret).await?,
            (None, None) => {
                let recognised = self
                    .compat
                    .recognise(presented)?
                    .ok_or_else(|| refused("missing_credentials", "an API key or a token is required"))?;
                return Ok(Principal { issued_at: Some(self.clock.now()), ..recognised });
            }
        };
        on_behalf(principal, presented)
    }

    /// Whose token or key this is.
    pub async fn by_secret(&self, secret: &str) -> Result<Principal, Refusal> {
        match looks_like_token(secret) {
            true => {
                let principal = self.tokens.verify(secret).await?;
                self.revocations.check(&principal)?;
                Ok(principal)
            }
            false => self.by_key(secret).await,
        }
    }

    async fn by_key(&self, key: &str) -> Result<Principal, Refusal> {
        let found = self.revocations.keys().authenticate(key).await?;
        let principal =
            found.ok_or_else(|| refused("invalid_credentials", "the API key is unknown or revoked"))?;
        Ok(Principal { issued_at: Some(self.clock.now()), ..principal })
    }
}

/// `x-tenant-id` and `x-user-id` are believed from keys that may act for users, and refused from all others.
fn on_behalf(principal: Principal, presented: &Presented<'_>) -> Result<Principal, Refusal> {
    if !principal.scopes.has(Scope::ActAsUser) || principal.user.is_some() {
        presented.refuse_names()?;
    }
    let own = principal.tenant.as_ref().map(|own| own.as_str());
    if presented.tenant.is_some_and(|tenant| own != Some(tenant)) {
        return Err(Refusal::forbidden("wrong_tenant", "x-tenant-id is not the tenant of the key"));
    }
    let Some(sub) = presented.user else { return Ok(principal) };
    let sub = UserSub::parse(sub).map_err(|error| Refusal::malformed("x-user-id", error))?;
    Ok(Principal { user: Some(User::plain(sub)), ..principal })
}
