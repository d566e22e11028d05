use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use actix_http::RequestHead;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest};
use ipnet::IpNet;
use tracing::Span;
use tracing::field::Empty;

use super::services::services;
use crate::clock::random_u64;
use crate::domain::{Cursor, Origin, Refusal, RefusalKind, Trace};
use crate::identity::Principal;
use crate::limits::{Admission, Attempt, Blocks, ForwardedBy, Limiter, client_address, parse_network};
use crate::settings::Settings;
use crate::telemetry::Metrics;

/// The header that names a request in answers and logs.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header that names a request's place in a trace (W3C Trace Context): in requests the caller's, in
/// answers this node's.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What every request has to pass before anything looks at it, and what every answer carries.
///
/// Requests with `Upgrade: websocket` pass none of the app's routing and middleware, so all of this judges a
/// request's head: the app's middleware and the upgrade path call the same functions.
#[derive(Debug)]
pub struct Gate {
    /// The limits.
    pub limiter: Arc<Limiter>,
    blocks: Arc<Blocks>,
    metrics: Arc<Metrics>,
    trusted: Vec<IpNet>,
    forwarded_by: ForwardedBy,
    origins: Vec<String>,
    max_headers: usize,
    max_header_bytes: usize,
    is_tls: bool,
}

/// Whom a request comes from, as far as its head tells.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The client's address, behind trusted proxies.
    pub address: IpAddr,
    /// The request's name and its place in a trace: the caller's own where they can be read, else new ones.
    pub origin: Arc<Origin>,
}

impl Caller {
    /// What the log lines of the request lie in; who sends it is added once that is known.
    pub fn span(&self) -> Span {
        tracing::info_span!(
            "request",
            request_id = &*self.origin.request_id,
            trace_id = %self.origin.trace.trace_id(),
            tenant = Empty,
            user_id = Empty,
            connection_id = Empty,
        )
    }
}

impl Gate {
    /// As the options say.
    pub fn new(
        settings: &Settings,
        limiter: Arc<Limiter>,
        blocks: Arc<Blocks>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let server = &settings.server;
        Gate {
            limiter,
            blocks,
            metrics,
            trusted: server.trusted_proxies.iter().filter_map(|text| parse_network(text)).collect(),
            forwarded_by: ForwardedBy::parse(&server.forwarded_header).expect("validated with the settings"),
            origins: settings.cors.allowed_origins.clone(),
            max_headers: server.max_headers,
            max_header_bytes: server.max_header_bytes,
            is_tls: !server.tls_cert.is_empty(),
        }
    }

    /// Whom a request comes from.
    pub fn caller(&self, head: &RequestHead) -> Caller {
        let peer = head.peer_addr.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let said =
            head.headers.get_all(self.forwarded_by.header()).map(|value| value.to_str().unwrap_or("?"));
        let said: Vec<&str> = said.collect();
        let address = client_address(peer, said.into_iter(), self.forwarded_by, &self.trusted);
        let origin = Origin { request_id: request_id(&head.headers), trace: trace(&head.headers) };
        Caller { address, origin: Arc::new(origin) }
    }

    /// Refuses a caller who is blocked, and a request whose head is larger than allowed.
    pub fn enter(&self, head: &RequestHead, caller: &Caller) -> Result<(), Refusal> {
        if self.blocks.is_blocked(caller.address) {
            self.metrics.limits().refused("blocked");
            return Err(Refusal::forbidden("blocked", "this address is blocked"));
        }
        let bytes: usize =
            head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let uri = head.uri.path_and_query().map_or(0, |text| text.as_str().len());
        if head.headers.len() <= self.max_headers && bytes + uri <= self.max_header_bytes {
            return Ok(());
        }
        self.metrics.limits().refused("headers");
        let detail = format!(
            "at most {} headers are allowed, and {} bytes for them and the path",
            self.max_headers, self.max_header_bytes
        );
        Err(Refusal::new(RefusalKind::HeadersTooLarge, "headers_too_large", detail))
    }

    /// The same for an upgrade, which also needs an allowed origin, and is a connection attempt.
    pub fn enter_upgrade(&self, head: &RequestHead, caller: &Caller) -> Result<Attempt, Refusal> {
        self.enter(head, caller)?;
        if !self.allows_origin(&head.headers) {
            self.metrics.limits().refused("forbidden_origin");
            let detail = "pages of this origin may not connect: see cors.allowed_origins";
            return Err(Refusal::forbidden("forbidden_origin", detail));
        }
        self.limiter.attempt(caller.address)
    }

    /// Browsers name the page's origin on every WebSocket upgrade and do not ask before it, so it is judged
    /// here (RFC 6455 §10.2): a listed one, or the host that is being called itself. Other clients name none.
    fn allows_origin(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        self.origins.iter().any(|own| own == "*" || own.eq_ignore_ascii_case(origin))
            || host.is_some_and(|host| is_same_host(origin, host))
    }

