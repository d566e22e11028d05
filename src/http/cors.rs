use actix_cors::Cors;
use actix_web::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};

/// Lets pages of the listed origins use the API; all others get no permission.
pub fn cors(allowed_origins: &[String]) -> Cors {
    let headers = [
        "x-api-key",
        "last-event-id",
        "x-tenant-id",
        "x-user-id",
        "idempotency-key",
        "x-request-id",
        "traceparent",
        "tracestate",
    ];
    let cors = Cors::default()
        .allowed_methods(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
        .allowed_headers(headers.map(HeaderName::from_static))
        .allowed_headers([AUTHORIZATION, CONTENT_TYPE])
        .expose_headers(["x-request-id", "traceparent", "retry-after"])
        .max_age(3600);
    if allowed_origins.iter().any(|origin| origin == "*") {
        return cors.allow_any_origin();
    }
    allowed_origins.iter().fold(cors.supports_credentials(), |cors, origin| cors.allowed_origin(origin))
}
