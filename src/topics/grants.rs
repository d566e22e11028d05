//! What a principal gets of the topics it asks for, each judged by itself.

use super::{Membership, Standing};
use crate::domain::{Position, Selector, Topic, TopicKind};
use crate::identity::{Principal, rights};
use crate::sessions::Grant;

/// A topic or prefix that a principal may not hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was asked for.
    pub selector: Selector,
    /// Why not, as a stable word: `forbidden` by the table of rights, `not_a_member` of a declared topic.
    pub code: &'static str,
}

/// Judges each of `selectors` by the table of rights, and declared topics by their members too: users need
/// membership, whatever their roles; services do not.
pub fn judge(
    principal: &Principal,
    selectors: impl IntoIterator<Item = Selector>,
    membership: &Membership,
) -> Vec<Result<Grant, Refused>> {
    let judge = |selector: Selector| {
        let Some(audience) = rights::subscription(principal, &selector) else {
            return Err(Refused { selector, code: "forbidden" });
        };
        match since(principal, &selector, membership) {
            Ok(since) => Ok(Grant { selector, audience, since }),
            Err(code) => Err(Refused { selector, code }),
        }
    };
    selectors.into_iter().map(judge).collect()
}

/// From where on a principal may hear what the table of rights gives it; None: from anywhere.
fn since(
    principal: &Principal,
    selector: &Selector,
    membership: &Membership,
) -> Result<Option<Position>, &'static str> {
    let (Some(tenant), Some(user), Selector::Topic(topic)) = (&principal.tenant, &principal.user, selector)
    else {
        return Ok(None);
    };
    // who is present in a room is for those who may hear the room
    let room = match topic.kind() {
        TopicKind::Presence => Topic::parse(topic.id()).ok(),
        _ => Some(topic.clone()),
    };
    let Some(named) = room.filter(|room| room.kind() == TopicKind::Named) else {
        return Ok(None);
    };
    match membership.standing(tenant, named.id(), &user.sub) {
        Standing::Open => Ok(None),
        Standing::Member { since } => Ok(Some(since)),
        Standing::Outside => Err("not_a_member"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Epoch, TenantId, UserSub};
    use crate::identity::{Scopes, User};
    use crate::wire::Audience;

    fn index() -> Membership {
        let (tenant, mut index) = (TenantId::default_tenant(), Membership::default());
        index.declare(&tenant, "crew", true);
        index.declare(&tenant, "open", false);
        let since = Position { epoch: Epoch::new(1), seq: 7 };
        index.set_member(&tenant, "crew", &UserSub::parse("kim").unwrap(), Some(since));
        index
    }

    fn judged(principal: &Principal, text: &str) -> Result<Option<u64>, &'static str> {
        let selector = Selector::parse(text).unwrap();
        let [own] = judge(principal, [selector.clone()], &index()).try_into().unwrap();
        match own {
            Ok(grant) => {
                assert_eq!((grant.selector, grant.audience), (selector, Audience::Full));
                Ok(grant.since.map(|since| since.seq))
            }
            Err(refused) => {
                assert_eq!(refused.selector, selector);
                Err(refused.code)
            }
        }
    }

    #[test]
    fn users_need_membership_of_declared_topics_and_roles_do_not_help() {
        let user = |name: &str, roles: &[&str]| {
            let roles = roles.iter().map(|role| (*role).to_owned()).collect();
            let user = User { roles, ..User::plain(UserSub::parse(name).unwrap()) };
            Principal::user(TenantId::default_tenant(), user)
        };
        for roles in [&[][..], &["manager", "admin", "dispatcher"]] {
            for topic in ["topic:crew", "presence:topic:crew"] {
                assert_eq!(judged(&user("kim", roles), topic), Ok(Some(7)), "{topic}");
                assert_eq!(judged(&user("lee", roles), topic), Err("not_a_member"), "{topic}");
            }
            for topic in ["topic:open", "topic:other", "fleet:crew", "presence:fleet:crew", "tenant"] {
                assert_eq!(judged(&user("lee", roles), topic), Ok(None), "{topic}");
            }
        }
        assert_eq!(judged(&user("kim", &[]), "topic:*"), Err("forbidden"));
        assert_eq!(judged(&user("kim", &[]), "admin"), Err("forbidden"));
    }

    #[test]
    fn services_hear_declared_topics_by_their_scopes_alone() {
        let service = |scopes: &str| Principal {
            scopes: Scopes::parse(scopes).unwrap(),
            user: None,
            ..Principal::user(TenantId::default_tenant(), User::plain(UserSub::parse("x").unwrap()))
        };
        assert_eq!(judged(&service("subscribe"), "topic:crew"), Ok(None));
        assert_eq!(judged(&service("admin"), "topic:*"), Ok(None));
        assert_eq!(judged(&service("publish,manage"), "topic:crew"), Err("forbidden"));
    }
}
