use actix_web::http::StatusCode;
use actix_web::http::header::{ContentType, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};

use crate::domain::{Refusal, RefusalKind};

/// A refusal on its way out as `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub Refusal);

impl<R: Into<Refusal>> From<R> for Problem {
    fn from(refusal: R) -> Self {
        Problem(refusal.into())
    }
}

/// One field of a problem.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub struct ProblemField {
    /// The field's name or path.
    field: String,
    /// What is wrong with it.
    message: String,
}

/// The body of every answer that is an error.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub struct ProblemBody {
    /// Always `about:blank`: `code` tells more.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// The reason as a stable word.
    code: &'static str,
    /// The reason as a sentence.
    detail: String,
    /// Fields it is about.
    errors: Vec<ProblemField>,
}

impl ProblemBody {
    /// The body for a refusal.
    pub fn new(refusal: &Refusal) -> Self {
        let status = status(refusal.kind);
        let fields = refusal.fields.iter().cloned();
        ProblemBody {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("error"),
            status: status.as_u16(),
            code: refusal.code,
            detail: refusal.detail.clone(),
            errors: fields.map(|(field, message)| ProblemField { field, message }).collect(),
        }
    }
}

/// The one table from refusals to statuses.
pub fn status(kind: RefusalKind) -> StatusCode {
    match kind {
        RefusalKind::Malformed => StatusCode::BAD_REQUEST,
        RefusalKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        RefusalKind::Forbidden => StatusCode::FORBIDDEN,
        RefusalKind::NotFound => StatusCode::NOT_FOUND,
        RefusalKind::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
        RefusalKind::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
        RefusalKind::Timeout => StatusCode::REQUEST_TIMEOUT,
        RefusalKind::Conflict => StatusCode::CONFLICT,
        RefusalKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        RefusalKind::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        RefusalKind::UnsupportedType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        RefusalKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        RefusalKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        RefusalKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// `Retry-After` (RFC 9110 §10.2.3): whole seconds, rounded up; 1 when it is not known.
pub fn retry_after_s(refusal: &Refusal) -> u64 {
    refusal.retry_after.map_or(1, |after| after.as_millis().div_ceil(1000).max(1) as u64)
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        status(self.0.kind)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        match self.0.kind {
            // RFC 6750 §3: the error is named only to those who tried
            RefusalKind::Unauthenticated if self.0.code == "missing_credentials" => {
                response.insert_header((WWW_AUTHENTICATE, "Bearer realm=\"bongsu\""));
            }
            RefusalKind::Unauthenticated => {
                let challenge = "Bearer realm=\"bongsu\", error=\"invalid_token\"";
                response.insert_header((WWW_AUTHENTICATE, challenge));
            }
            RefusalKind::RateLimited | RefusalKind::Unavailable => {
                response.insert_header((RETRY_AFTER, retry_after_s(&self.0).to_string()));
            }
            RefusalKind::UpgradeRequired => {
                response.insert_header((UPGRADE, "websocket"));
            }
            // the rest of a body that was refused is not read: the connection cannot be used again
            RefusalKind::TooLarge | RefusalKind::Timeout => {
                response.force_close();
            }
            _ => {}
        }
        let body = serde_json::to_vec(&ProblemBody::new(&self.0)).expect("a problem is plain data");
        response
            .insert_header(ContentType("application/problem+json".parse().expect("a media type")))
            .body(body)
    }
}
