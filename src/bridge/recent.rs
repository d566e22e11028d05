use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::runs::Run;
use super::servers::Server;
use super::store::{Answer, Request, Store};
use crate::clock::random_u64;
use crate::domain::{Class, Epoch, TenantId, Timestamp};
use crate::log::{Appended, Idempotency};

/// A former master takes appends beside its successor for less than this.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// What is kept, bytes; the oldest go first.
const MOST_BYTES: usize = 16 << 20;
/// The clocks of two servers, as far as it matters here, differ by less than this.
const SKEW: Duration = Duration::from_secs(1);

/// What this node has appended lately for those who publish, and which master took it.
///
/// While sentinels hand over, a former master still answers, and its successor's run of a log has begun: whoever was told of
/// that run does not hear what the former one takes. So it is appended again, once this node finds the successor. (Outbox rows
/// are not kept here: see [`Runs`](super::runs::Runs).)
pub(super) struct Recent(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    all: VecDeque<Taken>,
    bytes: usize,
    /// Which master took a tenant's, and how many of them there are.
    of: HashMap<TenantId, (Server, usize)>,
}

/// A request that was carried out.
struct Taken {
    tenant: TenantId,
    /// The run that took it, and when, on the clock of its server.
    epoch: Epoch,
    at: Timestamp,
    bytes: usize,
    request: Request,
}

impl Recent {
    pub fn new() -> Self {
        Recent(Mutex::default())
    }

    /// What of these the master at `server` has newly appended is kept, where masters may have successors.
    pub fn took(
        &self,
        store: &Store,
        (tenant, server): (&TenantId, Option<Server>),
        run: Run,
        requests: impl IntoIterator<Item = Request>,
        answers: &[Answer],
    ) {
        let Some(server) = server.filter(|_| store.commands.lookout.may_change()) else { return };
        let is_new = |answer: &Answer| {
            let mut outcomes = answer.iter().flatten();
            outcomes.any(|own| matches!(own, Appended::At { duplicate: false, .. }))
        };
        let new = requests.into_iter().zip(answers).filter(|(_, answer)| is_new(answer));
        self.keep(tenant, &server, run, new.map(|(request, _)| request));
    }

    /// These were carried out.
    pub fn keep(
        &self,
        tenant: &TenantId,
        server: &Server,
        run: Run,
        requests: impl IntoIterator<Item = Request>,
    ) {
        let mut own = self.own();
        for mut request in requests.into_iter().filter(is_kept) {
            // whoever appends it again, not knowing what became of it the last time, does so once
            request.idempotency.get_or_insert_with(|| Idempotency {
                principal: "carried".into(),
                key: format!("{:016x}", random_u64()),
                request_hash: String::new(),
                keep: KEPT_FOR,
            });
            let bytes = request.bytes();
            own.bytes += bytes;
            own.of.entry(tenant.clone()).or_insert_with(|| (server.clone(), 0)).1 += 1;
            own.all.push_back(Taken {
                tenant: tenant.clone(),
                epoch: run.epoch,
                at: run.now,
                bytes,
                request,
            });
        }
        while let Some(first) = own.all.front()
            && (own.bytes > MOST_BYTES || run.now.since(first.at) > KEPT_FOR)
        {
            own.drop_first();
        }
    }

    /// Whether another server than this one has taken something of a tenant's.
    pub fn is_elsewhere(&self, tenant: &TenantId, server: &Server) -> bool {
        self.own().of.get(tenant).is_some_and(|(own, _)| own != server)
    }

    /// The tenants of which something is kept that another server has taken than the one that has them now.
    pub fn elsewhere(&self, has: impl Fn(&TenantId) -> Option<Server>) -> Vec<TenantId> {
        let own = self.own();
        let moved =
            own.of.iter().filter(|(tenant, (server, _))| has(tenant).is_some_and(|now| now != *server));
        moved.map(|(tenant, _)| tenant.clone()).collect()
    }

    /// What another run than this one took of a tenant's when this one had begun.
    pub fn beside(&self, tenant: &TenantId, run: Run) -> Vec<Request> {
        let (own, since) = (self.own(), run.born.minus(SKEW));
        let is_beside =
            |taken: &&Taken| taken.tenant == *tenant && taken.epoch != run.epoch && taken.at >= since;
        own.all.iter().filter(is_beside).map(|taken| taken.request.clone()).collect()
    }

