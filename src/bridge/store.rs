use std::sync::Arc;
use std::time::Instant;

use redis::{Script, ScriptInvocation, Value};

use super::commands::Commands;
use super::envelope::{Entry, write_notice};
use super::error::BridgeError;
use super::keys::Keys;
use super::mirror::Mirror;
use super::release;
use super::reply::{Reply, text, texts};
use super::runs::Run;
use super::servers::Server;
use crate::clock::{Clock, random_u64};
use crate::domain::{Epoch, Selector, TenantId, Timestamp};
use crate::log::{Appended, Idempotency, LogError, LogOptions, NewEvent, NodeNotice, PageLimit, Source};

/// The functions on a tenant's log, each carried out by Redis in one go.
struct Functions {
    head: Script,
    append: Script,
    read: Script,
    newest: Script,
    floors: Script,
    trim: Script,
}

macro_rules! function {
    ($name:literal) => {
        Script::new(&format!(
            "{}{}{}",
            release::preamble(),
            include_str!("lua/prelude.lua"),
            include_str!(concat!("lua/", $name, ".lua"))
        ))
    };
}

/// The logs of all tenants, as Redis keeps them.
#[derive(Clone)]
pub(super) struct Store {
    pub commands: Commands,
    pub keys: Keys,
    clock: Clock,
    functions: Arc<Functions>,
    /// How this cluster's own events are published for other services, if they are.
    mirror: Option<Arc<Mirror>>,
}

/// Where a log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Top {
    pub run: Run,
    /// Number of the newest entry.
    pub seq: u64,
    /// Number of the newest entry that is gone.
    pub trimmed: u64,
}

/// One publish, or one outbox row, for an append.
#[derive(Clone)]
pub(super) struct Request {
    pub groups: Vec<Vec<NewEvent>>,
    pub source: Source,
    pub idempotency: Option<Idempotency>,
    pub outbox_id: Option<i64>,
    /// What other services are told in the place of its event's data.
    pub mirrored: Option<String>,
}

impl Request {
    /// What it takes in the log, bytes.
    pub fn bytes(&self) -> usize {
        self.groups.iter().flatten().map(NewEvent::bytes).sum()
    }
}

/// What became of a request.
pub(super) type Answer = Result<Vec<Appended>, LogError>;

/// Part of the past.
#[derive(Debug)]
pub(super) struct Past {
    pub entries: Vec<Entry>,
    pub scanned_to: u64,
    pub floors: Floors,
}

/// What one call has removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trimmed {
    pub count: u64,
    /// Whether there may be more to remove at once.
    pub more: bool,
    /// When the oldest entry that is left will be too old, µs on the log's clock.
    pub due: Option<i64>,
}

/// Up to where topics have been trimmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Floors {
    pub all: u64,
    /// Steps by topic, as `trim.lua` writes them.
    pub by_topic: Vec<(String, String)>,
}

impl Store {
    pub fn new(commands: Commands, keys: Keys, clock: Clock, mirror: Option<Mirror>) -> Self {
        let functions = Arc::new(Functions {
            head: function!("head"),
            append: function!("append"),
            read: function!("read"),
            newest: function!("newest"),
            floors: function!("floors"),
            trim: function!("trim"),
        });
        Store { commands, keys, clock, functions, mirror: mirror.map(Arc::new) }
    }

    /// Whether there is a link to whoever keeps a tenant's log.
    pub fn is_linked_for(&self, tenant: &TenantId) -> bool {
        self.commands.is_linked_for(&self.keys.of(tenant))
    }

    /// Who keeps a tenant's log.
    pub fn server_of(&self, tenant: &TenantId) -> Option<Server> {
        self.commands.lookout.layout().of(&self.keys.of(tenant)).cloned()
    }

    /// Whether other services hear of this cluster's events.
    pub fn mirrors(&self) -> bool {
        self.mirror.is_some()
    }

