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
    /// The user that the topic names.
    Oneself,
    /// Who may subscribe to the topic that the room is named after.
    RoomsOfTopic,
    /// Nobody.
    Nobody,
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
const STAFF: &[&str] = &["manager", "admin"];
const DISPATCH: &[&str] = &["dispatcher", "manager", "admin"];

const fn row(kind: TopicKind, services: &'static [Scope], users: Users) -> TopicRow {
    TopicRow { kind, services, users, full: None }
}

/// Topics by kind. Entities that exist narrow some of these further (a sealed bid, an order's parties).
pub const TOPICS: &[TopicRow] = &[
    row(TopicKind::Fleet, LISTENERS, Users::Everybody),
    row(TopicKind::Region, LISTENERS, Users::Everybody),
    row(TopicKind::Question, LISTENERS, Users::Everybody),
    row(TopicKind::Tenant, LISTENERS, Users::Everybody),
    row(TopicKind::Bid, LISTENERS, Users::Everybody),
    TopicRow {
        kind: TopicKind::Ranking,
        services: LISTENERS,
        users: Users::Everybody,
        full: Some((&[Scope::Manage, Scope::Admin], STAFF)),
    },
    row(TopicKind::Order, LISTENERS, Users::Roles(DISPATCH)),
    row(TopicKind::User, &[Scope::ActAsUser, Scope::Admin], Users::Oneself),
    row(TopicKind::Named, LISTENERS, Users::Everybody),
    row(TopicKind::Presence, LISTENERS, Users::RoomsOfTopic),
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
    /// Revoke keys of the tenant.
    ManageKeys,
    /// Read figures of the node.
    ReadNodeFigures,
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
    CommandRow { command: Command::ManageKeys, services: &[Scope::Admin], users: Users::Roles(&["admin"]) },
    CommandRow { command: Command::ReadNodeFigures, services: &[Scope::Operator], users: Users::Nobody },
];

/// Whether a principal may do something.
pub fn may(principal: &Principal, command: Command) -> bool {
    let row = COMMANDS.iter().find(|row| row.command == command);
    row.is_some_and(|row| match &principal.user {
        Some(user) => allows(row.users, user, None),
        None => principal.scopes.has_any(row.services),
    })
}

/// Refuses what a principal may not do.
pub fn require(principal: &Principal, command: Command) -> Result<(), Refusal> {
    if may(principal, command) {
        return Ok(());
    }
    let scopes = COMMANDS.iter().filter(|row| row.command == command).flat_map(|row| row.services);
    let scopes: Vec<_> = scopes.map(|scope| scope.as_str()).collect();
    Err(Refusal::forbidden("forbidden", format!("needs one of the scopes {}, or a role", scopes.join(", "))))
}

/// The variant that a principal sees of what it may subscribe to; None when it may not.
pub fn subscription(principal: &Principal, selector: &Selector) -> Option<Audience> {
    let row = TOPICS.iter().find(|row| row.kind == selector.kind())?;
    let allowed = match (selector, &principal.user) {
        (Selector::Prefix { .. }, None) => principal.scopes.has_any(PREFIXES),
        (Selector::Prefix { .. }, Some(_)) => false,
        (Selector::Topic(topic), Some(user)) => allows(row.users, user, Some(topic)),
        (Selector::Topic(_), None) => principal.scopes.has_any(row.services),
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
        Users::Roles(roles) => has_role(user, roles),
        Users::Oneself => topic.is_some_and(|topic| *topic == Topic::user(&user.sub)),
        Users::RoomsOfTopic => topic.and_then(|topic| Topic::parse(topic.id()).ok()).is_some_and(|room| {
            let row = TOPICS.iter().find(|row| row.kind == room.kind());
            room.kind() != TopicKind::Presence && row.is_some_and(|row| allows(row.users, user, Some(&room)))
        }),
        Users::Nobody => false,
    }
}

fn has_role(user: &User, roles: &[&str]) -> bool {
    user.roles.iter().any(|role| roles.contains(&role.as_str()))
}