    /// The tenant's log is this run at this server: what others took is kept no longer.
    pub fn settle(&self, tenant: &TenantId, server: &Server, run: Run) {
        let mut own = self.own();
        own.all.retain(|taken| taken.tenant != *tenant || taken.epoch == run.epoch);
        own.bytes = own.all.iter().map(|taken| taken.bytes).sum();
        match own.all.iter().filter(|taken| taken.tenant == *tenant).count() {
            0 => drop(own.of.remove(tenant)),
            count => drop(own.of.insert(tenant.clone(), (server.clone(), count))),
        }
    }

    fn own(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("no panic while held")
    }
}

impl Kept {
    fn drop_first(&mut self) {
        let Some(first) = self.all.pop_front() else { return };
        self.bytes -= first.bytes;
        if let Some((_, count)) = self.of.get_mut(&first.tenant) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&first.tenant);
            }
        }
    }
}

/// Outbox rows are published again by whoever leads, and what is volatile is not worth it.
fn is_kept(request: &Request) -> bool {
    let class = request.groups.first().and_then(|group| group.first()).map(|event| event.class);
    request.outbox_id.is_none() && class.is_some_and(|class| class != Class::Volatile)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::domain::{EventName, Topic};
    use crate::log::{NewEvent, Source};

    fn request(class: Class, outbox_id: Option<i64>, bytes: usize) -> Request {
        let event = NewEvent {
            topic: Topic::parse("topic:a").unwrap(),
            name: EventName::trusted("tick"),
            class,
            key: None,
            version: None,
            ttl: None,
            dedup: None,
            data: " ".repeat(bytes).into(),
            public: None,
        };
        let source = Source { origin: None, accepted: Instant::now() };
        Request { groups: vec![vec![event]], source, idempotency: None, outbox_id, mirrored: None }
    }

    fn run(epoch: u64, born: i64, now: i64) -> Run {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        Run { epoch: Epoch::new(epoch), config: 0, born: at(born), now: at(now) }
    }

    #[test]
    fn what_a_former_master_took_beside_its_successor_is_appended_again_once() {
        let (recent, tenant) = (Recent::new(), TenantId::default_tenant());
        let server = |port| Server { host: "h".into(), port };
        for now in [100, 110, 111] {
            recent.keep(&tenant, &server(1), run(1, 0, now), [request(Class::Durable, None, 1)]);
        }
        assert!(!recent.is_elsewhere(&tenant, &server(1)) && recent.is_elsewhere(&tenant, &server(2)));
        // an append that was under way found the successor
        recent.keep(&tenant, &server(1), run(2, 110, 112), [request(Class::Durable, None, 1)]);
        let beside = recent.beside(&tenant, run(2, 110, 113));
        assert_eq!(beside.len(), 2, "not what came before, nor what it took itself");
        let keys = |all: &[Request]| -> Vec<String> {
            all.iter().map(|own| own.idempotency.as_ref().expect("a key").key.clone()).collect()
        };
        // the same again, until it is known to be there
        assert_eq!(keys(&beside), keys(&recent.beside(&tenant, run(2, 110, 114))));
        recent.settle(&tenant, &server(2), run(2, 110, 114));
        assert!(
            recent.beside(&tenant, run(2, 110, 114)).is_empty() && !recent.is_elsewhere(&tenant, &server(2))
        );
        assert!(recent.elsewhere(|_| Some(server(2))).is_empty() && recent.elsewhere(|_| None).is_empty());
        assert_eq!(recent.elsewhere(|_| Some(server(3))), [tenant], "a third one has it");
    }

    #[test]
    fn no_more_is_kept_than_is_of_use() {
        let (recent, tenant) = (Recent::new(), TenantId::default_tenant());
        let server = Server { host: "h".into(), port: 1 };
        let of_no_use = [request(Class::Volatile, None, 1), request(Class::Durable, Some(1), 1)];
        recent.keep(&tenant, &server, run(1, 0, 100), of_no_use);
        assert!(recent.own().of.is_empty());
        for now in [100, 101, 170] {
            recent.keep(&tenant, &server, run(1, 0, now), [request(Class::Durable, None, 1)]);
        }
        assert_eq!(recent.beside(&tenant, run(2, 0, 170)).len(), 1, "for a minute");
        recent.keep(
            &tenant,
            &server,
            run(1, 0, 170),
            (0..20).map(|_| request(Class::Durable, None, 1 << 20)),
        );
        let bytes: usize =
            recent.beside(&tenant, run(2, 0, 170)).iter().map(|own| own.groups[0][0].bytes()).sum();
        assert!((MOST_BYTES - (2 << 20)..=MOST_BYTES).contains(&bytes), "{bytes}");
    }
}
