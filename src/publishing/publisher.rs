use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{Publish, PublishLimits, prepare};
use crate::domain::{Position, Refusal, RefusalKind};
use crate::identity::Principal;
use crate::limits::Limiter;
use crate::log::{AppendRequest, Appended, EventLog, Idempotency, NewEvent};

/// The answer to a publish.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Published {
    /// The position of its last entry; null for volatile events.
    #[schema(value_type = Option<String>)]
    pub id: Option<Position>,
    /// The same.
    #[schema(value_type = Option<String>)]
    pub position: Option<Position>,
    /// Whether every entry had been published before.
    pub duplicate: bool,
}

/// Publishes for principals.
#[derive(Clone)]
pub struct Publisher {
    log: EventLog,
    limiter: Arc<Limiter>,
    limits: PublishLimits,
    keep_answers: Duration,
}

impl Publisher {
    /// `keep_answers`: how long the answer to an `Idempotency-Key` is repeated.
    pub fn new(log: EventLog, limiter: Arc<Limiter>, limits: PublishLimits, keep_answers: Duration) -> Self {
        Publisher { log, limiter, limits, keep_answers }
    }

    /// Publishes one event; `key` is its `Idempotency-Key` with the hash of the request.
    pub async fn publish(
        &self,
        principal: &Principal,
        publish: Publish,
        key: Option<(String, String)>,
    ) -> Result<Published, Refusal> {
        let group = prepare(publish, principal, &self.limits)?;
        self.limiter.publishes(principal, group.iter().map(|event| &event.topic))?;
        let outcome = self.append(principal, vec![group], key).await?;
        outcome.into_iter().next().unwrap_or_else(|| Err(lost()))
    }

    /// Publishes several; each is answered by itself.
    pub async fn publish_all(
        &self,
        principal: &Principal,
        events: impl IntoIterator<Item = Result<Publish, Refusal>>,
        key: Option<(String, String)>,
    ) -> Result<Vec<Result<Published, Refusal>>, Refusal> {
        let prepared: Vec<Result<Vec<NewEvent>, Refusal>> =
            events.into_iter().map(|event| prepare(event?, principal, &self.limits)).collect();
        let groups = prepared.iter().flatten().cloned().collect();
        let topics: Vec<_> = prepared.iter().flatten().flatten().map(|event| &event.topic).collect();
        self.limiter.publishes(principal, topics.into_iter())?;
        let mut outcomes = self.append(principal, groups, key).await?.into_iter();
        let answer = |item: Result<_, _>| item.and_then(|_| outcomes.next().unwrap_or_else(|| Err(lost())));
        Ok(prepared.into_iter().map(answer).collect())
    }

    /// Appends what is logged and sends what is volatile; one outcome per group.
    async fn append(
        &self,
        principal: &Principal,
        groups: Vec<Vec<NewEvent>>,
        key: Option<(String, String)>,
    ) -> Result<Vec<Result<Published, Refusal>>, Refusal> {
        let tenant = principal.tenant()?;
        let idempotency = key.map(|(key, request_hash)| Idempotency {
            principal: principal.scope_of_keys(),
            key,
            request_hash,
            keep: self.keep_answers,
        });
        // what is compared with what was there before passes the log; other volatile events need not wait for it
        let is_free =
            |event: &NewEvent| event.is_volatile() && event.dedup.is_none() && event.version.is_none();
        let is_volatile = |group: &Vec<NewEvent>| idempotency.is_none() && group.iter().all(is_free);
        let kinds: Vec<bool> = groups.iter().map(is_volatile).collect();
        let (volatile, logged): (Vec<_>, Vec<_>) = groups.into_iter().partition(is_volatile);
        let (mut epoch, mut appended) = (None, Vec::new());
        if !logged.is_empty() || idempotency.is_some() {
            let request = AppendRequest { tenant: tenant.clone(), groups: logged, idempotency };
            let (run, outcomes) = self.log.append(request).await?;
            (epoch, appended) = (Some(run), outcomes);
        }
        for event in volatile.into_iter().flatten() {
            self.log.publish_volatile(tenant, event).await?;
        }
        let mut appended = appended.into_iter();
        let outcome = |is_volatile: bool| match is_volatile {
            true => Ok(Published { id: None, position: None, duplicate: false }),
            false => match appended.next() {
                Some(Appended::At { seq, duplicate }) => {
                    let position = epoch.filter(|_| seq > 0).map(|epoch| Position { epoch, seq });
                    Ok(Published { id: position, position, duplicate })
                }
                Some(Appended::Stale { stored }) => {
                    let detail = format!("the version is not greater than the stored one, {stored}");
                    let refusal = Refusal::new(RefusalKind::Conflict, "stale", detail);
                    Err(refusal.with_field("version", format!("must be greater than {stored}")))
                }
                None => Err(lost()),
            },
        };
        let outcomes: Vec<_> = kinds.into_iter().map(outcome).collect();
        for Published { id, duplicate, .. } in outcomes.iter().flatten() {
            tracing::debug!(event_id = id.map(tracing::field::display), duplicate, "published");
        }
        Ok(outcomes)
    }
}

fn lost() -> Refusal {
    Refusal::new(RefusalKind::Internal, "internal", "an internal error")
}
