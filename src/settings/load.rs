use std::path::PathBuf;

use toml::{Table, Value};

use super::Settings;
use super::error::SettingsError;
use super::validate::{Warning, validate};

/// `config/default.toml`, compiled in.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// What the command line adds on top of files and environment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// A configuration file instead of `config/{BONGSU_ENV}.toml`.
    pub file: Option<PathBuf>,
    /// `(section.key, value)` pairs that win over everything else.
    pub values: Vec<(&'static str, String)>,
}

/// Variables of other systems that are also read, below `BONGSU__…`.
const ALIASES: &[(&str, &str)] = &[
    ("DATABASE_URL", "storage.database_url"),
    ("REDIS_URL", "redis.url"),
    ("SERVER_ID", "server.server_id"),
    ("MAX_WORKERS", "server.workers"),
    ("LOG_LEVEL", "logging.level"),
    ("JWT_SECRET", "jwt.secret"),
    ("ALLOWED_ORIGINS", "cors.allowed_origins"),
    ("CORS_ORIGINS", "cors.allowed_origins"),
];

const ENVIRONMENT_PREFIX: &str = "BONGSU__";

/// Reads all layers and validates the whole; returns the settings and what is risky about them.
pub fn load(overrides: &Overrides) -> Result<(Settings, Vec<Warning>), SettingsError> {
    let mut layers = Layers(DEFAULTS.parse().expect("config/default.toml is TOML"));
    layers.add_file(overrides)?;
    if let Some(url) = redis_url(|name| std::env::var(name).ok()) {
        layers.set("redis.url", &url)?;
    }
    for (variable, key) in ALIASES {
        if let Ok(value) = std::env::var(variable) {
            layers.set(key, &value)?;
        }
    }
    let mut own: Vec<_> = std::env::vars()
        .filter_map(|(name, value)| Some((name.strip_prefix(ENVIRONMENT_PREFIX)?.to_owned(), value)))
        .collect();
    own.sort();
    for (name, value) in own {
        layers.set(&name.to_lowercase().replace("__", "."), &value)?;
    }
    for (key, value) in &overrides.values {
        layers.set(key, value)?;
    }
    let settings: Settings =
        layers.0.try_into().map_err(|error: toml::de::Error| invalid("value", error.message()))?;
    let warnings = validate(&settings)?;
    Ok((settings, warnings))
}

/// `REDIS_HOST`, `REDIS_PORT` and `REDIS_PASSWORD` as one address.
fn redis_url(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let host = variable("REDIS_HOST").filter(|host| !host.is_empty())?;
    let port = variable("REDIS_PORT").unwrap_or_else(|| "6379".to_owned());
    let password = variable("REDIS_PASSWORD").filter(|password| !password.is_empty());
    let password = password.map(|password| {
        format!(":{}@", percent_encoding::utf8_percent_encode(&password, percent_encoding::NON_ALPHANUMERIC))
    });
    Some(format!("redis://{}{host}:{port}", password.unwrap_or_default()))
}

fn invalid(key: &str, problem: impl Into<String>) -> SettingsError {
    SettingsError::Invalid { key: key.to_owned(), problem: problem.into() }
}

/// Whether the defaults head a section of this name: any other table is the value of an option.
fn is_section(name: &str) -> bool {
    DEFAULTS.lines().any(|line| line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) == Some(name))
}

/// The options so far: sections, some of them within another, and keys; always complete.
struct Layers(Table);

impl Layers {
    fn add_file(&mut self, overrides: &Overrides) -> Result<(), SettingsError> {
        let named = overrides.file.clone();
        let path = match (&named, std::env::var("BONGSU_ENV")) {
            (Some(path), _) => path.clone(),
            (None, Ok(name)) => PathBuf::from(format!("config/{name}.toml")),
            (None, Err(_)) => return Ok(()),
        };
        let problem = |problem: String| SettingsError::File { path: path.clone(), problem };
        let text = std::fs::read_to_string(&path).map_err(|error| problem(error.to_string()))?;
        let file: Table = text.parse().map_err(|error: toml::de::Error| problem(error.to_string()))?;
        for (section, options) in file {
            let Value::Table(options) = options else {
                return Err(self.unknown(&section));
            };
            self.add_section(&section, options)?;
        }
        Ok(())
    }

    fn add_section(&mut self, section: &str, options: Table) -> Result<(), SettingsError> {
        for (key, value) in options {
            let key = format!("{section}.{key}");
            match value {
                Value::Table(options) if is_section(&key) => self.add_section(&key, options)?,
                value => *self.slot(&key)? = value,
            }
        }
        Ok(())
    }

    /// Sets a key from text, read as the type that the key has.
    fn set(&mut self, key: &str, text: &str) -> Result<(), SettingsError> {
        let slot = self.slot(key)?;
        let value = match slot {
            Value::String(_) => Some(Value::String(text.to_owned())),
            Value::Integer(_) => text.trim().parse().ok().map(Value::Integer),
            Value::Boolean(_) => text.trim().parse().ok().map(Value::Boolean),
            Value::Float(_) => text.trim().parse().ok().map(Value::Float),
            Value::Array(_) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Some(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
            }
            Value::Table(_) if !is_section(key) => {
                let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
                let pair = |pair: &str| {
                    let (name, value) = pair.split_once('=')?;
                    Some((name.trim().to_owned(), Value::String(value.trim().to_owned())))
                };
                pairs.map(pair).collect::<Option<Table>>().map(Value::Table)
            }
            _ => None,
        };
        let kind = slot.type_str();
        *slot = value.ok_or_else(|| invalid(key, format!("must be of type {kind}")))?;
        Ok(())
    }

