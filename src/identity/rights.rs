//! The table of rights: who may subscribe to what and who may do what, always within one tenant.
//!
//! It is data ([`TOPICS`], [`COMMANDS`]), it is what the code consults, and a test walks all of it.

use super::{Principal, Scope, User};
use crate::domain::{Refusal, Selector, Topic, TopicKind};
use crate::wire::Audience;

/// Which users a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// Everybody of the tenant.
    Everybody,
    /// Those with any of these roles.
    Roles(&'static [&'static str]),
    /// Those who stand in this relation to the entity, and those with any of these roles.
    Related(Relation, &'static [&'static str]),
    /// The user that the topic names.
    Oneself,
    /// Nobody.
    Nobody,
}

/// How a user can stand to an entity; it is the entity that tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Its creator.
    Owner,
    /// The shipper or the carrier of an order.
    Party,
    /// The carrier, by `sub` or by the claim `carriers`.
    Carrier,
    /// An employee whose shift it is about.
    Concerned,
}

/// Who may subscribe to topics of one kind.
#[derive(Clone, Copy, Debug)]
pub struct TopicRow {
    /// The kind.
    pub kind: TopicKind,
    /// Services with any of these scopes.
    pub services: &'static [Scope],
    /// Users.
    pub users: Users,
    /// Services with any of these scopes, and users with any of these roles, see the full variant; others the public one.
    pub full: Option<(&'static [Scope], &'static [&'static str])>,
}

const LISTENERS: &[Scope] = &[Scope::Subscribe];
const MANAGERS: &[Scope] = &[Scope::Manage];
const STAFF: &[&str] = &["manager", "admin"];
const DISPATCH: &[&str] = &["dispatcher", "manager", "admin"];

/// Whoever may run any bid sees all of it.
const RUNNERS: Option<(&[Scope], &[&str])> = Some((&[Scope::Manage, Scope::Admin], STAFF));

const fn row(kind: TopicKind, services: &'static [Scope], users: Users) -> TopicRow {
    TopicRow { kind, services, users, full: None }
}

/// Topics by kind. Entities that exist narrow or widen some of these further (a sealed bid, an order's
/// parties). A `presence:` topic is judged by the topic that its room is named after.
pub const TOPICS: &[TopicRow] = &[
    row(TopicKind::Fleet, LISTENERS, Users::Everybody),
    row(TopicKind::Region, LISTENERS, Users::Everybody),
    row(TopicKind::Question, LISTENERS, Users::Everybody),
    row(TopicKind::Tenant, LISTENERS, Users::Everybody),
    TopicRow { full: RUNNERS, ..row(TopicKind::Bid, LISTENERS, Users::Everybody) },
    TopicRow {
        full: RUNNERS,
        ..row(TopicKind::Ranking, &[Scope::Subscribe, Scope::Manage, Scope::Admin], Users::Everybody)
    },
    row(TopicKind::Order, LISTENERS, Users::Related(Relation::Party, DISPATCH)),
    row(TopicKind::User, &[Scope::ActAsUser, Scope::Admin], Users::Oneself),
    row(TopicKind::Named, LISTENERS, Users::Everybody),
    row(TopicKind::Admin, &[Scope::Admin], Users::Roles(&["admin"])),
    row(TopicKind::Dashboard, &[Scope::Admin], Users::Roles(&["admin"])),
];

/// Services with any of these scopes may subscribe to a prefix such as `bid:*`.
pub const PREFIXES: &[Scope] = &[Scope::Admin];

/// Something that a principal may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Report a fleet's carbon intensity.
    UpdateEi,
    /// Read fleets and their history.
    ReadFleets,
    /// Publish on a `topic:` topic.
    PublishNamed,
    /// Publish on any other topic.
    PublishOther,
    /// Issue a ticket for one's own rights.
    IssueTicket,
    /// Create an order, as its shipper.
    CreateOrder,
    /// Create an order for another shipper.
    CreateOrderFor,
    /// Report an order's status.
    SetOrderStatus,
    /// Read orders; of users, those without a role only the ones that they are party of.
    ReadOrders,
    /// Create a bid.
    CreateBid,
    /// Read bids.
    ReadBids,
    /// Read rankings, as far as the bid's visibility allows.
    ReadRankings,
    /// Open, close, cancel or award a bid.
    RunBid,
    /// Submit, revise or withdraw a proposal.
    Propose,
    /// Accounts, snapshots, questions, answers, location, receipts and typing, each for oneself.
    ActForOneself,
    /// Schedules and emergency calls.
    PlanShifts,
    /// Ask for and decide on swaps.
    SwapShifts,
    /// Declare a topic with membership, and its members.
    DeclareTopics,
    /// Keys, kicks, jobs, connections and exports of the tenant.
    Administer,
    /// Read the few figures of all nodes that dashboards show.
    ReadFigures,
    /// Who is connected to a node, as system 2 told it.
    WatchStreams,
    /// Drains, the block list and figures of the nodes.
    OperateNodes,
}

/// Who may do one thing.
#[derive(Clone, Copy, Debug)]
pub struct CommandRow {
    /// What.
    pub command: Command,
    /// Services with any of these scopes.
    pub services: &'static [Scope],
    /// Users.
    pub users: Users,
}

/// Commands.
pub const COMMANDS: &[CommandRow] = &[
    CommandRow {
        command: Command::UpdateEi,
        services: &[Scope::Publish, Scope::Manage],
        users: Users::Roles(DISPATCH),
    },
    CommandRow {
        command: Command::ReadFleets,
        services: &[Scope::Subscribe, Scope::Manage, Scope::Admin],
        users: Users::Everybody,
    },
    CommandRow { command: Command::PublishNamed, services: &[Scope::Publish], users: Users::Roles(STAFF) },
    CommandRow { command: Command::PublishOther, services: &[Scope::Publish], users: Users::Nobody },
    CommandRow {
        command: Command::IssueTicket,
        services: &[Scope::Subscribe, Scope::ActAsUser, Scope::Admin],
        users: Users::Everybody,
    },
    CommandRow {
        command: Command::CreateOrder,
        services: MANAGERS,
        users: Users::Roles(&["shipper", "manager", "admin"]),
    },
    CommandRow { command: Command::CreateOrderFor, services: MANAGERS, users: Users::Roles(STAFF) },
    CommandRow {
        command: Command::SetOrderStatus,
        services: &[Scope::Publish, Scope::Manage],
        users: Users::Related(Relation::Carrier, DISPATCH),
    },
    CommandRow {
        command: Command::ReadOrders,
        services: &[Scope::Subscribe, Scope::Manage, Scope::Admin],
        users: Users::Related(Relation::Party, DISPATCH),
    },
    CommandRow {
        command: Command::CreateBid,
        services: MANAGERS,
        users: Users::Roles(&["shipper", "manager", "admin"]),
    },
    CommandRow {
        command: Command::ReadBids,
        services: &[Scope::Subscribe, Scope::Manage, Scope::Admin],
        users: Users::Everybody,
    },
    CommandRow {
        command: Command::ReadRankings,
        services: &[Scope::Subscribe, Scope::Manage, Scope::Admin],
        users: Users::Everybody,
    },
    CommandRow {
        command: Command::RunBid,
        services: MANAGERS,
        users: Users::Related(Relation::Owner, STAFF),
    },
    CommandRow {
        command: Command::Propose,
        services: MANAGERS,
        users: Users::Related(Relation::Carrier, &[]),
    },
    CommandRow { command: Command::ActForOneself, services: &[Scope::ActAsUser], users: Users::Everybody },
    CommandRow { command: Command::PlanShifts, services: MANAGERS, users: Users::Roles(STAFF) },
    CommandRow {
        command: Command::SwapShifts,
        services: MANAGERS,
        users: Users::Related(Relation::Concerned, STAFF),
    },
    CommandRow { command: Command::DeclareTopics, services: MANAGERS, users: Users::Roles(STAFF) },
    CommandRow { command: Command::Administer, services: &[Scope::Admin], users: Users::Roles(&["admin"]) },
    CommandRow { command: Command::ReadFigures, services: LISTENERS, users: Users::Roles(&["admin"]) },
    CommandRow {
        command: Command::WatchStreams,
        services: &[Scope::Manage, Scope::Admin],
        users: Users::Roles(STAFF),
    },
    CommandRow { command: Command::OperateNodes, services: &[Scope::Operator], users: Users::Nobody },
];

/// Whether a principal may do something.
pub fn may(principal: &Principal, command: Command) -> bool {
    let row = COMMANDS.iter().find(|row| row.command == command);
    row.is_some_and(|row| match &principal.user {
        Some(user) => allows(row.users, user, None),
        None => principal.scopes.has_any(row.services),
    })
}

/// The code of a command that its caller may not give.
pub const FORBIDDEN: &str = "forbidden";

/// Refuses what a principal may not do.
pub fn require(principal: &Principal, command: Command) -> Result<(), Refusal> {
    if may(principal, command) {
        return Ok(());
    }
    let scopes = COMMANDS.iter().filter(|row| row.command == command).flat_map(|row| row.services);
    let scopes: Vec<_> = scopes.map(|scope| scope.as_str()).collect();
    Err(Refusal::forbidden(FORBIDDEN, format!("needs one of the scopes {}, or a role", scopes.join(", "))))
}

/// The user that a principal is, or speaks for, where it may act for itself.
pub fn oneself(principal: &Principal) -> Result<&User, Refusal> {
    require(principal, Command::ActForOneself)?;
    let detail = "this is a user's own: a service says for whom it comes by x-user-id";
    principal.user.as_ref().ok_or_else(|| Refusal::forbidden(FORBIDDEN, detail))
}

/// The variant that a principal sees of what it may subscribe to; None when it may not.
pub fn subscription(principal: &Principal, selector: &Selector) -> Option<Audience> {
    if let Selector::Topic(topic) = selector
        && topic.kind() == TopicKind::Presence
    {
        return subscription(principal, &Selector::Topic(selector.room()?)).map(|_| Audience::Full);
    }
    if let Selector::Prefix { .. } = selector {
        let allowed = principal.user.is_none() && principal.scopes.has_any(PREFIXES);
        return allowed.then_some(Audience::Full);
    }
    let row = TOPICS.iter().find(|row| row.kind == selector.kind())?;
    let allowed = match (selector, &principal.user) {
        (Selector::Topic(topic), Some(user)) => allows(row.users, user, Some(topic)),
        _ => principal.scopes.has_any(row.services),
    };
    let full = row.full.is_none_or(|(scopes, roles)| match &principal.user {
        Some(user) => has_role(user, roles),
        None => principal.scopes.has_any(scopes),
    });
    allowed.then_some(if full { Audience::Full } else { Audience::Public })
}

fn allows(users: Users, user: &User, topic: Option<&Topic>) -> bool {
    match users {
        Users::Everybody => true,
        // what the relation is, only the entity can tell: where it is asked, it asks here only for roles
        Users::Roles(roles) | Users::Related(_, roles) => has_role(user, roles),
        Users::Oneself => topic.is_some_and(|topic| *topic == Topic::user(&user.sub)),
        Users::Nobody => false,
    }
}

fn has_role(user: &User, roles: &[&str]) -> bool {
    user.roles.iter().any(|role| roles.contains(&role.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{TenantId, UserSub};
    use crate::identity::Scopes;

    const ROLES: &[&str] = &["", "dispatcher", "manager", "admin", "shipper", "carrier", "Admin"];
    const EVERYBODY: &str = ",dispatcher,manager,admin,shipper,carrier,Admin";

    /// Topic, scopes that may, roles that may (the empty one: without any), and whose variant is `full`.
    type Expected = (&'static str, &'static str, &'static str, Option<(&'static str, &'static str)>);

    const EXPECTED_TOPICS: &[Expected] = &[
        ("fleet:1", "subscribe", EVERYBODY, None),
        ("region:kr-49", "subscribe", EVERYBODY, None),
        ("question:1", "subscribe", EVERYBODY, None),
        ("tenant", "subscribe", EVERYBODY, None),
        ("bid:1", "subscribe", EVERYBODY, Some(("manage,admin", "manager,admin"))),
        ("ranking:1", "subscribe,manage,admin", EVERYBODY, Some(("manage,admin", "manager,admin"))),
        ("order:1", "subscribe", "dispatcher,manager,admin", None),
        ("user:me", "act_as_user,admin", EVERYBODY, None),
        ("user:you", "act_as_user,admin", "none", None),
        ("topic:a", "subscribe", EVERYBODY, None),
        ("presence:topic:a", "subscribe", EVERYBODY, None),
        ("presence:order:1", "subscribe", "dispatcher,manager,admin", None),
        ("presence:user:me", "act_as_user,admin", EVERYBODY, None),
        ("presence:user:you", "act_as_user,admin", "none", None),
        ("presence:admin", "admin", "admin", None),
        ("presence:nonsense", "none", "none", None),
        ("presence:presence:topic:a", "none", "none", None),
        ("admin", "admin", "admin", None),
        ("dashboard", "admin", "admin", None),
        ("bid:*", "admin", "none", None),
        ("user:*", "admin", "none", None),
        ("topic:*", "admin", "none", None),
    ];

    const EXPECTED_COMMANDS: &[(Command, &str, &str)] = &[
        (Command::UpdateEi, "publish,manage", "dispatcher,manager,admin"),
        (Command::ReadFleets, "subscribe,manage,admin", EVERYBODY),
        (Command::PublishNamed, "publish", "manager,admin"),
        (Command::PublishOther, "publish", "none"),
        (Command::IssueTicket, "subscribe,act_as_user,admin", EVERYBODY),
        (Command::CreateOrder, "manage", "shipper,manager,admin"),
        (Command::CreateOrderFor, "manage", "manager,admin"),
        (Command::SetOrderStatus, "publish,manage", "dispatcher,manager,admin"),
        (Command::ReadOrders, "subscribe,manage,admin", "dispatcher,manager,admin"),
        (Command::CreateBid, "manage", "shipper,manager,admin"),
        (Command::ReadBids, "subscribe,manage,admin", EVERYBODY),
        (Command::ReadRankings, "subscribe,manage,admin", EVERYBODY),
        (Command::RunBid, "manage", "manager,admin"),
        (Command::Propose, "manage", "none"),
        (Command::ActForOneself, "act_as_user", EVERYBODY),
        (Command::PlanShifts, "manage", "manager,admin"),
        (Command::SwapShifts, "manage", "manager,admin"),
        (Command::DeclareTopics, "manage", "manager,admin"),
        (Command::Administer, "admin", "admin"),
        (Command::ReadFigures, "subscribe", "admin"),
        (Command::WatchStreams, "manage,admin", "manager,admin"),
        (Command::OperateNodes, "operator", "none"),
    ];

    fn service(scopes: &[Scope]) -> Principal {
        let scopes = scopes.iter().fold(Scopes::default(), |scopes, scope| scopes.with(*scope));
        Principal {
            tenant: Some(TenantId::default_tenant()),
            key_id: Some("key".into()),
            scopes,
            user: None,
            ticket_id: None,
            ticket_topics: None,
            issued_at: None,
            expires_at: None,
        }
    }

    /// A user whose key has every scope, to show that they are without effect.
    fn user(roles: &[&str]) -> Principal {
        let sub = UserSub::parse("me").unwrap();
        let roles = roles.iter().filter(|role| !role.is_empty());
        let roles = roles.map(|role| (*role).to_owned()).collect();
        Principal { user: Some(User { roles, ..User::plain(sub) }), ..service(&Scope::ALL) }
    }

    fn named(list: &str, word: &str) -> bool {
        list.split(',').any(|own| own == word)
    }

    /// Every principal of the walk, with what the lists of scopes and roles say of it.
    fn walk(check: impl Fn(&Principal, &dyn Fn(&str, &str) -> bool)) {
        check(&service(&[]), &|_, _| false);
        for first in Scope::ALL {
            for second in Scope::ALL {
                let expected =
                    |scopes: &str, _: &str| named(scopes, first.as_str()) || named(scopes, second.as_str());
                check(&service(&[first, second]), &expected);
            }
        }
        for first in ROLES {
            for second in ROLES {
                let expected = |_: &str, roles: &str| {
                    let own = [first, second].into_iter().any(|role| named(roles, role));
                    own || named(roles, "")
                };
                check(&user(&[first, second]), &expected);
            }
        }
    }

    #[test]
    fn every_topic_is_for_those_whom_the_table_names() {
        for (text, scopes, roles, full) in EXPECTED_TOPICS {
            let selector = Selector::parse(text).unwrap();
            walk(|principal, expected| {
                let audience = match (expected(scopes, roles), full) {
                    (false, _) => None,
                    (true, None) => Some(Audience::Full),
                    (true, Some((scopes, roles))) if expected(scopes, roles) => Some(Audience::Full),
                    (true, Some(_)) => Some(Audience::Public),
                };
                assert_eq!(subscription(principal, &selector), audience, "{text}: {principal:?}");
            });
        }
    }

    #[test]
    fn every_command_is_for_those_whom_the_table_names() {
        for (command, scopes, roles) in EXPECTED_COMMANDS {
            walk(|principal, expected| {
                let allowed = expected(scopes, roles);
                assert_eq!(may(principal, *command), allowed, "{command:?}: {principal:?}");
                assert_eq!(require(principal, *command).is_ok(), allowed);
            });
        }
    }

    #[test]
    fn every_row_is_walked_and_stands_once() {
        for row in TOPICS {
            let walked =
                EXPECTED_TOPICS.iter().any(|(text, ..)| Selector::parse(text).unwrap().kind() == row.kind);
            assert!(walked, "{:?}", row.kind);
            assert_eq!(TOPICS.iter().filter(|own| own.kind == row.kind).count(), 1);
        }
        for row in COMMANDS {
            assert!(EXPECTED_COMMANDS.iter().any(|(command, ..)| *command == row.command));
            assert_eq!(COMMANDS.iter().filter(|own| own.command == row.command).count(), 1);
        }
    }
}
