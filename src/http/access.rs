use std::rc::Rc;
use std::time::Instant;

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpResponse, ResponseError};

use super::openapi::methods_at;
use super::services::services;
use super::{Exchange, Problem};
use crate::domain::{Refusal, RefusalKind};
use crate::identity::rights;
use crate::limits::Attempt;
use crate::telemetry::within;

/// Around every request: the gate, an id, a span, a metric, a log line without the query (it may hold secrets), and
/// a problem in place of answers that the framework made without one.
pub async fn record(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse, Error> {
    let started = Instant::now();
    let (gate, metrics) =
        (services(request.request()).gate.clone(), services(request.request()).metrics.clone());
    let caller = gate.caller(request.head());
    let exchange = request.request().conn_data::<Rc<Exchange>>().cloned();
    exchange.iter().for_each(|exchange| exchange.begin());
    let method = method(request.method());
    let path = request.path().to_owned();
    request.extensions_mut().insert(caller.clone());
    let mut response = match gate.enter(request.head(), &caller) {
        Err(refusal) => request.into_response(Problem(refusal).error_response()),
        Ok(()) => {
            let answered = async move { next.call(request).await };
            let answered = within(caller.origin.clone(), caller.span(), answered);
            let response = named(answered.await?.map_into_boxed_body());
            let refusal = response.response().error().and_then(|error| error.as_error::<Problem>());
            if refusal.is_some_and(|Problem(refusal)| refusal.code == rights::FORBIDDEN) {
                metrics.auth_failed(rights::FORBIDDEN);
            }
            let attempt = response.request().extensions_mut().remove::<Attempt>();
            match gate.settle(caller.address, attempt, response.status()).await {
                Ok(()) => response,
                Err(refusal) => replaced(response, Problem(refusal).error_response()),
            }
        }
    };
    let is_endless = response.response().body().size() == BodySize::Stream;
    exchange.iter().for_each(|exchange| exchange.answered(is_endless));
    gate.finish(response.headers_mut(), &caller);
    let route = response.request().match_pattern().unwrap_or_else(|| "none".to_owned());
    let (status, seconds) = (response.status().as_u16(), started.elapsed().as_secs_f64());
    metrics.http_answered(&route, method, status, seconds);
    let (request_id, trace_id) = (&*caller.origin.request_id, caller.origin.trace.trace_id());
    tracing::debug!(request_id, %trace_id, ip = %caller.address, method, path, status, seconds, "answered");
    Ok(response)
}

/// A method as a label: what a client makes up is none.
fn method(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

/// Gives errors of the framework itself (no such route, wrong method) the body that all errors have.
fn named(response: ServiceResponse) -> ServiceResponse {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error()
        || response.headers().contains_key(CONTENT_TYPE) && is_problem(&response)
    {
        return response;
    }
    let allowed = methods_at(response.request().path());
    let (kind, code) = match status.as_u16() {
        // the framework makes no difference between a path and a method that it does not know
        404 | 405 if !allowed.is_empty() => (RefusalKind::WrongMethod, "method_not_allowed"),
        404 | 405 => (RefusalKind::NotFound, "no_such_route"),
        400..500 => (RefusalKind::Malformed, "malformed_request"),
        _ => (RefusalKind::Internal, "internal"),
    };
    let detail = super::problem::status(kind).canonical_reason().unwrap_or("error");
    let mut problem: HttpResponse = Problem(Refusal::new(kind, code, detail)).error_response();
    if kind == RefusalKind::WrongMethod
        && let Ok(allowed) = HeaderValue::try_from(allowed.join(", "))
    {
        problem.headers_mut().insert(ALLOW, allowed);
    }
    replaced(response, problem)
}

/// A problem in place of an answer; what other layers have added to it (CORS, `allow`) stays.
fn replaced(response: ServiceResponse, problem: HttpResponse) -> ServiceResponse {
    let (request, former) = response.into_parts();
    let mut problem = ServiceResponse::new(request, problem);
    let added = former.headers().iter().filter(|(name, _)| !name.as_str().starts_with("content-"));
    for (name, value) in added {
        problem.headers_mut().append(name.clone(), value.clone());
    }
    problem
}

fn is_problem(response: &ServiceResponse) -> bool {
    let value =
        response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.contains("json")
}