    fn slot(&mut self, key: &str) -> Result<&mut Value, SettingsError> {
        let unknown = self.unknown(key);
        let found = key.rsplit_once('.').filter(|(section, _)| is_section(section));
        let found = found.and_then(|(section, option)| {
            let section =
                section.split('.').try_fold(&mut self.0, |table, name| table.get_mut(name)?.as_table_mut());
            section?.get_mut(option)
        });
        found.ok_or(unknown)
    }

    fn unknown(&self, key: &str) -> SettingsError {
        let nearest = known("", &self.0)
            .into_iter()
            .map(|known| (strsim::jaro_winkler(&known, key), known))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let suggestion = nearest.filter(|(likeness, _)| *likeness > 0.8).map(|(_, known)| known);
        SettingsError::UnknownKey { key: key.to_owned(), suggestion }
    }
}

/// The keys of every option in these sections.
fn known(within: &str, sections: &Table) -> Vec<String> {
    let keys = sections.iter().flat_map(|(name, value)| {
        let key = format!("{within}{name}");
        match value {
            Value::Table(options) if is_section(&key) => known(&format!("{key}."), options),
            _ => vec![key],
        }
    });
    keys.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(text: &str) -> Result<(Settings, Vec<Warning>), SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bongsu.toml");
        std::fs::write(&file, text).unwrap();
        load(&Overrides { file: Some(file), values: vec![("server.bind", "127.0.0.1:0".into())] })
    }

    #[test]
    fn a_file_wins_over_the_defaults_and_a_flag_over_the_file() {
        let (settings, _) = with_file("[server]\nbind = \"127.0.0.1:1\"\nbacklog = 512").unwrap();
        assert_eq!((settings.server.bind.as_str(), settings.server.backlog), ("127.0.0.1:0", 512));
    }

    #[test]
    fn an_unknown_key_is_an_error_with_a_suggestion() {
        let error = with_file("[server]\nbacklogs = 1").unwrap_err().to_string();
        assert_eq!(error, "configuration: unknown key `server.backlogs`, did you mean `server.backlog`?");
    }

    #[test]
    fn a_section_within_another_and_an_option_that_is_a_table_are_read() {
        let text = "[redis.interop]\ntenant = \"acme\"\nchannels = {\"system-events\" = \"topic:system\"}";
        let (settings, _) = with_file(text).unwrap();
        let interop = settings.redis.interop;
        assert_eq!((interop.tenant.as_str(), interop.channels.len()), ("acme", 1));
        let (settings, _) = with_file("[redis.interop.channels]\na = \"topic:a\"\nb = \"topic:b\"").unwrap();
        assert_eq!(settings.redis.interop.channels["b"], "topic:b");
        let mut layers = Layers(DEFAULTS.parse().unwrap());
        layers.set("redis.interop.channels", "a=topic:a, b = topic:b").unwrap();
        let settings: Settings = layers.0.clone().try_into().unwrap();
        assert_eq!(
            settings.redis.interop.channels,
            [("a", "topic:a"), ("b", "topic:b")].map(|(a, b)| (a.into(), b.into())).into()
        );
        assert!(
            layers
                .set("redis.interop.channels", "a")
                .unwrap_err()
                .to_string()
                .contains("redis.interop.channels")
        );
        assert!(layers.set("redis.interop", "a=b").is_err());
        let error = with_file("[redis.interop]\ntenants = \"acme\"").unwrap_err().to_string();
        let expected = "unknown key `redis.interop.tenants`, did you mean `redis.interop.tenant`?";
        assert!(error.ends_with(expected), "{error}");
    }

    #[test]
    fn what_interop_is_to_do_is_checked() {
        for (text, key) in [
            ("tenant = \"a b\"", "redis.interop.tenant"),
            ("channels = {a = \"truck:1\"}", "redis.interop.channels"),
            ("channels = {\"\" = \"topic:a\"}", "redis.interop.channels"),
            ("channels = {\"user-events\" = \"topic:a\"}", "redis.interop.channels"),
            ("channels = {\"bongsu:{default}:live\" = \"topic:a\"}", "redis.interop.channels"),
        ] {
            let error = with_file(&format!("[redis.interop]\n{text}")).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        assert!(
            with_file("[redis]\nmirror_user_events = [\"*a\"]")
                .unwrap_err()
                .to_string()
                .contains("mirror_user")
        );
    }

    #[test]
    fn the_parts_of_an_address_of_redis_are_put_together() {
        let of = |given: &'static [(&str, &str)]| {
            redis_url(|name| given.iter().find(|own| own.0 == name).map(|own| own.1.to_owned()))
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("REDIS_HOST", "r")]).as_deref(), Some("redis://r:6379"));
        let all = &[("REDIS_HOST", "r"), ("REDIS_PORT", "7"), ("REDIS_PASSWORD", "a@b")];
        assert_eq!(of(all).as_deref(), Some("redis://:a%40b@r:7"));
    }

    #[test]
    fn wrong_types_and_ranges_name_the_key() {
        assert!(with_file("[server]\nbacklog = 1").unwrap_err().to_string().contains("server.backlog"));
        assert!(with_file("[server]\nbacklog = \"x\"").unwrap_err().to_string().contains("invalid type"));
        assert!(with_file("not toml").unwrap_err().to_string().contains("bongsu.toml"));
    }
}
