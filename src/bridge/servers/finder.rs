//! Asks who the masters are.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value, cmd, from_redis_value};
use tokio::time::timeout;

use super::address::Kind;
use super::connector::Connector;
use super::layout::{Claim, Layout, Server, read_claims};
use crate::bridge::error::BridgeError;

/// How long one that is asked may take: the others' answers wait for it.
const WITHIN: Duration = Duration::from_millis(500);
/// How long what one has said counts while it does not answer: others may know less.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Servers of a cluster that are asked, at most.
const MOST: usize = 64;

/// Finds the layout, by connections of its own.
pub(super) struct Finder {
    connector: Connector,
    links: HashMap<Server, MultiplexedConnection>,
    /// Who can be asked.
    known: BTreeSet<Server>,
    /// The newest configuration that a sentinel knew of, and when it was heard of.
    newest: Option<(u64, Instant)>,
    /// What each server of a cluster said of itself, and when.
    spoken: HashMap<String, (Claim, Instant)>,
}

/// What a sentinel says, and how current that is.
struct Named {
    epoch: u64,
    master: Server,
}

impl Finder {
    pub fn new(connector: Connector) -> Self {
        let known = connector.seeds().iter().cloned().collect();
        Finder { connector, links: HashMap::new(), known, newest: None, spoken: HashMap::new() }
    }

    /// Who the masters are, as far as anybody says.
    pub async fn find(&mut self) -> Result<Layout, BridgeError> {
        match self.connector.kind().clone() {
            Kind::Single => Ok(Layout::single(self.connector.seeds()[0].clone(), 0)),
            Kind::Sentinel { service } => self.ask_sentinels(&service).await,
            Kind::Cluster => self.ask_cluster().await,
        }
    }

    /// The master of the newest configuration that any sentinel knows of.
    async fn ask_sentinels(&mut self, service: &str) -> Result<Layout, BridgeError> {
        let mut question = Pipeline::new();
        question.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service);
        question.cmd("SENTINEL").arg("MASTER").arg(service);
        let mut named: Vec<Named> = Vec::new();
        let mut problem = BridgeError::Away("no sentinel answers".into());
        for (_, answer) in self.ask_all(&question).await {
            match answer.and_then(read_named) {
                Ok(own) => named.push(own),
                Err(BridgeError::Refused(text)) if text.contains("No such master") => {
                    let text =
                        format!("the sentinels know no service {service:?}: set redis.url to the right one");
                    problem = BridgeError::Refused(text);
                }
                Err(error) => problem = error,
            }
        }
        let newest = named.into_iter().max_by_key(|own| own.epoch).ok_or(problem)?;
        let is_older = |(epoch, at): &(u64, Instant)| newest.epoch < *epoch && at.elapsed() < REMEMBERED;
        if self.newest.as_ref().is_some_and(is_older) {
            return Err(BridgeError::Away(
                "none of those sentinels answers that knew the latest master".into(),
            ));
        }
        self.newest = Some((newest.epoch, Instant::now()));
        Ok(Layout::single(newest.master, newest.epoch))
    }

    async fn ask_cluster(&mut self) -> Result<Layout, BridgeError> {
        let mut question = Pipeline::new();
        question.add_command(cmd("CLUSTER").arg("NODES").clone());
        question.add_command(cmd("CLUSTER").arg("SLOTS").clone());
        let (mut claims, mut problem) = (Vec::<Claim>::new(), BridgeError::Away("no server answers".into()));
        for (server, answer) in self.ask_all(&question).await {
            let read = |value: Value| {
                // of a range: first slot, last slot, and the servers that have it
                let (nodes, slots): (String, Vec<Vec<Value>>) = from_redis_value(value)?;
                let endpoints = slots.iter().flat_map(|range| range.iter().skip(2));
                let endpoints = endpoints.filter_map(|own| read_endpoint(own, &server)).collect();
                Ok(read_claims(&nodes, &endpoints, &server))
            };
            match answer.and_then(read) {
                Ok(own) => claims.extend(own),
                Err(error) => problem = error,
            }
        }
        if claims.is_empty() {
            return Err(problem);
        }
        let named: BTreeSet<&Server> = claims.iter().filter_map(|own| own.server.as_ref()).collect();
        self.known = named.into_iter().take(MOST).chain(self.connector.seeds()).cloned().collect();
        self.links.retain(|server, _| self.known.contains(server));
        let now = Instant::now();
        for own in claims.iter().filter(|own| own.is_own) {
            self.spoken.insert(own.id.clone(), (own.clone(), now));
        }
        // whoever does not answer this time is not overruled by whom it has succeeded
        self.spoken.retain(|_, (_, at)| at.elapsed() < REMEMBERED);
        claims.extend(self.spoken.values().filter(|(_, at)| *at != now).map(|(own, _)| own.clone()));
        Ok(Layout::of_cluster(&claims))
    }

    /// Asks everybody at once; whoever does not answer is connected to anew the next time.
    async fn ask_all(&mut self, question: &Pipeline) -> Vec<(Server, Result<Value, BridgeError>)> {
        let asks = self.known.iter().map(|server| {
            let link = self.links.remove(server);
            let ask = ask(&self.connector, server, link, question);
            async move {
                let late = |_| Err(BridgeError::Away(format!("no answer from {server} in time")));
                (server.clone(), timeout(WITHIN, ask).await.unwrap_or_else(late))
            }
        });
        let answers = join_all(asks).await;
        let keep = |(server, answer): (Server, Result<(MultiplexedConnection, Value), BridgeError>)| {
            let answer = answer.map(|(link, value)| {
                self.links.insert(server.clone(), link);
                value
            });
            (server, answer)
        };
        answers.into_iter().map(keep).collect()
    }
}

async fn ask(
    connector: &Connector,
    server: &Server,
    link: Option<MultiplexedConnection>,
    question: &Pipeline,
) -> Result<(MultiplexedConnection, Value), BridgeError> {
    let mut link = match (link, connector.kind()) {
        (Some(link), _) => link,
        (None, Kind::Sentinel { .. }) => connector.sentinel(server).await?,
        (None, _) => connector.link(server).await?,
    };
    let answer = question.query_async(&mut link).await?;
    Ok((link, answer))
}

fn read_named(answer: Value) -> Result<Named, BridgeError> {
    let ((host, port), fields): ((String, u16), HashMap<String, String>) = from_redis_value(answer)?;
    let epoch = fields.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or_default();
    Ok(Named { epoch, master: Server { host, port } })
}

/// Id and address of a server of `CLUSTER SLOTS`: address, port, id, …
fn read_endpoint(value: &Value, asked: &Server) -> Option<(String, Server)> {
    let Value::Array(parts) = value else { return None };
    let [host, Value::Int(port), id, ..] = &parts[..] else { return None };
    let host: Option<String> = from_redis_value(host.clone()).ok()?;
    // one whose address the cluster does not know is reached as it was
    let host = host.filter(|host| !matches!(host.as_str(), "" | "?")).unwrap_or_else(|| asked.host.clone());
    Some((from_redis_value(id.clone()).ok()?, Server { host, port: u16::try_from(*port).ok()? }))
}
