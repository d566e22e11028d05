use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use serde::Serialize;
use serde_json::value::RawValue;

use super::body::shallow;
use super::events::is_key;
use super::problem::status;
use super::{Services, accounts, acks, bid_commands, fleets, orders};
use crate::bids::copies::Listener;
use crate::domain::{Refusal, RefusalKind, Selector, TenantId, Topic, TopicKind};
use crate::identity::{Principal, hash_hex, rights};
use crate::rooms::ConnectionId;
use crate::sessions::{Ack, Answer, Capabilities, Command, Grant, Hearing};
use crate::wire::parse;

/// What HTTP can do, for sessions to do it too: with the same checks, errors and effects.
pub struct SessionCapabilities(pub Services);

impl Capabilities for SessionCapabilities {
    fn grant(&self, principal: &Principal, selector: &Selector) -> Result<Grant, &'static str> {
        self.0.topics.grant(principal, selector)
    }

    fn renew(
        &self,
        principal: &Principal,
        selectors: &[Selector],
    ) -> LocalBoxFuture<'static, Result<(), Refusal>> {
        let (topics, principal, selectors) = (self.0.topics.clone(), principal.clone(), selectors.to_vec());
        Box::pin(async move { Ok(topics.renew(&principal, &selectors).await?) })
    }

    fn freshen(&self, principal: &Principal, selectors: &[Selector]) -> Option<LocalBoxFuture<'static, ()>> {
        if !self.0.topics.is_stale(principal, selectors) {
            return None;
        }
        let (topics, principal, selectors) = (self.0.topics.clone(), principal.clone(), selectors.to_vec());
        Some(Box::pin(async move { topics.freshen(&principal, &selectors).await }))
    }

    fn look_again(
        &self,
        principal: &Principal,
        selectors: &[Selector],
    ) -> Option<LocalBoxFuture<'static, ()>> {
        if self.0.topics.unseen(principal, selectors).is_empty() {
            return None;
        }
        let (topics, principal, selectors) = (self.0.topics.clone(), principal.clone(), selectors.to_vec());
        Some(Box::pin(async move { topics.look_again(&principal, &selectors).await }))
    }

    fn authenticate(&self, token: String) -> LocalBoxFuture<'static, Result<Principal, Refusal>> {
        let services = self.0.clone();
        Box::pin(async move { super::auth::of_secret(&services, &token).await })
    }

    fn publish(&self, principal: Principal, event: Box<RawValue>) -> LocalBoxFuture<'static, Answer> {
        let services = self.0.clone();
        Box::pin(async move {
            shallow(event.get().as_bytes(), services.settings.limits.json_depth)?;
            let event = parse(event.get().as_bytes())?;
            answer(&services.publisher.publish(&principal, event, None).await?)
        })
    }

    fn command(&self, principal: Principal, command: Command) -> LocalBoxFuture<'static, Answer> {
        let services = self.0.clone();
        Box::pin(async move {
            services.gate.limiter.commands(&principal, 1)?;
            let body = command.data.get().as_bytes();
            shallow(body, services.settings.limits.json_depth)?;
            let key = |path: &str| {
                let hash = hash_hex(body);
                command.idempotency_key.clone().map(|key| (key, format!("{path}:{hash}")))
            };
            if command.idempotency_key.as_ref().is_some_and(|key| !is_key(key)) {
                return Err(Refusal::invalid("idempotency_key", "must be 1-128 visible ASCII characters"));
            }
            match command.name.as_str() {
                "update_ei" => {
                    let key = key(fleets::UPDATE_EI);
                    answer(&fleets::update_one(&services, &principal, parse(body)?, key).await?)
                }
                "create_order" => {
                    let key = key(orders::CREATE);
                    answer(&orders::create_one(&services, &principal, parse(body)?, key).await?)
                }
                "set_order_status" => {
                    let (id, report) = parse::<orders::NamedReport>(body)?.split();
                    let key = key(orders::STATUS);
                    answer(&orders::report_one(&services, &principal, (&id, report), key).await?)
                }
                "create_account" => {
                    let key = key(accounts::ACCOUNTS);
                    answer(&accounts::create_one(&services, &principal, parse(body)?, key).await?)
                }
                "update_account" => {
                    let key = key(accounts::ACCOUNTS);
                    answer(&accounts::update_one(&services, &principal, parse(body)?, key).await?)
                }
                other => {
                    let bids = bid_commands::carry_out(&services, &principal, (other, body), key);
                    if let Some(answer) = bids.await {
                        return answer;
                    }
                    let detail =
                        format!("there is no command {:?}", other.chars().take(64).collect::<String>());
                    Err(Refusal::new(RefusalKind::NotFound, "unknown_command", detail))
                }
            }
        })
    }

    fn hears(&self, principal: &Principal, hearing: Hearing<'_>) -> bool {
        let Some(tenant) = &principal.tenant else { return false };
        let topics = hearing.grants.iter().filter_map(|grant| match &grant.selector {
            Selector::Topic(topic) => Some(topic),
            Selector::Prefix { .. } => None,
        });
        let rankings = topics.filter(|topic| hearing.whole_rankings && topic.kind() == TopicKind::Ranking);
        let listener = Listener {
            user: own_topic(principal, hearing.grants),
            whole: rankings.map(|topic| topic.id().into()).collect(),
            is_poll: hearing.is_poll,
        };
        let is_attended = !listener.is_empty();
        if is_attended {
            self.0.copies.listens(tenant, hearing.id, listener, hearing.is_fresh);
        }
        is_attended
    }

    fn left(&self, tenant: &TenantId, id: ConnectionId) {
        self.0.copies.left(tenant, id);
    }

    fn settle(&self, peer: IpAddr, refusal: Refusal) -> LocalBoxFuture<'static, Refusal> {
        let services = self.0.clone();
        Box::pin(async move {
            if refusal.code == rights::FORBIDDEN {
                services.metrics.auth_failed(rights::FORBIDDEN);
            }
            let settled = services.gate.settle(peer, None, status(refusal.kind)).await;
            settled.err().unwrap_or(refusal)
        })
    }

    fn ack(&self, principal: Principal, ack: Ack) -> LocalBoxFuture<'static, Answer> {
        let services = self.0.clone();
        Box::pin(async move {
            services.gate.limiter.commands(&principal, 1)?;
            answer(&acks::take(&services, &principal, ack).await?)
        })
    }
}

/// Where a user is told what concerns it, if it listens there, and the carriers that it may be or speak for.
pub(super) fn own_topic(principal: &Principal, grants: &[Grant]) -> Option<(Topic, Vec<Arc<str>>)> {
    let user = principal.user.as_ref()?;
    let topic = Topic::user(&user.sub);
    if !grants.iter().any(|grant| grant.selector.matches(&topic)) {
        return None;
    }
    let mut carriers: Vec<Arc<str>> = user.carriers.iter().map(|own| own.as_str().into()).collect();
    carriers.push(user.sub.as_str().into());
    carriers.sort_unstable();
    carriers.dedup();
    Some((topic, carriers))
}

pub(super) fn answer(value: &impl Serialize) -> Answer {
    Ok(serde_json::to_string(value).expect("answers are plain data"))
}
