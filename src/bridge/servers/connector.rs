use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ProtocolVersion, RedisConnectionInfo,
    TlsCertificates,
};

use super::address::{Address, Kind};
use super::ear::Ear;
use super::layout::Server;
use crate::bridge::error::BridgeError;

/// How Redis is reached.
#[derive(Clone, Debug)]
pub struct Access {
    /// `redis://…`, `redis+sentinel://…` or `redis+cluster://…`; `rediss` for TLS.
    pub url: String,
    /// How long a command may take.
    pub patience: Duration,
    /// PEM file of the authorities that its certificate may be of; empty: those of the system.
    pub tls_ca: PathBuf,
    /// Whether plain text is refused, except on this machine.
    pub require_tls: bool,
    /// User and password of the sentinels, where they ask for one.
    pub sentinel_login: (String, String),
}

/// Connects to any server that belongs to a Redis.
#[derive(Clone)]
pub(in crate::bridge) struct Connector {
    address: Address,
    sentinel_login: RedisConnectionInfo,
    authorities: Option<Arc<[u8]>>,
    patience: Duration,
}

impl Connector {
    /// Connects to nothing yet; what is wrong is named.
    pub fn new(access: &Access) -> Result<Self, BridgeError> {
        let refused = |problem: String| BridgeError::Refused(format!("it cannot be read: {problem}"));
        let address = Address::parse(&access.url).map_err(refused)?;
        if access.require_tls && address.is_plain() {
            let problem = "it connects in plain text, which redis.require_tls forbids: write rediss://";
            return Err(BridgeError::Refused(problem.into()));
        }
        let authorities = match access.tls_ca.as_os_str().is_empty() {
            true => None,
            false => Some(std::fs::read(&access.tls_ca).map_err(|error| unreadable(access, &error))?.into()),
        };
        let mut sentinel_login = RedisConnectionInfo::default();
        let (user, password) = &access.sentinel_login;
        if !user.is_empty() {
            sentinel_login = sentinel_login.set_username(user);
        }
        if !password.is_empty() {
            sentinel_login = sentinel_login.set_password(password);
        }
        let own = Connector { address, sentinel_login, authorities, patience: access.patience };
        // certificates that make no sense are named now
        own.client(&own.address.seeds[0], own.login().clone()).map_err(|error| unreadable(access, &error))?;
        Ok(own)
    }

    pub fn kind(&self) -> &Kind {
        &self.address.kind
    }

    /// The server, the sentinels, or some servers of the cluster.
    pub fn seeds(&self) -> &[Server] {
        &self.address.seeds
    }

    /// How long a command may take.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// A connection for commands.
    pub async fn link(&self, server: &Server) -> Result<MultiplexedConnection, BridgeError> {
        self.connect(server, self.login().clone()).await
    }

    /// A connection to a sentinel.
    pub async fn sentinel(&self, server: &Server) -> Result<MultiplexedConnection, BridgeError> {
        self.connect(server, self.sentinel_login.clone()).await
    }

    /// A connection on which messages are heard.
    pub async fn ear(&self, server: &Server) -> Result<Ear, BridgeError> {
        let client = self.client(server, self.login().clone().set_protocol(ProtocolVersion::RESP3))?;
        Ear::open(&client, self.config()).await
    }

    async fn connect(
        &self,
        server: &Server,
        login: RedisConnectionInfo,
    ) -> Result<MultiplexedConnection, BridgeError> {
        let client = self.client(server, login)?;
        Ok(client.get_multiplexed_async_connection_with_config(&self.config()).await?)
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.patience))
            .set_response_timeout(Some(self.patience))
    }

    fn login(&self) -> &RedisConnectionInfo {
        self.address.template.redis_settings()
    }

    fn client(&self, server: &Server, login: RedisConnectionInfo) -> Result<Client, redis::RedisError> {
        let template = &self.address.template;
        let (host, port) = (server.host.clone(), server.port);
        let to = match template.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        let tcp = template.tcp_settings().clone().set_nodelay(true);
        let info: ConnectionInfo =
            template.clone().set_addr(to).set_redis_settings(login).set_tcp_settings(tcp);
        let Some(authorities) = &self.authorities else { return Client::open(info) };
        let certificates = TlsCertificates { client_tls: None, root_cert: Some(authorities.to_vec()) };
        Client::build_with_tls(info, certificates)
    }
}

fn unreadable(access: &Access, error: &dyn Display) -> BridgeError {
    match access.tls_ca.as_os_str().is_empty() {
        true => BridgeError::Refused(format!("it cannot be read: {error}")),
        false => BridgeError::Refused(format!("redis.tls_ca {}: {error}", access.tls_ca.display())),
    }
}
