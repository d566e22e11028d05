//! Who may hear a declared topic, and from where on; kept in memory, answered without waiting.

use std::collections::HashMap;

use crate::domain::{Position, TenantId, UserSub};

/// How a user stands to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The topic is for everybody.
    Open,
    /// The user is a member.
    Member {
        /// The head of the log when it became one: what came before is not for it.
        since: Position,
    },
    /// The topic has members, and the user is none.
    Outside,
}

/// Declared topics with their members, of every tenant.
#[derive(Debug, Default)]
pub struct Membership(HashMap<TenantId, HashMap<Box<str>, Declared>>);

#[derive(Debug, Default)]
struct Declared {
    membership: bool,
    members: HashMap<UserSub, Position>,
}

impl Membership {
    /// A topic is for its members, or for everybody; its members stay known meanwhile.
    pub fn declare(&mut self, tenant: &TenantId, name: &str, membership: bool) {
        self.topic(tenant, name).membership = membership;
    }

    /// A user is a member from `since` on, or no longer one.
    pub fn set_member(&mut self, tenant: &TenantId, name: &str, sub: &UserSub, since: Option<Position>) {
        let members = &mut self.topic(tenant, name).members;
        match since {
            Some(since) => drop(members.insert(sub.clone(), since)),
            None => drop(members.remove(sub)),
        }
    }

    /// How a user stands to a topic of its tenant.
    pub fn standing(&self, tenant: &TenantId, name: &str, sub: &UserSub) -> Standing {
        let declared = self.0.get(tenant).and_then(|topics| topics.get(name));
        match declared.filter(|declared| declared.membership) {
            None => Standing::Open,
            Some(declared) => match declared.members.get(sub) {
                Some(since) => Standing::Member { since: *since },
                None => Standing::Outside,
            },
        }
    }

    fn topic(&mut self, tenant: &TenantId, name: &str) -> &mut Declared {
        self.0.entry(tenant.clone()).or_default().entry(name.into()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Epoch;
    use proptest::prelude::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    fn sub(name: &str) -> UserSub {
        UserSub::parse(name).unwrap()
    }

    fn at(seq: u64) -> Position {
        Position { epoch: Epoch::new(1), seq }
    }

    #[test]
    fn members_hear_from_their_grant_on_and_others_nothing() {
        let mut index = Membership::default();
        let standing = |index: &Membership, name, user| index.standing(&tenant("acme"), name, &sub(user));
        assert_eq!(standing(&index, "crew", "kim"), Standing::Open, "never declared");
        index.declare(&tenant("acme"), "crew", true);
        assert_eq!(standing(&index, "crew", "kim"), Standing::Outside);
        index.set_member(&tenant("acme"), "crew", &sub("kim"), Some(at(7)));
        assert_eq!(standing(&index, "crew", "kim"), Standing::Member { since: at(7) });
        assert_eq!(standing(&index, "crew", "lee"), Standing::Outside);
        assert_eq!(standing(&index, "crews", "lee"), Standing::Open, "another topic");
        assert_eq!(index.standing(&tenant("other"), "crew", &sub("kim")), Standing::Open, "another tenant");
        index.declare(&tenant("acme"), "crew", false);
        assert_eq!(standing(&index, "crew", "lee"), Standing::Open);
        index.declare(&tenant("acme"), "crew", true);
        assert_eq!(standing(&index, "crew", "kim"), Standing::Member { since: at(7) }, "members stay known");
        index.set_member(&tenant("acme"), "crew", &sub("kim"), None);
        assert_eq!(standing(&index, "crew", "kim"), Standing::Outside);
    }

    proptest! {
        /// The last thing said about a topic and about a member counts, whatever was said of others.
        #[test]
        fn the_last_word_counts(
            said in prop::collection::vec((0usize..2, 0usize..2, 0usize..3, any::<bool>(), prop::option::of(0u64..9)), 0..60),
        ) {
            let (tenants, names, users) = (["t0", "t1"], ["a", "b"], ["u0", "u1", "u2"]);
            let mut index = Membership::default();
            for (t, n, u, is_topic, since) in &said {
                match is_topic {
                    true => index.declare(&tenant(tenants[*t]), names[*n], since.is_some()),
                    false => index.set_member(&tenant(tenants[*t]), names[*n], &sub(users[*u]), since.map(at)),
                }
            }
            for (t, n, u) in (0..2).flat_map(|t| (0..2).flat_map(move |n| (0..3).map(move |u| (t, n, u)))) {
                let of_topic = said.iter().rev().find(|own| (own.0, own.1, own.3) == (t, n, true));
                let of_user = said.iter().rev().find(|own| (own.0, own.1, own.2, own.3) == (t, n, u, false));
                let expected = match (of_topic.is_some_and(|own| own.4.is_some()), of_user.and_then(|own| own.4)) {
                    (false, _) => Standing::Open,
                    (true, Some(since)) => Standing::Member { since: at(since) },
                    (true, None) => Standing::Outside,
                };
                prop_assert_eq!(index.standing(&tenant(tenants[t]), names[n], &sub(users[u])), expected);
            }
        }
    }
}