    /// Settles what an answer means for the caller's limits, and waits as long as it has to: what was refused for
    /// its credentials or rights is answered more and more slowly. The error takes the answer's place.
    pub async fn settle(
        &self,
        address: IpAddr,
        attempt: Option<Attempt>,
        status: StatusCode,
    ) -> Result<(), Refusal> {
        let is_final = status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS;
        match attempt {
            Some(attempt) if !is_final => attempt.give_back(),
            // stays counted
            Some(_) => {}
            None if status == StatusCode::UNAUTHORIZED => drop(self.limiter.attempt(address)?),
            None => {}
        }
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let slow = self.limiter.failed(address)?;
            tokio::time::sleep(slow.delay).await;
        }
        Ok(())
    }

    /// Adds what every answer carries: its request's name and place in its trace, and what browsers may not do with it.
    pub fn finish(&self, headers: &mut HeaderMap, caller: &Caller) {
        let plain = |text: &str| HeaderValue::from_str(text).expect("plain characters");
        headers.insert(REQUEST_ID, plain(&caller.origin.request_id));
        headers.insert(TRACEPARENT, plain(&caller.origin.trace.to_string()));
        for (name, value) in HARDENING {
            if !headers.contains_key(name) {
                headers.insert(name.clone(), HeaderValue::from_static(value));
            }
        }
        if self.is_tls {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
        }
    }
}

/// An API's answers are neither documents, nor frames, nor scripts, and concern their caller alone.
const HARDENING: &[(HeaderName, &str)] = &[
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::CACHE_CONTROL, "no-store"),
];

fn request_id(headers: &HeaderMap) -> Box<str> {
    let is_plain = |text: &&str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let own = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(is_plain);
    own.map_or_else(|| uuid::Uuid::now_v7().to_string().into(), Into::into)
}

/// This request's place in the trace that its caller names, or in a new one.
fn trace(headers: &HeaderMap) -> Trace {
    let mut own = headers.get_all(TRACEPARENT);
    // several are as good as none
    let (first, second) = (own.next().and_then(|value| value.to_str().ok()), own.next());
    match first.filter(|_| second.is_none()).and_then(Trace::parse) {
        Some(callers) => callers.child(random_u64()),
        None => Trace::new(u128::from(random_u64()) << 64 | u128::from(random_u64()), random_u64()),
    }
}

/// Whether an origin (RFC 6454) is the host of a `Host` header, default ports aside.
fn is_same_host(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let bare = |text: &str| text.strip_suffix(default_port).unwrap_or(text).to_ascii_lowercase();
    !authority.is_empty() && bare(authority) == bare(host)
}

/// Who sends this request.
pub fn caller(request: &HttpRequest) -> Caller {
    request.extensions().get::<Caller>().expect("set by the middleware").clone()
}

/// Whether a request begins a connection or goes on with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It begins one: it is a connection attempt, and a connection opened.
    New,
    /// It is a poll whose cursor can be read: the next one of a client that was there before.
    NextPoll,
}

impl Opening {
    /// What a request over this transport does.
    pub fn of(transport: &str, cursor: Option<Cursor>) -> Self {
        match cursor {
            Some(Cursor::At(_)) if transport == "poll" => Opening::NextPoll,
            _ => Opening::New,
        }
    }
}

/// Takes the token of a connection attempt, before the request's credentials are looked at.
pub fn open(request: &HttpRequest, opening: Opening) -> Result<(), Refusal> {
    if opening == Opening::New {
        let attempt = services(request).gate.limiter.attempt(caller(request).address)?;
        request.extensions_mut().insert(attempt);
    }
    Ok(())
}

/// Counts an authenticated connection, which is no attempt any more; its session holds what is returned.
pub fn admit(request: &HttpRequest, principal: &Principal, opening: Opening) -> Result<Admission, Refusal> {
    let limiter = &services(request).gate.limiter;
    if opening == Opening::New {
        limiter.connect(principal)?;
    }
    let admission = limiter.admit(principal, caller(request).address)?;
    request.extensions_mut().remove::<Attempt>().into_iter().for_each(Attempt::give_back);
    Ok(admission)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_the_same_host_whatever_its_default_port() {
        assert!(is_same_host("https://rt.example", "rt.example"));
        assert!(is_same_host("https://rt.example", "RT.example:443"));
        assert!(is_same_host("http://127.0.0.1:8080", "127.0.0.1:8080"));
        for other in
            ["https://evil.example", "https://rt.example.evil", "https://rt.example:444", "null", "https://"]
        {
            assert!(!is_same_host(other, "rt.example"), "{other}");
        }
    }
}
