use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::address::caller_of;
use super::admission::{Admission, Connections};
use super::bucket::Rate;
use super::buckets::Buckets;
use super::rules::Rules;
use super::slowdown;
use crate::clock::Clock;
use crate::domain::{Refusal, RefusalKind, TenantId, Topic};
use crate::identity::Principal;
use crate::telemetry::Metrics;

/// When to come back to a node that holds as many connections as it may: nothing tells when one will end.
const CONNECTION_RETRY: Duration = Duration::from_secs(10);

/// Whoever has a bucket of its own: a tenant's key or user, a topic, a tenant.
type Name = Box<str>;

/// All limits of a node; asked by the edges, on any thread.
#[derive(Debug)]
pub struct Limiter {
    clock: Clock,
    metrics: Arc<Metrics>,
    rules: RwLock<Arc<Rules>>,
    attempts: Buckets<IpAddr>,
    failures: Buckets<IpAddr>,
    connects: Buckets<Name>,
    commands: Buckets<Name>,
    publishes: Buckets<Name>,
    topics: Buckets<Name>,
    tenants: Buckets<Name>,
    connections: Arc<Connections>,
    delayed: Arc<AtomicUsize>,
}

impl Limiter {
    /// With `capacity` callers remembered for each kind of limit.
    pub fn new(rules: Rules, capacity: usize, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Limiter {
            clock,
            metrics,
            rules: RwLock::new(Arc::new(rules)),
            attempts: Buckets::new(capacity),
            failures: Buckets::new(capacity),
            connects: Buckets::new(capacity),
            commands: Buckets::new(capacity),
            publishes: Buckets::new(capacity),
            topics: Buckets::new(capacity),
            tenants: Buckets::new(capacity),
            connections: Arc::default(),
            delayed: Arc::default(),
        }
    }

    /// Puts other limits in force; what callers have used so far stays.
    pub fn set_rules(&self, rules: Rules) {
        *self.rules.write().expect("no panic while held") = Arc::new(rules);
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().expect("no panic while held").clone()
    }

    /// Takes the token of a connection attempt, before anything is known of the caller.
    ///
    /// To be called at each upgrade, stream start and Engine.IO open, and for any other request once its
    /// credentials turned out to be no good. A poll with a valid cursor is no attempt.
    pub fn attempt(self: &Arc<Self>, address: IpAddr) -> Result<Attempt, Refusal> {
        let rules = self.rules();
        let Some(rate) = rules.attempts.filter(|_| !rules.exempts(address)) else {
            return Ok(Attempt(None));
        };
        let caller = caller_of(address);
        self.attempts
            .take(caller, rate, 1, self.clock.uptime())
            .map_err(|after| self.refuse("attempts", "too many connection attempts", after))?;
        Ok(Attempt(Some((self.clone(), caller, rate))))
    }

    /// Takes the token of a connection that an authenticated principal opens.
    pub fn connect(&self, principal: &Principal) -> Result<(), Refusal> {
        let rules = self.rules();
        let rate = if principal.user.is_some() { rules.user_connects } else { rules.key_connects };
        self.take(&self.connects, principal_name(principal), rate, 1)
            .map_err(|after| self.refuse("connects", "too many connections opened", after))
    }

    /// Counts a connection for its node, tenant, user and address until what is returned is dropped.
    pub fn admit(&self, principal: &Principal, address: IpAddr) -> Result<Admission, Refusal> {
        let (rules, tenant) = (self.rules(), principal.tenant()?);
        let user = principal.user.as_ref().map(|user| &user.sub);
        let address = (!rules.exempts(address)).then(|| caller_of(address));
        self.connections
            .admit(&rules.connections, tenant, user, address)
            .map_err(|limit| self.refuse(limit, "too many connections", CONNECTION_RETRY))
    }

