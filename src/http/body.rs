use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{FromRequest, HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;

use super::auth::authenticate;
use super::{Problem, Services};
use crate::domain::{Refusal, RefusalKind};
use crate::identity::{Principal, hash_hex};

/// A JSON request body and its sender: bounded in bytes and time, unknown fields refused by name.
///
/// Whoever cannot be identified is told so before a byte of the body is read.
pub struct JsonBody<T> {
    /// Who sends it.
    pub principal: Principal,
    /// What it says.
    pub value: T,
    /// SHA-256 of its bytes, for idempotency.
    pub hash: String,
}

impl<T: DeserializeOwned + 'static> FromRequest for JsonBody<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let services = services(&request);
            let limits = &services.settings.server;
            let principal = authenticate(&request).await?;
            is_json(&request)?;
            let patience = Duration::from_millis(limits.request_body_timeout_ms);
            let read = tokio::time::timeout(patience, read(payload, &request, limits.max_body_bytes)).await;
            let bytes = read.map_err(|_| {
                Refusal::new(
                    RefusalKind::Timeout,
                    "body_timeout",
                    "the request body did not arrive in time",
                )
            })??;
            Ok(JsonBody {
                principal,
                value: parse(&bytes)?,
                hash: hash_hex(&bytes),
            })
        })
    }
}

/// The engine's services, which every request carries.
pub fn services(request: &HttpRequest) -> &Services {
    request
        .app_data::<web::Data<Services>>()
        .expect("set by the engine")
}

fn is_json(request: &HttpRequest) -> Result<(), Refusal> {
    let value = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = "the content type must be application/json";
    Err(Refusal::new(
        RefusalKind::UnsupportedType,
        "unsupported_type",
        detail,
    ))
}

async fn read(mut payload: Payload, request: &HttpRequest, limit: usize) -> Result<Bytes, Refusal> {
    let too_large = || {
        let detail = format!("the request body is larger than {limit} bytes");
        Refusal::new(RefusalKind::TooLarge, "body_too_large", detail)
    };
    let announced = request
        .headers()
        .get("content-length")
        .and_then(|value| value.to_str().ok());
    if announced
        .and_then(|text| text.parse::<usize>().ok())
        .is_some_and(|length| length > limit)
    {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| {
            Refusal::new(
                RefusalKind::Malformed,
                "incomplete_body",
                "the request body ended early",
            )
        })?;
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Reads JSON; what cannot be read is 400, what has a wrong field is 422 and names it.
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
    let message = message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(message, _)| message);
    if !error.is_data() {
        return Refusal::new(RefusalKind::Malformed, "malformed_json", message);
    }
    let named = message.split('`').nth(1);
    let field = match named {
        Some(name) if message.starts_with("unknown field") || message.starts_with("missing field") => {
            let parent = path
                .trim_end_matches('.')
                .trim_end_matches(name)
                .trim_end_matches('.');
            if parent.is_empty() {
                name.to_owned()
            } else {
                format!("{parent}.{name}")
            }
        }
        _ => path,
    };
    let code = if message.starts_with("unknown field") {
        "unknown_field"
    } else {
        "invalid_field"
    };
    Refusal {
        code,
        ..Refusal::invalid(&field, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::value::RawValue;

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
        (
            refusal.kind,
            refusal.code,
            refusal.fields.into_iter().map(|(field, _)| field).collect(),
        )
    }

    #[test]
    fn errors_name_their_field() {
        assert!(parse::<Outer>(b"{\"items\":[{\"n\":1,\"raw\":{\"a\": 1.50}}]}").is_ok());
        assert_eq!(
            refusal("{\"itemz\":[]}"),
            (RefusalKind::Invalid, "unknown_field", vec!["itemz".into()])
        );
        assert_eq!(
            refusal("{}"),
            (RefusalKind::Invalid, "invalid_field", vec!["items".into()])
        );
        assert_eq!(refusal("{\"items\":[{\"n\":300}]}").2, ["items[0].n"]);
        assert_eq!(refusal("{\"items\":[{\"n\":1,\"x\":2}]}").2, ["items[0].x"]);
        for text in ["", "{", "{\"items\":[]} x", "nope", &"[".repeat(1000)] {
            assert_eq!(
                refusal(text).0,
                if text.starts_with('[') {
                    RefusalKind::Invalid
                } else {
                    RefusalKind::Malformed
                },
                "{text}"
            );
        }
    }
}