    /// Where a tenant's log stands; it begins with this where there is none.
    pub async fn top(&self, tenant: &TenantId) -> Result<Top, BridgeError> {
        let call = self.call(&self.functions.head, tenant);
        let reply = self.carry_out(tenant, &call).await?;
        Ok(Top { run: self.run(tenant, &reply, (2, 4))?, seq: reply.number(1)?, trimmed: reply.number(3)? })
    }

    /// Appends; `fence` is a leader's, and `marked` are outbox ids whose rows are gone.
    pub async fn append(
        &self,
        tenant: &TenantId,
        (fence, marked): (Option<u64>, &[i64]),
        options: &LogOptions,
        requests: &[Request],
    ) -> Result<(Run, Vec<Answer>), BridgeError> {
        let mut call = self.call(&self.functions.append, tenant);
        let marked = marked.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        call.arg(self.commands.publish()).arg(self.keys.live(tenant)).arg(self.keys.of(tenant));
        call.arg(fence.map_or(String::new(), |fence| fence.to_string()));
        let (_, bytes, _) = options.kept_for();
        call.arg(options.most_entries() * 2).arg(bytes * 2).arg(marked);
        for request in requests {
            put(&mut call, request, self.mirror.as_deref());
        }
        let reply = match fence {
            // who leads has others to go on with
            Some(_) => Reply::of(self.commands.run_once::<Value>(&self.keys.of(tenant), &call).await?)?,
            None => self.carry_out(tenant, &call).await?,
        };
        self.commands.metrics().cut_short(reply.number(4)?);
        self.commands.interop_metrics().mirrored(reply.number(5)?, reply.number(6)?);
        let answers = texts(reply.at(3)?)?;
        if answers.len() != requests.len() {
            return Err(BridgeError::Unexpected("an answer is missing".into()));
        }
        Ok((
            self.run(tenant, &reply, (2, 7))?,
            answers.iter().map(|text| answer(text)).collect::<Result<_, _>>()?,
        ))
    }

    /// The events of the selected topics within a span; all topics where none is selected. None: the log has
    /// started afresh.
    pub async fn read(
        &self,
        tenant: &TenantId,
        epoch: Epoch,
        selectors: Option<&[Selector]>,
        (after, up_to): (u64, u64),
        limit: PageLimit,
    ) -> Result<Option<Past>, BridgeError> {
        let mut call = self.call(&self.functions.read, tenant);
        call.arg(epoch.to_string()).arg(after).arg(up_to).arg(limit.events).arg(limit.bytes);
        match selectors {
            None => {
                call.arg(-1);
            }
            Some(selectors) => {
                let topics = selectors.iter().filter_map(|own| match own {
                    Selector::Topic(topic) => Some(topic.as_str()),
                    Selector::Prefix { .. } => None,
                });
                let topics: Vec<&str> = topics.collect();
                call.arg(topics.len());
                for topic in topics {
                    call.arg(topic);
                }
                for prefix in selectors.iter().filter(|own| matches!(own, Selector::Prefix { .. })) {
                    call.arg(prefix.to_string().trim_end_matches('*'));
                }
            }
        }
        let reply = self.carry_out(tenant, &call).await?;
        if reply.epoch(0)? != epoch {
            return Ok(None);
        }
        let floors = Floors { all: reply.number(2)?, by_topic: pairs(reply.at(3)?)? };
        Ok(Some(Past { entries: entries(reply.at(5)?)?, scanned_to: reply.number(4)?, floors }))
    }

    /// The newest entries up to a number, in order; None: the log has started afresh.
    pub async fn newest(
        &self,
        tenant: &TenantId,
        epoch: Epoch,
        up_to: u64,
        limit: PageLimit,
    ) -> Result<Option<Vec<Entry>>, BridgeError> {
        let mut call = self.call(&self.functions.newest, tenant);
        call.arg(epoch.to_string()).arg(up_to).arg(limit.events).arg(limit.bytes);
        let reply = self.carry_out(tenant, &call).await?;
        if reply.epoch(0)? != epoch {
            return Ok(None);
        }
        let mut newest = entries(reply.at(2)?)?;
        newest.reverse();
        Ok(Some(newest))
    }

