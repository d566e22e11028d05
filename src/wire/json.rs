use serde_json::value::RawValue;

/// JSON text without its insignificant white space, numbers and keys exactly as sent.
///
/// Afterwards it holds no CR or LF: inside JSON strings they are illegal (RFC 8259 §7), outside they
/// are white space. So it fits on one `data:` line.
pub fn compact(raw: &RawValue) -> Box<str> {
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
    out.into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compacted(text: &str) -> Box<str> {
        compact(&RawValue::from_string(text.to_owned()).unwrap())
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
}
