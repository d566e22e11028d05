//! What a principal gets of a topic it asks for.

use super::entities::{Knowledge, audience};
use super::{Membership, Standing};
use crate::domain::{Position, Selector, Topic, TopicKind};
use crate::identity::Principal;
use crate::sessions::Grant;

/// Judges a topic or prefix by the table of rights and what is known of its entity, and declared topics by their
/// members too: users need membership, whatever their roles; services do not. The error is the refusal's code:
/// `forbidden`, `not_a_member` of a declared topic, `ticket_topics`: the ticket is for others, or `unavailable`:
/// whether it is for this user could not be looked up.
pub fn judge(
    principal: &Principal,
    selector: &Selector,
    membership: &Membership,
    known: impl FnOnce(&Topic) -> Knowledge,
) -> Result<Grant, &'static str> {
    if principal.ticket_topics.as_ref().is_some_and(|own| !own.contains(selector)) {
        return Err("ticket_topics");
    }
    let audience = audience(principal, selector, known)?;
    let since = since(principal, selector, membership)?;
    Ok(Grant { selector: selector.clone(), audience, since })
}

/// From where on a principal may hear what the table of rights gives it; None: from anywhere.
fn since(
    principal: &Principal,
    selector: &Selector,
    membership: &Membership,
) -> Result<Option<Position>, &'static str> {
    // who is present in a room is for those who may hear the room
    let named = selector.room().filter(|room| room.kind() == TopicKind::Named);
    let (Some(tenant), Some(user), Some(named)) = (&principal.tenant, &principal.user, named) else {
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
        let grant = judge(principal, &selector, &index(), |_| Knowledge::Unknown)?;
        assert_eq!((grant.selector, grant.audience), (selector, Audience::Full));
        Ok(grant.since.map(|since| since.seq))
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