    /// Up to where every topic has been trimmed.
    pub async fn floors(&self, tenant: &TenantId) -> Result<(Epoch, Floors), BridgeError> {
        let reply = self.carry_out(tenant, &self.call(&self.functions.floors, tenant)).await?;
        Ok((reply.epoch(0)?, Floors { all: reply.number(1)?, by_topic: pairs(reply.at(2)?)? }))
    }

    /// Removes what retention no longer keeps, some at a time.
    pub async fn trim(
        &self,
        tenant: &TenantId,
        fence: u64,
        options: &LogOptions,
        batch: usize,
    ) -> Result<Trimmed, BridgeError> {
        let mut call = self.call(&self.functions.trim, tenant);
        let (age, bytes, floors) = options.kept_for();
        call.arg(fence).arg(options.most_entries()).arg(age.as_micros() as u64).arg(bytes).arg(floors);
        call.arg(batch);
        let reply = self.carry_out(tenant, &call).await?;
        let due = Some(reply.number::<i64>(3)?).filter(|due| *due > 0);
        Ok(Trimmed { count: reply.number(1)?, more: reply.number::<u8>(2)? == 1, due })
    }

    /// The log's clock, which goes by the one of Redis.
    pub fn now(&self) -> Timestamp {
        self.clock.steady()
    }

    /// Outbox ids that the log remembers, and its run: one that begins now remembers nothing.
    pub async fn relayed(&self, tenant: &TenantId) -> Result<(Run, Vec<i64>), BridgeError> {
        let (own, head) = (self.keys.of(tenant), self.call(&self.functions.head, tenant));
        let reply = Reply::of(self.commands.run_once::<Value>(&own, &head).await?)?;
        let key = &self.keys.all(tenant)[4];
        let ids = self.commands.run_once(key, redis::cmd("SMEMBERS").arg(key)).await?;
        Ok((self.run(tenant, &reply, (2, 4))?, ids))
    }

    /// Tells the other nodes what is no event.
    pub async fn tell_nodes(&self, notice: &NodeNotice) -> Result<(), BridgeError> {
        let channel = self.keys.nodes();
        let publish = redis::cmd(self.commands.publish()).arg(&channel).arg(write_notice(notice)).clone();
        self.commands.run::<i64>(&channel, &publish).await.map(drop)
    }

    fn call<'a>(&self, function: &'a Script, tenant: &TenantId) -> ScriptInvocation<'a> {
        let mut call = function.prepare_invoke();
        for key in self.keys.all(tenant) {
            call.key(key);
        }
        call.arg(Epoch::new(random_u64()).to_string());
        call
    }

    /// The run that answered; where the time is in the answer, and when the run began.
    fn run(&self, tenant: &TenantId, reply: &Reply, (now, born): (usize, usize)) -> Result<Run, BridgeError> {
        let time = |index| Ok::<_, BridgeError>(Timestamp::from_micros(reply.number(index)?));
        let config = self.commands.lookout.layout().config_of(&self.keys.of(tenant));
        Ok(Run { epoch: reply.epoch(0)?, config, now: time(now)?, born: time(born)? })
    }

    async fn carry_out(&self, tenant: &TenantId, call: &ScriptInvocation<'_>) -> Result<Reply, BridgeError> {
        Reply::of(self.commands.run::<Value>(&self.keys.of(tenant), call).await?)
    }

    /// The log's clock follows the one of Redis.
    pub async fn steer(&self) -> Result<(), BridgeError> {
        let asked = Instant::now();
        let time: Vec<String> = self.commands.run_anywhere(&redis::cmd("TIME")).await?;
        let waited = asked.elapsed();
        let parts: Vec<i64> = time.iter().filter_map(|part| part.parse().ok()).collect();
        if let [seconds, micros] = parts[..] {
            self.clock.steer(Timestamp::from_micros(seconds * 1_000_000 + micros).plus(waited / 2));
        }
        Ok(())
    }
}

