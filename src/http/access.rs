use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse, ResponseError};

use super::Problem;
use super::services::services;
use crate::domain::{Refusal, RefusalKind};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Around every request: an id, a metric, a log line without the query (it may hold secrets), and a
/// problem in place of answers that the framework made without one.
pub async fn record(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse, Error> {
    let started = Instant::now();
    let id = request_id(&request);
    let metrics = services(request.request()).metrics.clone();
    let method = method(request.method());
    let path = request.path().to_owned();
    let mut response = named(next.call(request).await?.map_into_boxed_body());
    response.headers_mut().insert(REQUEST_ID, id.clone());
    let route = response.request().match_pattern().unwrap_or_else(|| "none".to_owned());
    let (status, seconds) = (response.status().as_u16(), started.elapsed().as_secs_f64());
    metrics.http_answered(&route, method, status, seconds);
    if response.status() == 503 {
        metrics.answered_unavailable();
    }
    tracing::debug!(request_id = id.to_str().unwrap_or_default(), method, path, status, seconds, "answered");
    Ok(response)
}

/// A method as a label: what a client makes up is none.
fn method(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

/// The caller's own id when it is a plain one, else a new one.
fn request_id(request: &ServiceRequest) -> HeaderValue {
    let plain = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=64).contains(&bytes.len())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    };
    let own = request.headers().get(REQUEST_ID).filter(plain).cloned();
    own.unwrap_or_else(|| HeaderValue::from_str(&uuid::Uuid::now_v7().to_string()).expect("a uuid is plain"))
}

/// Gives errors of the framework itself (no such route, wrong method) the body that all errors have.
fn named(response: ServiceResponse) -> ServiceResponse {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error()
        || response.headers().contains_key(CONTENT_TYPE) && is_problem(&response)
    {
        return response;
    }
    let (kind, code) = match status.as_u16() {
        404 => (RefusalKind::NotFound, "no_such_route"),
        405 => (RefusalKind::NotFound, "method_not_allowed"),
        400..500 => (RefusalKind::Malformed, "malformed_request"),
        _ => (RefusalKind::Internal, "internal"),
    };
    let detail = status.canonical_reason().unwrap_or("error");
    let problem: HttpResponse = Problem(Refusal::new(kind, code, detail)).error_response();
    let (request, framework) = response.into_parts();
    let mut problem = ServiceResponse::new(request, problem);
    if code == "method_not_allowed" {
        *problem.response_mut().status_mut() = status;
    }
    // what other layers have added (CORS, `allow`) stays
    for (name, value) in framework.headers().iter().filter(|(name, _)| !name.as_str().starts_with("content-"))
    {
        problem.headers_mut().append(name.clone(), value.clone());
    }
    problem
}

fn is_problem(response: &ServiceResponse) -> bool {
    let value =
        response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.contains("json")
}