    /// Takes the tokens of `count` commands.
    pub fn commands(&self, principal: &Principal, count: usize) -> Result<(), Refusal> {
        let rules = self.rules();
        let rate = if principal.user.is_some() { rules.user_commands } else { rules.key_commands };
        self.take(&self.commands, principal_name(principal), rate, count)
            .map_err(|after| self.refuse("commands", "too many commands", after))
    }

    /// Takes the tokens of events, named by their topics: of the principal, of each topic, of the tenant's quota.
    pub fn publishes<'a>(
        &self,
        principal: &Principal,
        topics: impl ExactSizeIterator<Item = &'a Topic>,
    ) -> Result<(), Refusal> {
        let (rules, tenant, count) = (self.rules(), principal.tenant()?, topics.len());
        let rate = if principal.user.is_some() { rules.user_publishes } else { rules.key_publishes };
        self.take(&self.publishes, principal_name(principal), rate, count)
            .map_err(|after| self.refuse("publishes", "too many events published", after))?;
        for topic in topics.filter(|_| rules.topic_publishes.is_some()) {
            let name = format!("{tenant} {topic}").into();
            self.take(&self.topics, name, rules.topic_publishes, 1)
                .map_err(|after| self.refuse("topic_publishes", "too many events on this topic", after))?;
        }
        self.take(&self.tenants, tenant.as_str().into(), rules.tenant_events, count).map_err(|after| {
            self.refuse("tenant_events", "the tenant's quota of events is used up", after)
        })?;
        self.metrics.limits().published(tenant.as_str(), count as u64);
        Ok(())
    }

    /// Notes a failed or forbidden request of an address; what is returned says how long its answer waits, and
    /// holds one of the places for waiting answers meanwhile. None of them is free: refused at once.
    pub fn failed(&self, address: IpAddr) -> Result<SlowAnswer, Refusal> {
        let rules = self.rules();
        if rules.exempts(address) {
            return Ok(SlowAnswer { delay: Duration::ZERO, place: None });
        }
        let failures = self.failures.drain(caller_of(address), slowdown::memory(), self.clock.uptime());
        let delay = slowdown::delay(failures, rules.failure_delay_max);
        if delay.is_zero() {
            return Ok(SlowAnswer { delay, place: None });
        }
        if self.delayed.fetch_add(1, Ordering::Relaxed) >= rules.delayed_answers {
            self.delayed.fetch_sub(1, Ordering::Relaxed);
            return Err(self.refuse("failures", "too many failed requests", delay));
        }
        Ok(SlowAnswer { delay, place: Some(Place(self.delayed.clone())) })
    }

    /// Tells the metrics what is held.
    pub fn report(&self, metrics: &Metrics) {
        let names = [&self.connects, &self.commands, &self.publishes, &self.topics, &self.tenants];
        let buckets =
            self.attempts.count() + self.failures.count() + names.map(Buckets::count).iter().sum::<usize>();
        metrics.limits().held(buckets, self.delayed.load(Ordering::Relaxed));
    }

    fn take(
        &self,
        of: &Buckets<Name>,
        name: Name,
        rate: Option<Rate>,
        tokens: usize,
    ) -> Result<(), Duration> {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        rate.map_or(Ok(()), |rate| of.take(name, rate, tokens, self.clock.uptime()))
    }

    fn refuse(&self, reason: &'static str, detail: &str, after: Duration) -> Refusal {
        self.metrics.limits().refused(reason);
        Refusal::new(RefusalKind::RateLimited, "rate_limited", detail)
            .with_field("limit", reason)
            .retry_after(after)
    }
}

fn principal_name(principal: &Principal) -> Name {
    let tenant = principal.tenant.as_ref().map_or("", TenantId::as_str);
    format!("{tenant} {}", principal.scope_of_keys()).into()
}

/// A connection attempt that has been counted; dropped, it stays so.
#[derive(Debug)]
#[must_use]
pub struct Attempt(Option<(Arc<Limiter>, IpAddr, Rate)>);

