use crate::domain::TenantId;

/// How everything of the cluster is named in Redis: `<prefix>{<tenant>}:…`, one hash slot a tenant.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        Keys { prefix: prefix.to_owned() }
    }

    /// What the names of a tenant's keys begin with.
    pub fn of(&self, tenant: &TenantId) -> String {
        format!("{}{{{tenant}}}:", self.prefix)
    }

    /// The keys that every function on a tenant's log is given, in order.
    pub fn all(&self, tenant: &TenantId) -> [String; 7] {
        ["meta", "log", "versions", "floors", "relayed", "volatile", "absent"]
            .map(|name| self.of(tenant) + name)
    }

    /// The channel on which a tenant's events reach the nodes.
    pub fn live(&self, tenant: &TenantId) -> String {
        self.of(tenant) + "live"
    }

    /// The tenant whose live channel this is.
    pub fn tenant_of(&self, channel: &str) -> Option<TenantId> {
        let inner = channel.strip_prefix(&self.prefix)?.strip_prefix('{')?;
        TenantId::parse(inner.strip_suffix("}:live")?).ok()
    }

    /// Matches every key of the cluster (glob, as Redis reads it).
    pub fn pattern(&self) -> String {
        let special = |character| matches!(character, '*' | '?' | '[' | ']' | '\\' | '^');
        let mut pattern = String::new();
        for character in self.prefix.chars() {
            pattern.extend(special(character).then_some('\\'));
            pattern.push(character);
        }
        pattern + "*"
    }

    /// Whether a key is one that this program writes.
    pub fn is_own(&self, key: &str) -> bool {
        const NAMES: [&str; 8] =
            ["meta", "log", "versions", "floors", "relayed", "volatile", "answer", "dedup"];
        if [self.trims(), self.ingest(), self.figures()].iter().any(|own| own == key) {
            return true;
        }
        let inner = key.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix('{'));
        let Some((tenant, name)) = inner.and_then(|inner| inner.split_once("}:")) else {
            return false;
        };
        let name = name.split(':').next().unwrap_or_default();
        TenantId::parse(tenant).is_ok() && NAMES.contains(&name)
    }

    /// The channel on which nodes tell each other what is no event.
    pub fn nodes(&self) -> String {
        format!("{}nodes", self.prefix)
    }

    /// The sorted set of logs by when they are to be trimmed, µs.
    pub fn trims(&self) -> String {
        format!("{}trims", self.prefix)
    }

    /// Until when what other services publish was last heard by a node, µs.
    pub fn ingest(&self) -> String {
        format!("{}ingest", self.prefix)
    }

    /// What each node did lately, and all of them since this was made.
    pub fn figures(&self) -> String {
        format!("{}figures", self.prefix)
    }

    /// What other services know this cluster by.
    pub fn source(&self) -> &str {
        &self.prefix
    }

    /// The channel on which a node hears itself; where there are slots, in that of a hash tag.
    pub fn probe(&self, tag: &str, server_id: &str) -> String {
        match tag.is_empty() {
            true => format!("{}probe:{server_id}", self.prefix),
            false => format!("{}{{{tag}}}:probe:{server_id}", self.prefix),
        }
    }

    /// The same on the connection on which other services are heard.
    pub fn ingest_probe(&self, server_id: &str) -> String {
        format!("{}ingest:{server_id}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_found_in_the_name_of_its_channel() {
        let (keys, tenant) = (Keys::new("bongsu:"), TenantId::parse("acme").unwrap());
        assert_eq!(keys.all(&tenant)[1], "bongsu:{acme}:log");
        assert_eq!(keys.live(&tenant), "bongsu:{acme}:live");
        assert_eq!(keys.tenant_of(&keys.live(&tenant)), Some(tenant));
        for other in [
            "bongsu:{acme}:log",
            "bongsu:{}:live",
            "other:{acme}:live",
            "bongsu:probe:n",
            "bongsu:{1}:probe:n",
            "",
        ] {
            assert_eq!(keys.tenant_of(other), None, "{other}");
        }
    }
}
