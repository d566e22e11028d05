use std::sync::Arc;
use std::time::Duration;

use super::{KeyRing, Principal, User, hash_hex, new_secret};
use crate::clock::Clock;
use crate::domain::{Refusal, RefusalKind, Selector, Timestamp, UserSub};
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

/// A ticket as its issuer sees it, once.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct IssuedTicket {
    /// To be passed as `?ticket=`.
    pub ticket: String,
    /// Until when it is good for reconnections (RFC 3339); its first use must come much sooner.
    #[schema(value_type = String)]
    pub expires_at: Timestamp,
}

/// Tickets: for clients that cannot send headers, such as a browser's EventSource.
#[derive(Clone, Debug)]
pub struct Tickets {
    database: Database,
    keys: Arc<KeyRing>,
    clock: Clock,
    first_use: Duration,
    lifetime: Duration,
}

impl Tickets {
    /// `first_use`: the time until a ticket must be used; `lifetime`: how long it is good afterwards.
    pub fn new(
        database: Database,
        keys: Arc<KeyRing>,
        clock: Clock,
        first_use: Duration,
        lifetime: Duration,
    ) -> Self {
        Tickets { database, keys, clock, first_use, lifetime }
    }

    /// Issues a ticket for the principal's own rights.
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
        let now = self.clock.steady();
        let secret = new_secret("bt_");
        let row = TicketRow {
            ticket_id: uuid::Uuid::now_v7().to_string(),
            hash: hash_hex(secret.as_bytes()),
            tenant: principal.tenant()?.as_str().to_owned(),
            key_id: principal.key_id.as_deref().unwrap_or_default().to_owned(),
            sub: principal.user.as_ref().map(|user| user.sub.as_str().to_owned()),
            path: request.path,
            topics: request
                .topics
                .map(|topics| serde_json::to_string(&topics).expect("texts are plain data")),
            first_use_by_us: now.plus(self.first_use).micros(),
            first_used_us: None,
            expires_us: now.plus(self.lifetime).micros(),
        };
        let expires_at = Timestamp::from_micros(row.expires_us);
        self.database
            .run(move |db| async move {
                crate::write_tx!(db, |conn, q| {
                    q::tickets::insert(conn, &row, now.micros()).await?;
                    Ok(())
                })
            })
            .await?;
        Ok(IssuedTicket { ticket: secret, expires_at })
    }

    /// The principal behind a ticket that is good for this path and these topics, once `check` lets it pass;
    /// its first use binds it to what was not named when it was issued.
    pub async fn redeem(
        &self,
        secret: &str,
        path: &str,
        wanted: &[Selector],
        check: impl FnOnce(&Principal) -> Result<(), Refusal>,
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
        bound(&row, wanted)?;
        let principal =
            self.keys.by_id(&row.key_id).ok_or_else(|| refused("revoked", "the ticket's key is revoked"))?;
        let ticket_id: Arc<str> = row.ticket_id.as_str().into();
        // issued on behalf of a user, it carries that user's rights and not the key's
        let user = match row.sub {
            Some(sub) => {
                let sub = UserSub::parse(&sub).map_err(|error| StoreError::Unexpected(error.to_string()))?;
                Some(User::plain(sub))
            }
            None => principal.user,
        };
        let principal = Principal { ticket_id: Some(ticket_id), user, ..principal };
        check(&principal)?;
        if row.first_used_us.is_none() {
            let asked: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            let asked = serde_json::to_string(&asked).expect("texts are plain data");
            let stream = (row.path.unwrap_or_else(|| path.to_owned()), row.topics.unwrap_or(asked));
            self.mark_used(row.ticket_id, stream, now).await?;
        }
        Ok(principal)
    }

    async fn mark_used(
        &self,
        ticket_id: String,
        (path, topics): (String, String),
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.database
            .run(move |db| async move {
                crate::write_tx!(db, |conn, q| {
                    q::tickets::mark_used(conn, &ticket_id, (&path, &topics), now.micros()).await?;
                    Ok(())
                })
            })
            .await
    }
}

fn refused(code: &'static str, detail: &str) -> Refusal {
    Refusal::new(RefusalKind::Unauthenticated, code, detail)
}

fn bound(row: &TicketRow, wanted: &[Selector]) -> Result<(), Refusal> {
    let Some(topics) = &row.topics else { return Ok(()) };
    let granted: Vec<String> = serde_json::from_str(topics).unwrap_or_default();
    let granted: Vec<Selector> = granted.iter().filter_map(|topic| Selector::parse(topic).ok()).collect();
    let outside: Vec<String> =
        wanted.iter().filter(|selector| !granted.contains(selector)).map(ToString::to_string).collect();
    if outside.is_empty() {
        return Ok(());
    }
    Err(Refusal::forbidden("ticket_topics", format!("the ticket is not for {}", outside.join(", "))))
}
