//! What happens to accounts, and what follows from it: a new kind of event is one type here and its line in [`all`].
//!
//! A command records an event in its own transaction ([`About::record`]). Then a job follows it up, on whichever node:
//! what [`Happened::follow`] writes is committed together with the events that it returns and the end of the job.

use std::future::Future;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{CHANNEL, Followers};
use crate::domain::{Class, TenantId, Timestamp, Topic, UserSub};
use crate::jobs::{Delivery, JobRow, Kind, NewJob};
use crate::storage::{OutboxRow, StoreError};

/// Every event that is followed up.
pub fn all() -> Followers {
    Followers::default().with::<AccountCreated>()
}

/// Something that has happened.
pub trait Happened: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Names it, in the table of jobs and in metrics.
    const NAME: &'static str;

    /// What follows from it: events for clients, and what is written to the ledger.
    fn follow(
        &self,
        about: &About,
        ledger: &mut impl Ledger,
    ) -> impl Future<Output = Result<Vec<OutboxRow>, StoreError>> + Send;
}

/// What can be written on the way, in the transaction of the job.
pub trait Ledger: Send {
    /// Keeps what all accounts of the user are like, beside the newest of what was kept before; how many they are.
    fn take_snapshot(&mut self, about: &About) -> impl Future<Output = Result<usize, StoreError>> + Send;
}

/// An account has come into being: all of its owner's are kept as they are, and the owner is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct AccountCreated {
    /// Which.
    pub account_id: i64,
}

impl Happened for AccountCreated {
    const NAME: &'static str = "account.created";

    async fn follow(&self, about: &About, ledger: &mut impl Ledger) -> Result<Vec<OutboxRow>, StoreError> {
        let count = ledger.take_snapshot(about).await?;
        Ok(vec![about.tell_user("snapshots.generated", &json!({"snapshotCount": count}))])
    }
}

/// To whom, where and when something happened.
#[derive(Clone, Debug)]
pub struct About {
    /// Whose user.
    pub tenant: TenantId,
    /// Whose account.
    pub user: UserSub,
    /// The node that accepted the command.
    pub server_id: String,
    /// The job that follows it up; names what comes of it.
    pub job_id: String,
    /// The present time.
    pub now: Timestamp,
    /// The request that it comes from, where somebody follows it.
    pub origin: Option<String>,
}

/// Priority of what follows from a command: nobody is in danger.
const PRIORITY: i64 = 3;

/// An event as its job keeps it.
#[derive(Serialize, Deserialize)]
pub(super) struct Recorded<E> {
    pub user: String,
    /// The request that it comes from, where somebody follows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    pub event: E,
}

pub(super) fn kind<E: Happened>() -> Kind {
    Kind { name: E::NAME, channel: CHANNEL, delivery: Delivery::AtLeastOnce }
}

impl About {
    /// The job that will follow an event up; to be added in the transaction of what has happened.
    pub fn record<E: Happened>(&self, event: E, max_attempts: u32) -> JobRow {
        let recorded = Recorded { user: self.user.as_str().to_owned(), origin: self.origin.clone(), event };
        let payload = serde_json::to_string(&recorded).expect("an event is plain data");
        let (tenant, server_id) = (self.tenant.as_str(), self.server_id.as_str());
        let new = NewJob { kind: kind::<E>(), tenant, priority: PRIORITY, payload, server_id, max_attempts };
        JobRow { job_id: self.job_id.clone(), ..new.row() }
    }

    /// An event on the user's own topic: the fields of `data`, and `timestamp` and `serverId`.
    pub fn tell_user(&self, name: &str, data: &impl Serialize) -> OutboxRow {
        let own = serde_json::to_string(data).expect("events are plain data");
        let own = own.strip_suffix('}').expect("the data of an event is an object");
        let comma = if own == "{" { "" } else { "," };
        let server_id = serde_json::to_string(&self.server_id).expect("a text");
        OutboxRow {
            id: 0,
            tenant: self.tenant.as_str().to_owned(),
            topic: Topic::user(&self.user).as_str().to_owned(),
            name: name.to_owned(),
            class: Class::Durable.as_str().to_owned(),
            key: None,
            version: None,
            data: format!("{own}{comma}\"timestamp\":\"{}\",\"serverId\":{server_id}}}", self.now),
            public: None,
            created_us: self.now.micros(),
            origin: self.origin.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_for_a_user_says_when_and_by_which_node_it_was_accepted() {
        let about = About {
            tenant: TenantId::default_tenant(),
            user: UserSub::parse("kim / 봉").unwrap(),
            server_id: "node \"2\"".into(),
            job_id: "1".into(),
            now: Timestamp::from_micros(0),
            origin: None,
        };
        let tail = r#""timestamp":"1970-01-01T00:00:00.000Z","serverId":"node \"2\""}"#;
        let row = about.tell_user("snapshots.generated", &json!({"snapshotCount": 3}));
        assert_eq!(row.data, format!("{{\"snapshotCount\":3,{tail}"));
        assert_eq!(row.topic, Topic::user(&about.user).as_str());
        assert_eq!(about.tell_user("a", &json!({})).data, format!("{{{tail}"));
        let job = about.record(AccountCreated { account_id: 7 }, 3);
        assert_eq!((&*job.kind, &*job.server_id), ("account.created", "node \"2\""));
        assert_eq!(job.payload, r#"{"user":"kim / 봉","event":{"account_id":7}}"#);
    }
}
