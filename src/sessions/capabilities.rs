use std::net::IpAddr;

use futures_util::future::LocalBoxFuture;
use serde_json::value::RawValue;

use super::requests::{Ack, Command};
use super::{Grant, Hearing};
use crate::domain::{Refusal, Selector, TenantId};
use crate::identity::Principal;
use crate::rooms::ConnectionId;

/// The JSON that a request is answered with.
pub type Answer = Result<String, Refusal>;

/// What a session can have done for its client, by those who know how.
///
/// Every call may be abandoned: what was begun is carried out all the same.
pub trait Capabilities {
    /// What a principal may hear of this, or the code of the refusal.
    fn grant(&self, principal: &Principal, selector: &Selector) -> Result<Grant, &'static str>;

    /// Looks up whether a principal may hear these, so that [`Capabilities::grant`] answers by what the store says
    /// now.
    fn renew(
        &self,
        principal: &Principal,
        selectors: &[Selector],
    ) -> LocalBoxFuture<'static, Result<(), Refusal>>;

    /// What has to be waited for before these are judged for a principal, if anything.
    fn freshen(&self, principal: &Principal, selectors: &[Selector]) -> Option<LocalBoxFuture<'static, ()>>;

    /// What has to be waited for before these are judged by entities that were not there when they were last looked
    /// for: whoever asks once the log is open is told by it of all that come into being after this.
    fn look_again(
        &self,
        principal: &Principal,
        selectors: &[Selector],
    ) -> Option<LocalBoxFuture<'static, ()>>;

    /// Whose token this is.
    fn authenticate(&self, token: String) -> LocalBoxFuture<'static, Result<Principal, Refusal>>;

    /// Publishes an event.
    fn publish(&self, principal: Principal, event: Box<RawValue>) -> LocalBoxFuture<'static, Answer>;

    /// Carries a domain command out.
    fn command(&self, principal: Principal, command: Command) -> LocalBoxFuture<'static, Answer>;

    /// A session hears this from now on, and is told what is computed for it until it has left; false where that is
    /// nothing.
    fn hears(&self, principal: &Principal, hearing: Hearing<'_>) -> bool;

    /// A session that was told what is computed for it has ended.
    fn left(&self, tenant: &TenantId, id: ConnectionId);

    /// Lets a refusal count for the limits of the client's address, and waits as long as that asks; what the
    /// client is told in the end.
    fn settle(&self, peer: IpAddr, refusal: Refusal) -> LocalBoxFuture<'static, Refusal>;

    /// Takes note that events were shown.
    fn ack(&self, principal: Principal, ack: Ack) -> LocalBoxFuture<'static, Answer>;
}