/// Adds a request to an append's arguments; `mirror` is how other services hear of this cluster's events, if they do.
fn put(call: &mut ScriptInvocation<'_>, request: &Request, mirror: Option<&Mirror>) {
    // what this cluster has made itself comes from the outbox; what others made, and publishes, do not
    let mirror = mirror.filter(|_| request.outbox_id.is_some());
    match &request.idempotency {
        Some(own) => {
            let keep = own.keep.as_millis().max(1) as u64;
            call.arg(format!("{}\n{}", own.principal, own.key)).arg(&own.request_hash).arg(keep);
        }
        None => {
            call.arg("").arg("").arg(0);
        }
    }
    call.arg(request.outbox_id.map_or(String::new(), |id| id.to_string()));
    call.arg(request.groups.len());
    let origin = request.source.origin.as_ref().map_or(String::new(), |origin| origin.to_string());
    let waited = request.source.accepted.elapsed().as_micros() as u64;
    for group in &request.groups {
        call.arg(group.len());
        for event in group {
            let key = event.key.as_deref().unwrap_or_default();
            let (head, tail) = object_around(event);
            call.arg(event.topic.as_str()).arg(event.class.as_str());
            call.arg(format!("{}\0{key}", event.name.as_str()));
            call.arg(event.version.map_or(String::new(), |version| version.to_string()));
            call.arg(event.ttl.map_or(String::new(), |ttl| ttl.as_micros().to_string()));
            let dedup = event.dedup.as_ref();
            call.arg(dedup.map_or("", |dedup| &dedup.key));
            call.arg(dedup.map_or(0, |dedup| dedup.window.as_millis().max(1) as u64));
            call.arg(head).arg(&*event.data).arg(tail);
            call.arg(event.public.as_deref().unwrap_or_default()).arg(&origin).arg(waited);
            let (channel, message) =
                mirror.and_then(|own| own.message(event, request.mirrored.as_deref())).unwrap_or_default();
            call.arg(channel).arg(message);
        }
    }
}

/// The event object up to its id, and after its data.
fn object_around(event: &NewEvent) -> (String, String) {
    // event names and topics hold no character that JSON would have to escape
    let head = format!("{{\"event\":\"{}\",\"topic\":\"{}\"", event.name.as_str(), event.topic);
    let mut tail = String::new();
    if let Some(key) = &event.key {
        tail += ",\"key\":";
        tail += &serde_json::to_string(key).expect("a text");
    }
    if let Some(version) = event.version {
        tail += &format!(",\"version\":{version}");
    }
    (head, tail + "}")
}

fn answer(text: &str) -> Result<Answer, BridgeError> {
    let unexpected = || BridgeError::Unexpected(format!("an outcome {text:?}"));
    let outcomes = match text {
        "reused" => return Ok(Err(LogError::KeyReused)),
        "relayed" => return Ok(Ok(Vec::new())),
        own => own.strip_prefix("ok ").ok_or_else(unexpected)?,
    };
    let outcome = |text: &str| {
        let mut parts = text.split(':');
        match (parts.next()?, parts.next()?, parts.next()) {
            ("a", seq, Some(again)) => Some(Appended::At { seq: seq.parse().ok()?, duplicate: again == "1" }),
            ("s", stored, None) => Some(Appended::Stale { stored: stored.parse().ok()? }),
            _ => None,
        }
    };
    let outcomes = outcomes.split(',').filter(|text| !text.is_empty());
    Ok(Ok(outcomes.map(|text| outcome(text).ok_or_else(unexpected)).collect::<Result<_, _>>()?))
}

fn entries(values: &[Value]) -> Result<Vec<Entry>, BridgeError> {
    let fields: Vec<&[u8]> = values.iter().map(super::reply::bytes).collect::<Result<_, _>>()?;
    let read = |own: &[&[u8]]| Entry::read(own).map_err(|error| BridgeError::Unexpected(error.to_string()));
    fields.chunks(7).map(read).collect()
}

fn pairs(values: &[Value]) -> Result<Vec<(String, String)>, BridgeError> {
    values.chunks(2).map(|pair| Ok((text(&pair[0])?.to_owned(), text(&pair[1])?.to_owned()))).collect()
}
