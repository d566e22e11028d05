//! Keys that tokens are verified with. Each is good for one algorithm, whatever a token's header says.

use std::fmt;
use std::path::Path;

use jsonwebtoken::DecodingKey;
use jsonwebtoken::crypto::verify;
use serde::Deserialize;
use serde_json::Value;

use super::token::{Unverified, refused};
use crate::domain::Refusal;
use crate::settings::{JwtAlgorithm, JwtKey};

/// A key, and the one algorithm it is good for.
pub(super) struct TokenKey {
    /// What tokens call it; None: it is for tokens that name no key.
    pub id: Option<String>,
    pub algorithm: JwtAlgorithm,
    key: DecodingKey,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TokenKey").field("id", &self.id).field("algorithm", &self.algorithm).finish()
    }
}

impl TokenKey {
    /// A shared secret.
    pub fn shared(id: Option<&str>, secret: &str) -> Self {
        let key = DecodingKey::from_secret(secret.as_bytes());
        TokenKey { id: id.map(str::to_owned), algorithm: JwtAlgorithm::HS256, key }
    }

    /// A key of the configuration; the error is for the operator.
    pub fn configured(own: &JwtKey) -> Result<Self, String> {
        if own.algorithm == JwtAlgorithm::HS256 {
            return Ok(TokenKey::shared(Some(&own.id), &own.secret));
        }
        let problem = |problem: String| format!("jwt.keys {:?}: {}: {problem}", own.id, own.file);
        let pem = std::fs::read(Path::new(&own.file)).map_err(|error| problem(error.to_string()))?;
        let key = match own.algorithm {
            JwtAlgorithm::RS256 => DecodingKey::from_rsa_pem(&pem),
            JwtAlgorithm::ES256 => DecodingKey::from_ec_pem(&pem),
            JwtAlgorithm::EdDsa | JwtAlgorithm::HS256 => DecodingKey::from_ed_pem(&pem),
        };
        let key = key.map_err(|error| problem(format!("no public key for {:?}: {error}", own.algorithm)))?;
        Ok(TokenKey { id: Some(own.id.clone()), algorithm: own.algorithm, key })
    }

    fn verifies(&self, token: &Unverified<'_>) -> bool {
        let algorithm = match self.algorithm {
            JwtAlgorithm::HS256 => jsonwebtoken::Algorithm::HS256,
            JwtAlgorithm::RS256 => jsonwebtoken::Algorithm::RS256,
            JwtAlgorithm::ES256 => jsonwebtoken::Algorithm::ES256,
            JwtAlgorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        };
        verify(token.signature, token.message.as_bytes(), &self.key, algorithm).unwrap_or(false)
    }
}

/// Checks a token's signature against the keys it can be meant for.
pub(super) fn check<'a>(
    token: &Unverified<'_>,
    keys: impl Iterator<Item = &'a TokenKey>,
) -> Result<(), Refusal> {
    let named: Vec<&TokenKey> =
        keys.filter(|key| token.kid.is_none() || key.id.as_deref() == token.kid.as_deref()).collect();
    if let (Some(kid), true) = (&token.kid, named.is_empty()) {
        let kid: String = kid.chars().take(64).collect();
        return Err(refused("unknown_kid", format!("no key is known by the id {kid:?}")));
    }
    let mut fitting = named.into_iter().filter(|key| key.algorithm == token.algorithm).peekable();
    if fitting.peek().is_none() {
        let detail = format!("no key that the token can be meant for is for {:?}", token.algorithm);
        return Err(refused("wrong_algorithm", detail));
    }
    match fitting.any(|key| key.verifies(token)) {
        true => Ok(()),
        false => Err(refused("invalid_signature", "the token's signature does not verify")),
    }
}

