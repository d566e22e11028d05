//! What this node knows of entities, in bounded memory.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex};

use super::entities::{Facts, Knowledge, entity_of};
use crate::domain::{TenantId, Topic};
use crate::wire::Event;

/// Entities that are kept in memory, at most; a few hundred bytes each. The others are looked up when they are
/// asked for.
pub const MOST_ENTITIES: usize = 100_000;

type Key = (TenantId, Topic);

/// The entities that were asked for or told of last.
#[derive(Debug)]
pub struct Entities(Mutex<Generations>);

/// Whatever is asked for is put among the young; when these are half of all there may be, the old are forgotten
/// and the young become the old ones.
#[derive(Debug)]
struct Generations {
    young: HashMap<Key, Option<Arc<Facts>>>,
    old: HashMap<Key, Option<Arc<Facts>>>,
    half: usize,
}

impl Entities {
    /// Keeps at most so many.
    pub fn new(most: usize) -> Self {
        let half = (most / 2).max(1);
        Entities(Mutex::new(Generations { young: HashMap::new(), old: HashMap::new(), half }))
    }

    /// What is known of an entity, named by its topic.
    pub fn known(&self, tenant: &TenantId, entity: &Topic) -> Knowledge {
        let found = self.with(|own| own.find(&(tenant.clone(), entity.clone())));
        match found {
            Some(Some(facts)) => Knowledge::Facts(facts),
            Some(None) => Knowledge::Absent,
            None => Knowledge::Unknown,
        }
    }

    /// The log says that an entity has come into being.
    pub fn learn(&self, tenant: &TenantId, created: &Event) {
        let Some(entity) = entity_of(created.topic()) else { return };
        let facts = Facts::read(&entity, created.parts().full.data());
        let key = (tenant.clone(), entity);
        self.with(|own| match facts {
            Some(facts) => own.put(key, Some(Arc::new(facts))),
            // it is there, and the database knows more
            None => own.forget_absent(&key),
        });
    }

    /// These were looked for, and so much of them was found. Who has come into being meanwhile is not absent.
    pub fn looked(&self, tenant: &TenantId, asked: Vec<Topic>, mut found: HashMap<Topic, Facts>) {
        self.with(|own| {
            for entity in asked {
                let facts = found.remove(&entity).map(Arc::new);
                let key = (tenant.clone(), entity);
                if facts.is_some() || own.find(&key).flatten().is_none() {
                    own.put(key, facts);
                }
            }
        });
    }

    /// These could not be looked for: those that were not there before may be by now.
    pub fn failed(&self, tenant: &TenantId, asked: Vec<Topic>) {
        self.with(|own| asked.into_iter().for_each(|entity| own.forget_absent(&(tenant.clone(), entity))));
    }

    fn with<T>(&self, work: impl FnOnce(&mut Generations) -> T) -> T {
        work(&mut self.0.lock().expect("no panic while held"))
    }
}

impl Generations {
    fn find(&mut self, key: &Key) -> Option<Option<Arc<Facts>>> {
        if let Some(found) = self.young.get(key) {
            return Some(found.clone());
        }
        let found = self.old.remove(key)?;
        self.put(key.clone(), found.clone());
        Some(found)
    }

    fn put(&mut self, key: Key, facts: Option<Arc<Facts>>) {
        self.old.remove(&key);
        self.young.insert(key, facts);
        if self.young.len() >= self.half {
            self.old = mem::take(&mut self.young);
        }
    }

    fn forget_absent(&mut self, key: &Key) {
        for own in [&mut self.young, &mut self.old] {
            if own.get(key).is_some_and(Option::is_none) {
                own.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Class, EntityId, EventName, Timestamp};
    use crate::wire::{Content, EventParts};

    fn topic(n: usize) -> Topic {
        Topic::parse(&format!("order:{n}")).unwrap()
    }

    fn facts(shipper: &str) -> Facts {
        Facts::Order { shipper: shipper.to_owned(), carrier: None }
    }

    fn found(n: usize) -> HashMap<Topic, Facts> {
        [(topic(n), facts("kim"))].into()
    }

    fn created(topic: &str, data: &str) -> Event {
        Event::new(EventParts {
            position: None,
            topic: Topic::parse(topic).unwrap(),
            name: EventName::trusted(EventName::ENTITY_CREATED),
            class: Class::Durable,
            key: None,
            version: None,
            at: Timestamp::from_micros(0),
            expires_at: None,
            full: Content::new(data),
            public: None,
        })
    }

    #[test]
    fn what_was_asked_for_last_is_kept_and_never_more_than_there_may_be() {
        let (tenant, own) = (TenantId::default_tenant(), Entities::new(10));
        for n in 0..100 {
            own.looked(&tenant, vec![topic(n)], found(n));
            // one that is asked for again and again stays
            assert!(matches!(own.known(&tenant, &topic(0)), Knowledge::Facts(_)), "{n}");
            let kept = own.with(|own| own.young.len() + own.old.len());
            assert!(kept <= 10, "{kept}");
        }
        assert!(matches!(own.known(&tenant, &topic(99)), Knowledge::Facts(_)));
        assert_eq!(own.known(&tenant, &topic(50)), Knowledge::Unknown);
        assert_eq!(own.known(&TenantId::parse("other").unwrap(), &topic(99)), Knowledge::Unknown);
    }

    #[test]
    fn who_has_come_into_being_is_never_absent_again() {
        let (tenant, own) = (TenantId::default_tenant(), Entities::new(10));
        own.looked(&tenant, vec![topic(1)], HashMap::new());
        assert_eq!(own.known(&tenant, &topic(1)), Knowledge::Absent);
        own.learn(&tenant, &created("order:1", &facts("kim").written(&EntityId::parse("1").unwrap())));
        let kim = Knowledge::Facts(Arc::new(facts("kim")));
        assert_eq!(own.known(&tenant, &topic(1)), kim);
        // a look that began before comes to its end
        own.looked(&tenant, vec![topic(1)], HashMap::new());
        own.failed(&tenant, vec![topic(1)]);
        assert_eq!(own.known(&tenant, &topic(1)), kim);
    }

    #[test]
    fn what_cannot_be_looked_for_is_not_known_to_be_absent() {
        let (tenant, own) = (TenantId::default_tenant(), Entities::new(10));
        own.looked(&tenant, vec![topic(1), topic(2)], HashMap::new());
        own.failed(&tenant, vec![topic(1)]);
        own.learn(&tenant, &created("order:2", "{}"));
        own.learn(&tenant, &created("topic:2", "{}"));
        for n in [1, 2] {
            assert_eq!(own.known(&tenant, &topic(n)), Knowledge::Unknown);
        }
    }
}
