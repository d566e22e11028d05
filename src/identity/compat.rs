//! Requests without credentials that configured deployments take all the same, and on which paths.

use std::net::IpAddr;

use ipnet::IpNet;

use super::authenticator::Presented;
use super::{Principal, User};
use crate::domain::{Refusal, TenantId, UserSub};
use crate::settings;

/// Where `compat.anonymous_user` counts: these paths and what lies below them.
const ANONYMOUS_PATHS: &[&str] =
    &["/events/sse", "/api/events/sse", "/events/status", "/accounts", "/snapshots"];
/// Where `compat.trust_identity_headers` counts.
const TRUSTED_PATHS: &[&str] = &["/api"];

/// Who is believed without credentials.
#[derive(Clone, Debug, Default)]
pub struct Compat {
    anonymous: Option<UserSub>,
    proxies: Vec<IpNet>,
}

impl From<&settings::Compat> for Compat {
    fn from(own: &settings::Compat) -> Self {
        Compat {
            anonymous: UserSub::parse(&own.anonymous_user).ok(),
            proxies: own.trust_identity_headers.iter().filter_map(|cidr| cidr.parse().ok()).collect(),
        }
    }
}

impl Compat {
    /// Who sends a request that shows no credentials; None when nobody is to be believed.
    pub(super) fn recognise(&self, presented: &Presented<'_>) -> Result<Option<Principal>, Refusal> {
        if let (Some(tenant), Some(sub)) = (presented.tenant, presented.user)
            && is_below(TRUSTED_PATHS, presented.path)
            && presented.peer.is_some_and(|peer| self.is_proxy(peer))
        {
            let tenant = TenantId::parse(tenant).map_err(|error| Refusal::malformed("x-tenant-id", error))?;
            let sub = UserSub::parse(sub).map_err(|error| Refusal::malformed("x-user-id", error))?;
            return Ok(Some(Principal::user(tenant, User::plain(sub))));
        }
        let anonymous = self.anonymous.clone().filter(|_| !presented.names_somebody());
        Ok(anonymous
            .filter(|_| is_below(ANONYMOUS_PATHS, presented.path))
            .map(|sub| Principal::user(TenantId::default_tenant(), User::plain(sub))))
    }

    fn is_proxy(&self, peer: IpAddr) -> bool {
        self.proxies.iter().any(|own| own.contains(&peer.to_canonical()))
    }
}

fn is_below(paths: &[&str], path: &str) -> bool {
    let is_rest = |rest: &str| rest.is_empty() || rest.starts_with('/');
    paths.iter().any(|own| path.strip_prefix(own).is_some_and(is_rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compat(anonymous: &str, proxies: &[&str]) -> Compat {
        Compat::from(&settings::Compat {
            anonymous_user: anonymous.into(),
            trust_identity_headers: proxies.iter().map(|cidr| (*cidr).to_owned()).collect(),
        })
    }

    fn recognised(compat: &Compat, path: &str, peer: &str, names: Option<(&str, &str)>) -> Option<String> {
        let presented = Presented {
            path,
            peer: Some(peer.parse().unwrap()),
            tenant: names.map(|(tenant, _)| tenant),
            user: names.map(|(_, user)| user),
            ..Presented::default()
        };
        let principal = compat.recognise(&presented).unwrap()?;
        assert!(principal.key_id.is_none() && principal.scopes.is_empty());
        Some(format!("{}/{}", principal.tenant.unwrap(), principal.user.unwrap().sub))
    }

    #[test]
    fn by_default_nobody_is_believed_without_credentials() {
        for path in ["/events/sse", "/accounts", "/api/sse", "/v2/fleets", "/"] {
            for names in [None, Some(("acme", "kim"))] {
                assert_eq!(recognised(&compat("", &[]), path, "127.0.0.1", names), None, "{path}");
            }
        }
    }

    #[test]
    fn the_anonymous_user_is_one_on_its_paths_only() {
        let own = compat("123", &[]);
        for path in
            ["/events/sse", "/api/events/sse", "/events/status", "/accounts", "/accounts/7", "/snapshots"]
        {
            assert_eq!(recognised(&own, path, "192.0.2.1", None).as_deref(), Some("default/123"), "{path}");
            // somebody who is named is not the anonymous user
            assert_eq!(recognised(&own, path, "192.0.2.1", Some(("acme", "kim"))), None, "{path}");
        }
        for path in ["/events", "/accountsx", "/api/sse", "/api/accounts", "/v2/fleets", "/v2/accounts", ""] {
            assert_eq!(recognised(&own, path, "192.0.2.1", None), None, "{path}");
        }
    }

    #[test]
    fn identity_headers_are_believed_from_listed_proxies_on_api_paths_only() {
        let own = compat("", &["10.0.0.0/8", "fd00::/8"]);
        let kim = Some(("acme", "kim"));
        for peer in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1"] {
            assert_eq!(recognised(&own, "/api/sse", peer, kim).as_deref(), Some("acme/kim"), "{peer}");
            assert_eq!(recognised(&own, "/v2/fleets", peer, kim), None);
            assert_eq!(recognised(&own, "/apis", peer, kim), None);
            assert_eq!(recognised(&own, "/api/sse", peer, None), None);
        }
        for peer in ["11.0.0.1", "::1", "127.0.0.1"] {
            assert_eq!(recognised(&own, "/api/sse", peer, kim), None, "{peer}");
        }
        let presented = Presented {
            path: "/api/sse",
            peer: Some("10.0.0.1".parse().unwrap()),
            tenant: Some("a b"),
            user: Some("kim"),
            ..Presented::default()
        };
        assert!(own.recognise(&presented).is_err(), "a malformed name is nobody's");
    }
}
