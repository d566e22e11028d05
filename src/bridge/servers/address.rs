//! What `redis.url` says.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

use super::layout::Server;

/// What kind of Redis there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::bridge) enum Kind {
    /// One server.
    Single,
    /// Sentinels name the master of a service.
    Sentinel { service: String },
    /// Slots are shared out among masters.
    Cluster,
}

/// Where Redis is asked for first, and how one connects and logs in.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub kind: Kind,
    /// The server, the sentinels, or some of the cluster's servers.
    pub seeds: Vec<Server>,
    /// A connection to the first of them.
    pub template: ConnectionInfo,
}

const SENTINEL_PORT: u16 = 26379;

impl Address {
    /// `redis[s]://[user:password@]host[:port][/db]`, `redis[s]+cluster://[…@]host[:port],host…`, or
    /// `redis[s]+sentinel://[…@]host[:port],host…/service[/db]`; the error is for the operator, without secrets.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("it has no scheme")?;
        let (scheme, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        if kind.is_empty() {
            let template = connection(url)?;
            return Ok(Address { kind: Kind::Single, seeds: vec![server(&template)?], template });
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (format!("{login}@"), hosts),
            None => (String::new(), authority),
        };
        let (kind, database, port) = match kind {
            "sentinel" => {
                let (service, database) = path.split_once('/').unwrap_or((path, ""));
                if service.is_empty() {
                    return Err("it names no service: redis+sentinel://host:26379/service".into());
                }
                (Kind::Sentinel { service: service.into() }, database, Some(SENTINEL_PORT))
            }
            "cluster" if matches!(path, "" | "0") => (Kind::Cluster, "", None),
            "cluster" => return Err("a cluster has no databases".into()),
            other => return Err(format!("there is no kind of Redis called {other:?}")),
        };
        let of = |host: &str| {
            let port = port.filter(|_| !has_port(host)).map_or(String::new(), |port| format!(":{port}"));
            connection(&format!("{scheme}://{login}{host}{port}/{database}"))
        };
        let all = hosts.split(',').map(of).collect::<Result<Vec<_>, _>>()?;
        let seeds = all.iter().map(server).collect::<Result<_, _>>()?;
        let template = all.into_iter().next().ok_or("it names no host")?;
        Ok(Address { kind, seeds, template })
    }

    /// Whether somebody on the way could read what is sent. Sentinels and servers of a cluster name others, wherever those are.
    pub fn is_plain(&self) -> bool {
        let is_own = |server: &Server| ["localhost", "127.0.0.1", "::1"].contains(&server.host.as_str());
        let stays_here = self.kind == Kind::Single && self.seeds.iter().all(is_own);
        matches!(self.template.addr(), ConnectionAddr::Tcp(..)) && !stays_here
    }
}

fn connection(url: &str) -> Result<ConnectionInfo, String> {
    url.into_connection_info().map_err(|error| error.to_string())
}

fn server(info: &ConnectionInfo) -> Result<Server, String> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Ok(Server { host: host.clone(), port: *port })
        }
        _ => Err("it is no address of TCP".into()),
    }
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds(address: &Address) -> Vec<String> {
        address.seeds.iter().map(Server::to_string).collect()
    }

    #[test]
    fn every_kind_of_redis_has_its_address() {
        let single = Address::parse("rediss://u:p%40@h:7/3").unwrap();
        assert_eq!((single.kind.clone(), seeds(&single)), (Kind::Single, vec!["h:7".to_owned()]));
        let login = single.template.redis_settings();
        assert_eq!((login.username(), login.password(), login.db()), (Some("u"), Some("p@"), 3));
        assert!(matches!(single.template.addr(), ConnectionAddr::TcpTls { .. }) && !single.is_plain());

        let sentinels = Address::parse("redis+sentinel://u:p%2C@a,b:5,[::1]/main/2").unwrap();
        assert_eq!(sentinels.kind, Kind::Sentinel { service: "main".into() });
        assert_eq!(seeds(&sentinels), ["a:26379", "b:5", "[::1]:26379"]);
        let login = sentinels.template.redis_settings();
        assert_eq!((login.username(), login.password(), login.db()), (Some("u"), Some("p,"), 2));
        assert!(sentinels.is_plain());

        let cluster = Address::parse("rediss+cluster://:secret@a:1,b:2").unwrap();
        assert_eq!(
            (cluster.kind.clone(), seeds(&cluster)),
            (Kind::Cluster, vec!["a:1".into(), "b:2".into()])
        );
        assert_eq!(cluster.template.redis_settings().password(), Some("secret"));
        assert!(!cluster.is_plain() && Address::parse("redis+cluster://localhost:1").unwrap().is_plain());
        assert!(!Address::parse("redis://localhost:1").unwrap().is_plain());
    }

    #[test]
    fn what_is_wrong_is_named_without_the_password() {
        for (url, part) in [
            ("redis+sentinel://:secret@a:1", "names no service"),
            ("redis+cluster://:secret@a:1/3", "no databases"),
            ("redis+ring://:secret@a:1", "\"ring\""),
            ("redis+cluster://:secret@a:99999", ""),
            ("redis+cluster://:secret@", ""),
            ("secret", "no scheme"),
        ] {
            let error = Address::parse(url).unwrap_err();
            assert!(error.contains(part) && !error.contains("secret"), "{url}: {error}");
        }
    }
}
