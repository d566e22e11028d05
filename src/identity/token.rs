//! The compact form of a signed token (RFC 7515 §3.1), read but not yet believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::domain::{Refusal, RefusalKind};
use crate::settings::JwtAlgorithm;

/// Longer tokens are refused unread, bytes.
const MAX_TOKEN: usize = 8192;

/// A token's parts, before its signature is checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unverified<'a> {
    /// How it claims to be signed.
    pub algorithm: JwtAlgorithm,
    /// Which key it claims to be signed with.
    pub kid: Option<String>,
    /// What is signed.
    pub message: &'a str,
    /// By this.
    pub signature: &'a str,
    payload: &'a str,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

/// Whether a credential is a token rather than an opaque key: `x.y.z`, or what is left of one.
pub fn looks_like_token(text: &str) -> bool {
    text.bytes().filter(|byte| *byte == b'.').count() == 2 || text.starts_with("eyJ")
}

impl<'a> Unverified<'a> {
    /// Reads the header; the refusal says what is wrong.
    pub fn parse(text: &'a str) -> Result<Self, Refusal> {
        if text.len() > MAX_TOKEN {
            return Err(invalid(format!("the token is longer than {MAX_TOKEN} bytes")));
        }
        let parts = || invalid("a token has three parts: header, claims and signature");
        let (message, signature) = text.rsplit_once('.').ok_or_else(parts)?;
        let (header, payload) = message.split_once('.').ok_or_else(parts)?;
        if payload.contains('.') {
            return Err(parts());
        }
        let header = decode(header).and_then(|bytes| serde_json::from_slice::<Header>(&bytes).ok());
        let header = header.ok_or_else(|| invalid("the token's header cannot be read"))?;
        if header.crit.is_some() {
            return Err(invalid("the token's header asks for extensions (crit)"));
        }
        let algorithm: JwtAlgorithm =
            serde_json::from_value(Value::String(header.alg.clone())).map_err(|_| {
                let alg: String = header.alg.chars().take(32).collect();
                refused("wrong_algorithm", format!("tokens signed by {alg:?} are not accepted"))
            })?;
        Ok(Unverified { algorithm, kid: header.kid, message, signature, payload })
    }

    /// What it states; to be believed only once its signature was checked.
    pub fn claims(&self) -> Result<Map<String, Value>, Refusal> {
        let claims = decode(self.payload).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        claims.ok_or_else(|| invalid("the token's claims cannot be read"))
    }
}

fn decode(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

/// A token that is malformed or does not state what it has to.
pub(super) fn invalid(detail: impl Into<String>) -> Refusal {
    refused("invalid_token", detail)
}

/// A credential that is no good, and why.
pub(super) fn refused(code: &'static str, detail: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Unauthenticated, code, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(header: &str, claims: &str) -> String {
        format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
    }

    fn code(text: &str) -> &'static str {
        Unverified::parse(text).unwrap_err().code
    }

    #[test]
    fn a_header_names_an_algorithm_that_is_accepted_or_is_refused_by_name() {
        for (name, algorithm) in [
            ("HS256", JwtAlgorithm::HS256),
            ("RS256", JwtAlgorithm::RS256),
            ("ES256", JwtAlgorithm::ES256),
            ("EdDSA", JwtAlgorithm::EdDsa),
        ] {
            let text = token(&format!("{{\"alg\":\"{name}\",\"typ\":\"JWT\",\"kid\":\"k\"}}"), "{\"sub\":1}");
            let read = Unverified::parse(&text).unwrap();
            assert_eq!((read.algorithm, read.kid.as_deref()), (algorithm, Some("k")));
            assert_eq!(read.claims().unwrap()["sub"], 1);
        }
        for name in ["none", "None", "HS512", "RS384", "EdDsa", "hs256", ""] {
            assert_eq!(code(&token(&format!("{{\"alg\":\"{name}\"}}"), "{}")), "wrong_algorithm");
        }
    }

    #[test]
    fn what_is_no_token_is_invalid() {
        let whole = token("{\"alg\":\"HS256\"}", "{}");
        let (header, _) = whole.split_once('.').unwrap();
        for text in [
            "..",
            "a.b.c",
            header,
            &format!("{header}."),
            &format!("{whole}.AAAA"),
            &token("{}", "{}"),
            &token("[]", "{}"),
            &token("{\"alg\":1}", "{}"),
            &token("{\"alg\":\"HS256\",\"alg\":\"none\"}", "{}"),
            &token("{\"alg\":\"HS256\",\"crit\":[\"b64\"],\"b64\":false}", "{}"),
            &format!("{whole}{}", "A".repeat(MAX_TOKEN)),
        ] {
            assert_eq!(code(text), "invalid_token", "{text}");
        }
        for claims in ["", "1", "[]", "{", "{}x"] {
            let text = token("{\"alg\":\"HS256\"}", claims);
            assert_eq!(Unverified::parse(&text).unwrap().claims().unwrap_err().code, "invalid_token");
        }
    }

    #[test]
    fn keys_are_not_taken_for_tokens() {
        assert!(looks_like_token("a.b.c") && looks_like_token("a.b.") && looks_like_token("eyJhbGciOi"));
        assert!(!looks_like_token("bk_0123") && !looks_like_token("glec_live_a.b") && !looks_like_token(""));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            let _ = looks_like_token(&text);
            let _ = Unverified::parse(&text).map(|token| token.claims());
        }

        #[test]
        fn any_header_and_claims_are_read_or_refused(header in ".{0,60}", claims in ".{0,60}", tail in "[.A-Za-z0-9_-]{0,20}") {
            let text = format!("{}.{}.{tail}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
            let _ = Unverified::parse(&text).map(|token| token.claims());
        }
    }
}
