use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::address::parse_network;
use super::admission::MaxConnections;
use super::bucket::Rate;
use crate::settings::{Limits, Settings};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The limits in force; a rate that is None is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Unauthenticated or failed connection attempts of one address.
    pub attempts: Option<Rate>,
    /// Networks that no limit per address applies to.
    pub exempt: Vec<IpNet>,
    /// Longest delay of the answer to a failure.
    pub failure_delay_max: Duration,
    /// Answers that may be delayed at a time.
    pub delayed_answers: usize,
    /// Connections that one user opens.
    pub user_connects: Option<Rate>,
    /// Connections opened with one key.
    pub key_connects: Option<Rate>,
    /// Commands of one user.
    pub user_commands: Option<Rate>,
    /// Commands with one key.
    pub key_commands: Option<Rate>,
    /// Events that one user publishes.
    pub user_publishes: Option<Rate>,
    /// Events published with one key.
    pub key_publishes: Option<Rate>,
    /// Events published to one topic.
    pub topic_publishes: Option<Rate>,
    /// Events published in one tenant.
    pub tenant_events: Option<Rate>,
    /// Open connections.
    pub connections: MaxConnections,
}

impl Rules {
    /// Reads them from the options.
    pub fn of(settings: &Settings) -> Self {
        let own: &Limits = &settings.limits;
        let rate = |per_s: u32, burst: u32| Rate::new(per_s, SECOND).map(|rate| rate.with_burst(burst));
        Rules {
            attempts: Rate::new(own.attempts_per_min, MINUTE),
            exempt: own.exempt.iter().filter_map(|text| parse_network(text)).collect(),
            failure_delay_max: Duration::from_millis(own.failure_delay_max_ms),
            delayed_answers: own.delayed_answers,
            user_connects: Rate::new(own.user_connects_per_min, MINUTE),
            key_connects: Rate::new(own.key_connects_per_min, MINUTE),
            user_commands: rate(own.user_commands_per_s, own.user_commands_burst),
            key_commands: rate(own.key_commands_per_s, own.key_commands_burst),
            user_publishes: rate(own.user_publishes_per_s, own.user_publishes_burst),
            key_publishes: rate(own.key_publishes_per_s, own.key_publishes_burst),
            topic_publishes: rate(own.topic_publishes_per_s, own.topic_publishes_burst),
            tenant_events: Rate::new(own.tenant_events_per_min, MINUTE),
            connections: MaxConnections {
                node: own.connections_per_node,
                tenant: own.connections_per_tenant,
                user: own.connections_per_user,
                address: own.connections_per_address,
            },
        }
    }

    /// Whether the limits per address do not apply to this one.
    pub fn exempts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.exempt.iter().any(|network| network.contains(&address))
    }
}
