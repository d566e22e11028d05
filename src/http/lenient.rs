use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::domain::Refusal;
use crate::telemetry::Metrics;
use crate::wire::parse;

/// Reads what the client of a replaced system sends: fields that nobody knows are left out and counted.
pub fn lenient<T: DeserializeOwned>(
    metrics: &Metrics,
    surface: &'static str,
    sent: &RawValue,
    known: &[&str],
) -> Result<T, Refusal> {
    if !sent.get().starts_with('{') {
        return parse(sent.get().as_bytes());
    }
    let mut fields: BTreeMap<String, Box<RawValue>> = parse(sent.get().as_bytes())?;
    let all = fields.len();
    fields.retain(|name, _| known.contains(&name.as_str()));
    metrics.ignored_fields(surface, (all - fields.len()) as u64);
    parse(&serde_json::to_vec(&fields).expect("it was JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Known {
        name: String,
    }

    #[test]
    fn fields_that_nobody_knows_are_left_out_and_counted() {
        let metrics = Metrics::default();
        let read = |text: &str| {
            let sent = RawValue::from_string(text.to_owned()).unwrap();
            lenient::<Known>(&metrics, "test", &sent, &["name"])
        };
        assert_eq!(read(r#"{"colour":1,"name":"a","size":{}}"#).unwrap().name, "a");
        assert!(metrics.render().contains("bongsu_ignored_fields_total{surface=\"test\"} 2"));
        assert_eq!(read(r#"{"colour":1}"#).unwrap_err().fields[0].0, "name");
        assert!(read("[]").is_err() && read("1").is_err());
    }
}