impl Attempt {
    /// The connection has authenticated: it does not count any more.
    pub fn give_back(self) {
        if let Some((limiter, caller, rate)) = self.0 {
            limiter.attempts.give_back(&caller, rate);
        }
    }
}

/// How long an answer waits, and its place among those that do.
#[derive(Debug)]
#[must_use]
pub struct SlowAnswer {
    /// To be waited while this is held.
    pub delay: Duration,
    #[expect(dead_code, reason = "held for its end")]
    place: Option<Place>,
}

#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::UserSub;
    use crate::identity::User;
    use crate::settings::Settings;

    fn limiter(change: impl FnOnce(&mut crate::settings::Limits)) -> Arc<Limiter> {
        let mut settings = Settings::defaults();
        change(&mut settings.limits);
        let metrics = Arc::new(Metrics::default());
        Arc::new(Limiter::new(Rules::of(&settings), 1000, Clock::system(), metrics))
    }

    fn principal(sub: Option<&str>) -> Principal {
        let user = User::plain(UserSub::parse(sub.unwrap_or("u")).unwrap());
        let principal = Principal::user(TenantId::default_tenant(), user.clone());
        Principal { key_id: Some("k".into()), user: sub.map(|_| user), ..principal }
    }

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn attempts_are_limited_unless_they_authenticate() {
        let limiter = limiter(|own| own.attempts_per_min = 5);
        for _ in 0..50 {
            limiter.attempt(ADDRESS).unwrap().give_back();
        }
        let failed: Vec<bool> = (0..6).map(|_| limiter.attempt(ADDRESS).is_ok()).collect();
        assert_eq!(failed, [true, true, true, true, true, false]);
        let refusal = limiter.attempt(ADDRESS).unwrap_err();
        let after = refusal.retry_after.expect("computed");
        assert!(after > Duration::from_secs(11) && after <= Duration::from_secs(12), "{after:?}");
        assert!(limiter.attempt("192.0.2.2".parse().unwrap()).is_ok(), "others are not hurt");
    }

    #[test]
    fn an_exempt_network_has_no_limits_per_address() {
        let limiter = limiter(|own| {
            own.attempts_per_min = 1;
            own.connections_per_address = 1;
            own.exempt = vec!["192.0.2.0/24".into(), "2001:db8::7".into()];
        });
        let mut held = Vec::new();
        for address in [ADDRESS, "2001:db8::7".parse().unwrap()] {
            for _ in 0..5 {
                drop(limiter.attempt(address).unwrap());
                held.push(limiter.admit(&principal(None), address).unwrap());
            }
            assert!((0..100).all(|_| limiter.failed(address).unwrap().delay.is_zero()));
        }
        let neighbour = "2001:db8::8".parse().unwrap();
        held.push(limiter.admit(&principal(None), neighbour).unwrap());
        assert!(limiter.admit(&principal(None), neighbour).is_err());
    }

    #[test]
    fn a_batch_larger_than_the_burst_passes_when_nothing_else_was_published() {
        let limiter = limiter(|own| (own.user_publishes_per_s, own.user_publishes_burst) = (10, 20));
        let topics = vec![Topic::parse("topic:a").unwrap(); 100];
        let user = principal(Some("ann"));
        limiter.publishes(&user, topics.iter()).unwrap();
        let refusal = limiter.publishes(&user, topics[..1].iter()).unwrap_err();
        assert!(refusal.retry_after.unwrap() > Duration::from_secs(7), "{refusal:?}");
        limiter.publishes(&principal(Some("bob")), topics[..1].iter()).unwrap();
    }

    #[test]
    fn delayed_answers_are_bounded_in_number() {
        let limiter = limiter(|own| own.delayed_answers = 3);
        let held: Vec<SlowAnswer> = (0..23).map(|_| limiter.failed(ADDRESS).unwrap()).collect();
        assert!(limiter.failed(ADDRESS).is_err());
        drop(held);
        assert!(!limiter.failed(ADDRESS).unwrap().delay.is_zero());
    }
}