/// A public key as an issuer shows it (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The keys of a JWK set that are of use here; others, shared secrets among them, are left out.
///
/// A key's algorithm follows from its type, so a set can never bring one in that was not meant.
pub(super) fn read_jwk_set(document: &[u8]) -> Result<Vec<TokenKey>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(document).map_err(|error| format!("is no JWK set: {error}"))?;
    Ok(set.keys.into_iter().filter_map(|key| from_jwk(serde_json::from_value(key).ok()?)).collect())
}

fn from_jwk(jwk: Jwk) -> Option<TokenKey> {
    let curve = jwk.crv.as_deref();
    let (algorithm, name, key) = match (jwk.kty.as_str(), curve) {
        ("RSA", _) => {
            (JwtAlgorithm::RS256, "RS256", DecodingKey::from_rsa_components(&jwk.n?, &jwk.e?).ok()?)
        }
        ("EC", Some("P-256")) => {
            (JwtAlgorithm::ES256, "ES256", DecodingKey::from_ec_components(&jwk.x?, &jwk.y?).ok()?)
        }
        ("OKP", Some("Ed25519")) => {
            (JwtAlgorithm::EdDsa, "EdDSA", DecodingKey::from_ed_components(&jwk.x?).ok()?)
        }
        _ => return None,
    };
    let meant = jwk.alg.is_none_or(|alg| alg == name) && jwk.usage.is_none_or(|usage| usage == "sig");
    meant.then_some(TokenKey { id: jwk.kid, algorithm, key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use serde_json::json;

    fn signed(kid: Option<&str>, secret: &str) -> String {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::HS256) };
        encode(&header, &json!({"sub": "a"}), &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    fn checked(text: &str, keys: &[TokenKey]) -> Result<(), &'static str> {
        check(&Unverified::parse(text).unwrap(), keys.iter()).map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_token_is_checked_by_the_key_it_names_and_by_no_other() {
        let keys = [
            TokenKey::shared(Some("a"), "one"),
            TokenKey::shared(Some("b"), "two"),
            TokenKey::shared(None, "three"),
        ];
        assert_eq!(checked(&signed(Some("a"), "one"), &keys), Ok(()));
        assert_eq!(checked(&signed(Some("b"), "one"), &keys), Err("invalid_signature"));
        assert_eq!(checked(&signed(Some("c"), "one"), &keys), Err("unknown_kid"));
        assert_eq!(checked(&signed(None, "three"), &keys), Ok(()));
        assert_eq!(checked(&signed(None, "four"), &keys), Err("invalid_signature"));
        assert_eq!(checked(&signed(None, "one"), &[]), Err("wrong_algorithm"));
        let cut = signed(Some("a"), "one");
        assert_eq!(checked(&cut[..cut.len() - 1], &keys), Err("invalid_signature"));
        assert_eq!(checked(&cut[..=cut.rfind('.').unwrap()], &keys), Err("invalid_signature"));
    }

    #[test]
    fn a_key_set_brings_in_public_keys_for_signatures_only() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let ed = |more: serde_json::Value| {
            let mut key = json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": x});
            key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            key
        };
        let document = json!({"keys": [
            ed(json!({})), ed(json!({"alg": "EdDSA", "use": "sig"})),
            ed(json!({"alg": "HS256"})), ed(json!({"use": "enc"})), ed(json!({"crv": "Ed448"})), ed(json!({"x": 1})),
            {"kty": "oct", "kid": "o", "k": "c2VjcmV0", "alg": "HS256"}, {"kty": "RSA", "n": "AQAB"}, {"kid": "?"}, 7,
        ]});
        let keys = read_jwk_set(document.to_string().as_bytes()).unwrap();
        assert_eq!(keys.len(), 2);
        assert!(
            keys.iter().all(|key| key.algorithm == JwtAlgorithm::EdDsa && key.id.as_deref() == Some("ed"))
        );
        for document in ["", "[]", "{}", "{\"keys\":{}}", "<html>"] {
            assert!(read_jwk_set(document.as_bytes()).is_err(), "{document}");
        }
    }
}
