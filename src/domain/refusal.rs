use std::fmt;
use std::time::Duration;

/// What sort of thing stands against a request; the edge turns it into a status or a close code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// It cannot be read at all.
    Malformed,
    /// The credentials are missing or no good.
    Unauthenticated,
    /// The principal may not do this.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// It is there, and is not to be asked in this way.
    WrongMethod,
    /// It is spoken to by another protocol.
    UpgradeRequired,
    /// The present state does not allow it.
    Conflict,
    /// It is larger than allowed.
    TooLarge,
    /// Its head is larger than allowed.
    HeadersTooLarge,
    /// Its content type is not understood.
    UnsupportedType,
    /// A field has a value that is not allowed.
    Invalid,
    /// It took too long to arrive.
    Timeout,
    /// Too many requests.
    RateLimited,
    /// The store, the log or the node cannot serve it now.
    Unavailable,
    /// A fault of ours.
    Internal,
}

/// Why a request was not carried out, for whoever sent it; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What sort of reason.
    pub kind: RefusalKind,
    /// The reason as a stable word.
    pub code: &'static str,
    /// The reason as a sentence.
    pub detail: String,
    /// Fields it is about, each with what is wrong with it.
    pub fields: Vec<(String, String)>,
    /// After what time it may succeed, when that is known.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal that is about the request as a whole.
    pub fn new(kind: RefusalKind, code: &'static str, detail: impl Into<String>) -> Self {
        Refusal { kind, code, detail: detail.into(), fields: Vec::new(), retry_after: None }
    }

    /// A field has a value that is not allowed.
    pub fn invalid(field: &str, message: impl fmt::Display) -> Self {
        Refusal::new(RefusalKind::Invalid, "invalid_field", format!("{field} {message}"))
            .with_field(field, message)
    }

    /// A query parameter is missing or malformed.
    pub fn malformed(field: &str, message: impl fmt::Display) -> Self {
        Refusal::new(RefusalKind::Malformed, "invalid_parameter", format!("{field} {message}"))
            .with_field(field, message)
    }

    /// The principal may not do this.
    pub fn forbidden(code: &'static str, detail: impl Into<String>) -> Self {
        Refusal::new(RefusalKind::Forbidden, code, detail)
    }

    /// It may succeed after this time.
    pub fn retry_after(self, after: Duration) -> Self {
        Refusal { retry_after: Some(after), ..self }
    }

    /// Names a field it is about.
    pub fn with_field(mut self, field: &str, message: impl fmt::Display) -> Self {
        self.fields.push((field.to_owned(), message.to_string()));
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Refusal {}
