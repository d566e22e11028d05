use std::sync::Arc;
use std::time::Duration;

use super::token::refused;
use super::{Principal, Revocations, User, hash_hex, new_secret};
use crate::clock::Clock;
use crate::domain::{Refusal, RefusalKind, Selector, TenantId, Timestamp, UserSub};
use crate::storage::{Database, StoreError, TicketRow};

/// What a ticket is to be good for; nothing named means all that its issuer may.
#[derive(Clone, Debug, Default, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TicketRequest {
    /// The one path it may be used on.
    #[serde(default)]
    pub path: Option<String>,
    /// The topics it may be used for.
    #[serde(default)]
    pub topics: Option<Vec<String>>,
}

/// What tickets begin with, and no other credential does.
const PREFIX: &str = "bt_";

/// Whether a credential is a ticket, good or not.
pub fn is_ticket(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// A ticket as its issuer sees it, once.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct IssuedTicket {
    /// To be passed as `?ticket=`, or as `token` in a WebSocket's first `auth`.
    pub ticket: String,
    /// Names the ticket, for revoking it.
    pub ticket_id: String,
    /// Until when it is good for reconnections (RFC 3339); its first use must come much sooner.
    #[schema(value_type = String)]
    pub expires_at: Timestamp,
}

/// Tickets: for clients that cannot send headers, such as a browser's EventSource.
#[derive(Clone, Debug)]
pub struct Tickets {
    database: Database,
    revocations: Arc<Revocations>,
    clock: Clock,
    first_use: Duration,
    lifetime: Duration,
}

impl Tickets {
    /// `first_use`: the time until a ticket must be used; `lifetime`: how long it is good afterwards, unless
    /// its issuer's token runs out before.
    pub fn new(
        database: Database,
        revocations: Arc<Revocations>,
        clock: Clock,
        first_use: Duration,
        lifetime: Duration,
    ) -> Self {
        Tickets { database, revocations, clock, first_use, lifetime }
    }

    /// Issues a ticket for the principal's own rights as they are now.
    pub async fn issue(
        &self,
        principal: &Principal,
        request: TicketRequest,
    ) -> Result<IssuedTicket, Refusal> {
        if principal.ticket_id.is_some() {
            return Err(Refusal::forbidden("ticket_from_ticket", "a ticket cannot issue tickets"));
        }
        if request.path.as_ref().is_some_and(|path| !path.starts_with('/') || path.len() > 200) {
            return Err(Refusal::invalid("path", "must be an absolute path"));
        }
        for topic in request.topics.iter().flatten() {
            Selector::parse(topic)
                .map_err(|error| Refusal::invalid("topics", format!("{topic:?}: {error}")))?;
        }
        // kept on the steady clock: a jump of the machine's lets no ticket expire
        let now = self.clock.steady();
        let lifetime = match principal.expires_at {
            Some(expires_at) => expires_at.since(self.clock.now()),
            None => self.lifetime,
        };
        let secret = new_secret(PREFIX);
        let user = principal.user.as_ref();
        let row = TicketRow {
            ticket_id: uuid::Uuid::now_v7().to_string(),
            hash: hash_hex(secret.as_bytes()),
            tenant: principal.tenant()?.as_str().to_owned(),
            key_id: principal.key_id.as_deref().map(str::to_owned),
            sub: user.map(|user| user.sub.as_str().to_owned()),
            path: request.path,
            topics: request.topics.map(|topics| texts(&topics)),
            first_use_by_us: now.plus(self.first_use).micros(),
            first_used_us: None,
            expires_us: now.plus(lifetime).micros(),
            roles: texts(user.map_or(&[], |user| &user.roles)),
            carriers: texts(user.map_or(&[], |user| &user.carriers)),
            // a token without `iat` counts as issued before any kick, and so does its ticket
            issued_us: principal.issued_at.map_or(0, Timestamp::micros),
            revoked_generation: None,
        };
        let (ticket_id, expires_at) = (row.ticket_id.clone(), Timestamp::from_micros(row.expires_us));
        self.database
            .run(move |db| async move {
                crate::write_tx!(db, |conn, q| {
                    q::tickets::insert(conn, &row, now.micros()).await?;
                    Ok(())
                })
            })
            .await?;
        Ok(IssuedTicket { ticket: secret, ticket_id, expires_at })
    }

    /// The principal behind a ticket that is good for this path and these topics, once `check` lets it pass;
    /// its first use binds it to what was not named when it was issued. Without topics they are left open: those
    /// of the ticket are for the subscriptions to come.
    pub async fn redeem(
        &self,
        secret: &str,
        path: &str,
        wanted: Option<&[Selector]>,
        check: impl AsyncFnOnce(&Principal) -> Result<(), Refusal>,
    ) -> Result<Principal, Refusal> {
        let (hash, now) = (hash_hex(secret.as_bytes()), self.clock.steady());
        let found = self
            .database
            .run(
                move |db| async move { crate::read!(db, |conn, q| Ok(q::tickets::find(conn, &hash).await?)) },
            )
            .await?;
        let row = found.ok_or_else(|| refused("invalid_ticket", "no such ticket"))?;
        let in_time = row.first_used_us.is_some() || now.micros() <= row.first_use_by_us;
        if !in_time || now.micros() >= row.expires_us {
            return Err(refused("expired_ticket", "the ticket has expired"));
        }
        if row.path.as_ref().is_some_and(|own| own != path) {
            return Err(Refusal::forbidden("ticket_path", "the ticket is for another path"));
        }
        let ticket_topics = topics(&row)?;
        bound(ticket_topics.as_deref(), wanted.unwrap_or_default())?;
        let principal = Principal { ticket_topics, ..self.principal(&row, now)? };
        check(&principal).await?;
        if row.first_used_us.is_none() {
            let asked = wanted.map(|wanted| wanted.iter().map(ToString::to_string).collect::<Vec<_>>());
            let path = row.path.unwrap_or_else(|| path.to_owned());
            let stream = (path, row.topics.or_else(|| Some(texts(&asked?))));
            self.mark_used(row.ticket_id, stream, now).await?;
        }
        Ok(principal)
    }

