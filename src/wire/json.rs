use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::domain::{Refusal, RefusalKind};

/// JSON text without its insignificant white space, numbers and keys exactly as sent.
///
/// Afterwards it holds no CR or LF: inside JSON strings they are illegal (RFC 8259 §7), outside they
/// are white space. So it fits on one `data:` line.
pub fn compact(raw: &RawValue) -> Arc<str> {
    let text = raw.get();
    let mut out = String::with_capacity(text.len());
    let mut in_string = false;
    let mut escaped = false;
    for character in text.chars() {
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if matches!(character, ' ' | '\t' | '\r' | '\n') {
            continue;
        } else {
            in_string = character == '"';
        }
        out.push(character);
    }
    out.into()
}

/// Reads JSON; what cannot be read is malformed, what has a wrong field is invalid and names it.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        explain(path, error.into_inner())
    })?;
    reader.end().map_err(|error| explain(String::new(), error))?;
    Ok(value)
}

fn explain(path: String, error: serde_json::Error) -> Refusal {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    if !error.is_data() {
        return Refusal::new(RefusalKind::Malformed, "malformed_json", message);
    }
    let named = message.split('`').nth(1);
    let field = match named {
        Some(name) if message.starts_with("unknown field") || message.starts_with("missing field") => {
            let parent = path.trim_end_matches('.').trim_end_matches(name).trim_end_matches('.');
            if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") }
        }
        _ => path,
    };
    let code = if message.starts_with("unknown field") { "unknown_field" } else { "invalid_field" };
    Refusal { code, ..Refusal::invalid(&shortened(&field), shortened(message)) }
}

/// A text that may repeat what it is about, without its middle where that is long.
fn shortened(text: &str) -> String {
    const HALF: usize = 100;
    let start = text.char_indices().nth(HALF).map_or(text.len(), |(at, _)| at);
    let end = text.char_indices().rev().nth(HALF - 1).map_or(0, |(at, _)| at);
    if end <= start { text.to_owned() } else { format!("{}…{}", &text[..start], &text[end..]) }
}

/// The fields of an object without those of this name, as they are and in their order, each after a comma; None: it
/// is no object.
pub fn fields_without(text: &str, name: &str) -> Option<String> {
    struct Without<'a>(&'a str);

    impl<'de> Visitor<'de> for Without<'_> {
        type Value = String;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<String, A::Error> {
            let mut kept = String::new();
            while let Some((name, value)) = fields.next_entry::<String, &RawValue>()? {
                if name != self.0 {
                    let name = serde_json::Value::from(name);
                    let _ = write!(kept, ",{name}:{value}");
                }
            }
            Ok(kept)
        }
    }

    serde_json::Deserializer::from_str(text).deserialize_map(Without(name)).ok()
}

/// A decimal as a JSON number, digit by digit.
pub fn number(value: impl std::fmt::Display) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).expect("a decimal prints as a JSON number")
}

/// Whether a text's brackets nest deeper than `limit`: `[[1]]` is 2 deep.
///
/// Looked at before it is read: what is only passed on (`data` of an event) is never parsed here, and whoever
/// does so later may not bear any depth.
pub fn is_deeper_than(text: &[u8], limit: usize) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in text {
        match byte {
            _ if std::mem::take(&mut escaped) => {}
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    fn compacted(text: &str) -> Arc<str> {
        compact(&RawValue::from_string(text.to_owned()).unwrap())
    }

    #[test]
    fn a_refusal_repeats_little_of_what_it_is_about() {
        let long = format!("\"{}\"", "봉".repeat(100_000));
        let refusal = parse::<u8>(long.as_bytes()).unwrap_err();
        assert!(refusal.detail.chars().count() < 300, "{}", refusal.detail);
        assert!(refusal.detail.contains("invalid type: string \"봉봉"), "{}", refusal.detail);
        assert!(refusal.detail.ends_with("봉\", expected u8"), "{}", refusal.detail);
        assert_eq!(shortened(&"x".repeat(200)), "x".repeat(200));
        assert_eq!(shortened(&"x".repeat(201)), format!("{0}…{0}", "x".repeat(100)));
    }

    #[test]
    fn white_space_goes_and_everything_else_stays() {
        let text = "{ \"a \\\" b\\\\\" :\r\n\t[1.000000000000000000001, \"\\n\" ] }";
        assert_eq!(&*compacted(text), "{\"a \\\" b\\\\\":[1.000000000000000000001,\"\\n\"]}");
    }

    proptest! {
        #[test]
        fn compaction_keeps_the_value(strings in prop::collection::vec(".{0,12}", 0..6), number: i64) {
            let value = serde_json::json!({"strings": strings, "number": number});
            let out = compacted(&serde_json::to_string_pretty(&value).unwrap());
            prop_assert!(!out.contains(['\r', '\n']));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap(), value);
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its reading is tested")]
    struct Inner {
        n: u8,
        raw: Option<Box<RawValue>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its reading is tested")]
    struct Outer {
        items: Vec<Inner>,
    }

    fn refusal(text: &str) -> (RefusalKind, &'static str, Vec<String>) {
        let refusal = parse::<Outer>(text.as_bytes()).unwrap_err();
        (refusal.kind, refusal.code, refusal.fields.into_iter().map(|(field, _)| field).collect())
    }

    #[test]
    fn errors_name_their_field() {
        assert!(parse::<Outer>(b"{\"items\":[{\"n\":1,\"raw\":{\"a\": 1.50}}]}").is_ok());
        assert_eq!(refusal("{\"itemz\":[]}"), (RefusalKind::Invalid, "unknown_field", vec!["itemz".into()]));
        assert_eq!(refusal("{}"), (RefusalKind::Invalid, "invalid_field", vec!["items".into()]));
        assert_eq!(refusal("{\"items\":[{\"n\":300}]}").2, ["items[0].n"]);
        assert_eq!(refusal("{\"items\":[{\"n\":1,\"x\":2}]}").2, ["items[0].x"]);
        for text in ["", "{", "{\"items\":[]} x", "nope", &"[".repeat(1000)] {
            assert_eq!(
                refusal(text).0,
                if text.starts_with('[') { RefusalKind::Invalid } else { RefusalKind::Malformed },
                "{text}"
            );
        }
    }

    fn depth(value: &serde_json::Value) -> usize {
        match value {
            serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
            serde_json::Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
            _ => 0,
        }
    }

    fn value() -> impl proptest::strategy::Strategy<Value = serde_json::Value> {
        use proptest::prelude::*;
        let text = "[\\[\\]{}\"\\\\a,:]{0,6}";
        let leaf = prop_oneof![Just(serde_json::Value::Null), text.prop_map(serde_json::Value::from)];
        leaf.prop_recursive(6, 30, 3, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(serde_json::Value::from),
                prop::collection::btree_map(text, inner, 0..3)
                    .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn the_depth_of_a_text_is_that_of_its_value(value in value()) {
            let (text, depth) = (value.to_string(), depth(&value));
            proptest::prop_assert!(!is_deeper_than(text.as_bytes(), depth));
            proptest::prop_assert!(depth == 0 || is_deeper_than(text.as_bytes(), depth - 1));
        }
    }
}
