use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{FromRequest, HttpRequest};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;

use super::Problem;
use super::auth::authenticate;
use super::services::services;
use crate::domain::{Refusal, RefusalKind};
use crate::identity::{Principal, hash_hex};
use crate::wire::{self, parse};

/// A JSON request body from somebody known: bounded in bytes and time, unknown fields refused by name.
///
/// Credentials are looked at first: a stranger's body is not read.
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
            let principal = authenticate(&request).await?;
            let services = services(&request);
            let limits = &services.settings.server;
            is_json(&request)?;
            // publishes are charged by their handlers, event by event
            if !request.path().starts_with("/v2/events") {
                services.gate.limiter.commands(&principal, 1)?;
            }
            let patience = Duration::from_millis(limits.request_body_timeout_ms);
            let read = tokio::time::timeout(patience, read(payload, &request, limits.max_body_bytes)).await;
            let bytes = read.map_err(|_| {
                Refusal::new(RefusalKind::Timeout, "body_timeout", "the request body did not arrive in time")
            })??;
            shallow(&bytes, services.settings.limits.json_depth)?;
            Ok(JsonBody { principal, value: parse(&bytes)?, hash: hash_hex(&bytes) })
        })
    }
}

/// Who sends a command that has no body; it is charged as any command is.
pub async fn charged(request: &HttpRequest) -> Result<Principal, Problem> {
    let principal = authenticate(request).await?;
    services(request).gate.limiter.commands(&principal, 1)?;
    Ok(principal)
}

fn is_json(request: &HttpRequest) -> Result<(), Refusal> {
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = "the content type must be application/json";
    Err(Refusal::new(RefusalKind::UnsupportedType, "unsupported_type", detail))
}

async fn read(mut payload: Payload, request: &HttpRequest, limit: usize) -> Result<Bytes, Refusal> {
    let too_large = || {
        let detail = format!("the request body is larger than {limit} bytes");
        Refusal::new(RefusalKind::TooLarge, "body_too_large", detail)
    };
    let announced = request.headers().get("content-length").and_then(|value| value.to_str().ok());
    if announced.and_then(|text| text.parse::<usize>().ok()).is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| {
            Refusal::new(RefusalKind::Malformed, "incomplete_body", "the request body ended early")
        })?;
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Refuses JSON that is nested deeper than allowed.
pub fn shallow(bytes: &[u8], limit: usize) -> Result<(), Refusal> {
    if wire::is_deeper_than(bytes, limit) {
        let detail = format!("the JSON is nested more than {limit} deep");
        return Err(Refusal::new(RefusalKind::Malformed, "too_deep", detail));
    }
    Ok(())
}