    /// Revokes a ticket by its id: for whom it was issued for, and for administrators of the tenant.
    pub async fn revoke(
        &self,
        principal: &Principal,
        ticket_id: &str,
        is_administrator: bool,
    ) -> Result<(), Refusal> {
        let (tenant, ticket_id) = (principal.tenant()?.as_str().to_owned(), ticket_id.to_owned());
        let (key_id, sub) = (principal.key_id.clone(), principal.user.as_ref().map(|user| user.sub.clone()));
        let may = move |row: &TicketRow| {
            is_administrator
                || row.key_id.as_deref() == key_id.as_deref()
                    && row.sub.as_deref() == sub.as_ref().map(UserSub::as_str)
        };
        let revoked = self.database.run(move |db| async move {
            crate::write_tx!(db, |conn, q| Ok(q::tickets::revoke(conn, &tenant, &ticket_id, may).await?))
        });
        let revoked = revoked.await?;
        self.revocations.refresh().await?;
        revoked.ok_or_else(|| {
            Refusal::new(RefusalKind::NotFound, "no_such_ticket", "there is no such ticket of yours")
        })
    }

    /// Whoever a ticket was issued for, with the rights of that moment, unless its key or itself was revoked
    /// or the user kicked.
    fn principal(&self, row: &TicketRow, now: Timestamp) -> Result<Principal, Refusal> {
        if row.revoked_generation.is_some() {
            return Err(refused("revoked", "the ticket was revoked"));
        }
        let damaged = |error: &dyn std::fmt::Display| StoreError::Unexpected(error.to_string());
        // issued on behalf of a user, it carries that user's rights and not the key's
        let user = row.sub.as_deref().map(|sub| -> Result<User, StoreError> {
            Ok(User {
                sub: UserSub::parse(sub).map_err(|error| damaged(&error))?,
                roles: serde_json::from_str(&row.roles).map_err(|error| damaged(&error))?,
                carriers: serde_json::from_str(&row.carriers).map_err(|error| damaged(&error))?,
            })
        });
        let user = user.transpose()?;
        let base = match (&row.key_id, user) {
            (Some(key_id), user) => {
                let key = self.revocations.keys().by_id(key_id);
                let key = key.ok_or_else(|| refused("revoked", "the ticket's key is revoked"))?;
                Principal { user, ..key }
            }
            (None, Some(user)) => {
                let tenant = TenantId::parse(&row.tenant).map_err(|error| damaged(&error))?;
                let left = Timestamp::from_micros(row.expires_us).since(now);
                let expires_at = Some(self.clock.now().plus(left));
                Principal { expires_at, ..Principal::user(tenant, user) }
            }
            (None, None) => return Err(damaged(&"a ticket of nobody").into()),
        };
        let principal = Principal {
            ticket_id: Some(row.ticket_id.as_str().into()),
            issued_at: Some(Timestamp::from_micros(row.issued_us)),
            ..base
        };
        self.revocations.check(&principal)?;
        Ok(principal)
    }

    async fn mark_used(
        &self,
        ticket_id: String,
        (path, topics): (String, Option<String>),
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.database
            .run(move |db| async move {
                crate::write_tx!(db, |conn, q| {
                    q::tickets::mark_used(conn, &ticket_id, (&path, topics.as_deref()), now.micros()).await?;
                    Ok(())
                })
            })
            .await
    }
}

fn texts(items: &[String]) -> String {
    serde_json::to_string(items).expect("texts are plain data")
}

/// What a ticket was issued for, or bound to by its first use.
fn topics(row: &TicketRow) -> Result<Option<Arc<[Selector]>>, StoreError> {
    let Some(topics) = &row.topics else { return Ok(None) };
    let topics: Vec<String> =
        serde_json::from_str(topics).map_err(|error| StoreError::Unexpected(error.to_string()))?;
    Ok(Some(topics.iter().filter_map(|topic| Selector::parse(topic).ok()).collect()))
}

fn bound(own: Option<&[Selector]>, wanted: &[Selector]) -> Result<(), Refusal> {
    let Some(own) = own else { return Ok(()) };
    let outside: Vec<String> =
        wanted.iter().filter(|selector| !own.contains(selector)).map(ToString::to_string).collect();
    if outside.is_empty() {
        return Ok(());
    }
    Err(Refusal::forbidden("ticket_topics", format!("the ticket is not for {}", outside.join(", "))))
}
