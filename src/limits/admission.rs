use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::domain::{TenantId, UserSub};

/// Most connections at a time; 0: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxConnections {
    /// Of this node.
    pub node: usize,
    /// Of one tenant on this node.
    pub tenant: usize,
    /// Of one user on this node.
    pub user: usize,
    /// From one address (IPv6: one /64) to this node.
    pub address: usize,
}

/// Whom a connection is counted for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Node,
    Tenant(TenantId),
    User(TenantId, UserSub),
    Address(IpAddr),
}

impl Holder {
    fn limit(&self, max: &MaxConnections) -> (usize, &'static str) {
        match self {
            Holder::Node => (max.node, "node_connections"),
            Holder::Tenant(_) => (max.tenant, "tenant_connections"),
            Holder::User(..) => (max.user, "user_connections"),
            Holder::Address(_) => (max.address, "address_connections"),
        }
    }
}

/// Open connections by whom they count for; as large as there are connections.
#[derive(Debug, Default)]
pub struct Connections(Mutex<HashMap<Holder, usize>>);

impl Connections {
    /// Counts a connection until what is returned is dropped; the error names the limit that stands against it.
    pub fn admit(
        self: &Arc<Self>,
        max: &MaxConnections,
        tenant: &TenantId,
        user: Option<&UserSub>,
        address: Option<IpAddr>,
    ) -> Result<Admission, &'static str> {
        let user = user.map(|sub| Holder::User(tenant.clone(), sub.clone()));
        let address = address.map(Holder::Address);
        let holders = [Some(Holder::Node), Some(Holder::Tenant(tenant.clone())), user, address];
        let mut counts = self.0.lock().expect("no panic while held");
        for holder in holders.iter().flatten() {
            let (limit, name) = holder.limit(max);
            if limit > 0 && counts.get(holder).is_some_and(|count| *count >= limit) {
                return Err(name);
            }
        }
        for holder in holders.iter().flatten() {
            *counts.entry(holder.clone()).or_default() += 1;
        }
        Ok(Admission { connections: self.clone(), holders })
    }

    fn leave(&self, holders: &mut [Option<Holder>]) {
        let mut counts = self.0.lock().expect("no panic while held");
        for holder in holders.iter_mut().filter_map(Option::take) {
            if let Entry::Occupied(mut count) = counts.entry(holder) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }
}

/// A connection that is counted; dropping it makes room for another one.
#[derive(Debug)]
pub struct Admission {
    connections: Arc<Connections>,
    holders: [Option<Holder>; 4],
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.connections.leave(&mut self.holders);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: MaxConnections = MaxConnections { node: 6, tenant: 4, user: 2, address: 3 };

    type Named = (TenantId, Option<UserSub>, Option<IpAddr>);

    fn named(number: u8) -> Named {
        let tenant = TenantId::parse(&format!("t{}", number % 2)).unwrap();
        let user = (!number.is_multiple_of(3)).then(|| UserSub::parse(&format!("u{}", number % 3)).unwrap());
        (tenant, user, (!number.is_multiple_of(5)).then(|| IpAddr::from([192, 0, 2, number % 5])))
    }

    proptest! {
        #[test]
        fn connections_are_counted_as_one_would_on_paper(
            steps in prop::collection::vec((any::<bool>(), 0..60u8), 1..120),
        ) {
            let connections = Arc::new(Connections::default());
            let mut open: Vec<(u8, Admission)> = Vec::new();
            for (comes, number) in steps {
                if !comes && !open.is_empty() {
                    drop(open.swap_remove(usize::from(number) % open.len()));
                    continue;
                }
                let (tenant, user, address) = named(number);
                let of = |same: &dyn Fn(&Named) -> bool| {
                    open.iter().filter(|(other, _)| same(&named(*other))).count()
                };
                let expected = if open.len() >= MAX.node {
                    Some("node_connections")
                } else if of(&|own| own.0 == tenant) >= MAX.tenant {
                    Some("tenant_connections")
                } else if user.is_some() && of(&|own| own.0 == tenant && own.1 == user) >= MAX.user {
                    Some("user_connections")
                } else if address.is_some() && of(&|own| own.2 == address) >= MAX.address {
                    Some("address_connections")
                } else {
                    None
                };
                let admitted = connections.admit(&MAX, &tenant, user.as_ref(), address);
                prop_assert_eq!(admitted.as_ref().err().copied(), expected);
                open.extend(admitted.ok().map(|admission| (number, admission)));
            }
            drop(open);
            prop_assert!(connections.0.lock().unwrap().is_empty(), "nothing stays behind");
        }
    }
}
