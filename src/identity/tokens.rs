use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};

use super::claims::{Bearer, Expectations};
use super::jwks::Jwks;
use super::new_secret;
use super::token::Unverified;
use super::token_keys::{TokenKey, check};
use super::{Principal, User};
use crate::clock::Clock;
use crate::domain::{Refusal, TenantId, Timestamp};
use crate::settings::{self, JwtAlgorithm, OWN_KEY_ID};
use crate::storage::{Database, StoreError};

/// The secret that this installation signs tokens of its own with; made at its first use, then the same for
/// every process on the same database.
pub async fn installation_secret(database: &Database, clock: Clock) -> Result<String, StoreError> {
    let (fresh, now) = (new_secret("bs_"), clock.now().micros());
    database
        .run(move |db| async move {
            crate::write_tx!(db, |conn, q| Ok(q::token_secrets::find_or_insert(conn, &fresh, now).await?))
        })
        .await
}

/// Verifies users' tokens (JWT).
#[derive(Clone, Debug)]
pub struct Tokens(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    expectations: Expectations,
    keys: Vec<TokenKey>,
    jwks: Option<Jwks>,
    leeway: Duration,
    clock: Clock,
}

impl Tokens {
    /// The configured keys, that of the installation, and those of `jwks`; the error is for the operator.
    pub fn new(
        jwt: &settings::Jwt,
        installation_secret: &str,
        jwks: Option<Jwks>,
        clock: Clock,
    ) -> Result<Self, String> {
        let mut keys = vec![TokenKey::shared(Some(OWN_KEY_ID), installation_secret)];
        if !jwt.secret.is_empty() {
            keys.push(TokenKey::shared(None, &jwt.secret));
        }
        for own in &jwt.keys {
            keys.push(TokenKey::configured(own)?);
        }
        let (expectations, leeway) = (Expectations::from(jwt), Duration::from_secs(jwt.leeway_s));
        Ok(Tokens(Arc::new(Inner { expectations, keys, jwks, leeway, clock })))
    }

    /// Who bears a token, once its signature and its claims are found in order.
    pub async fn verify(&self, text: &str) -> Result<Principal, Refusal> {
        let token = Unverified::parse(text)?;
        if let Err(refusal) = self.check(&token) {
            let Some(jwks) = &self.0.jwks else { return Err(refusal) };
            // a key that came into use since the last fetch
            jwks.look_again().await;
            self.check(&token)?;
        }
        let Bearer { tenant, user, issued_at, expires_at } =
            self.0.expectations.read(&token.claims()?, self.0.clock.now())?;
        let expires_at = Some(expires_at.plus(self.0.leeway));
        Ok(Principal { issued_at, expires_at, ..Principal::user(tenant, user) })
    }

    fn check(&self, token: &Unverified<'_>) -> Result<(), Refusal> {
        let fetched = self.0.jwks.as_ref().map(Jwks::keys);
        check(token, self.0.keys.iter().chain(fetched.iter().flat_map(|keys| keys.iter())))
    }
}

/// Signs tokens that this server accepts.
pub struct Signer {
    header: Header,
    key: EncodingKey,
    expectations: Expectations,
}

impl Signer {
    /// With the configured HS256 secret or key, else with the installation's.
    pub fn new(jwt: &settings::Jwt, installation_secret: &str) -> Self {
        let shared = jwt.keys.iter().find(|key| key.algorithm == JwtAlgorithm::HS256);
        let (kid, secret) = match shared {
            _ if !jwt.secret.is_empty() => (None, jwt.secret.as_str()),
            Some(own) => (Some(own.id.clone()), own.secret.as_str()),
            None => (Some(OWN_KEY_ID.to_owned()), installation_secret),
        };
        Signer {
            header: Header { kid, ..Header::new(Algorithm::HS256) },
            key: EncodingKey::from_secret(secret.as_bytes()),
            expectations: Expectations::from(jwt),
        }
    }

    /// A token for a user, good for `ttl` from `now` on; with it the time it runs out, in whole seconds.
    pub fn sign(&self, tenant: TenantId, user: User, now: Timestamp, ttl: Duration) -> (String, Timestamp) {
        let whole = |at: Timestamp| Timestamp::from_micros(at.micros().div_euclid(1_000_000) * 1_000_000);
        let expires_at = whole(now.plus(ttl));
        let bearer = Bearer { tenant, user, issued_at: Some(now), expires_at };
        let token = encode(&self.header, &self.expectations.write(&bearer), &self.key);
        (token.expect("claims are plain data and HS256 takes any secret"), expires_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::UserSub;
    use crate::settings::Settings;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    const RSA_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAu1SU1LfVLPHCozMxH2Mo
4lgOEePzNm0tRgeLezV6ffAt0gunVTLw7onLRnrq0/IzW7yWR7QkrmBL7jTKEn5u
+qKhbwKfBstIs+bMY2Zkp18gnTxKLxoS2tFczGkPLPgizskuemMghRniWaoLcyeh
kd3qqGElvW/VDL5AaWTg0nLVkjRo9z+40RQzuVaE8AkAFmxZzow3x+VJYKdjykkJ
0iT9wCS0DRTXu269V264Vf/3jvredZiKRkgwlL9xNAwxXFg0x/XFw005UWVRIkdg
cKWTjpBP2dPwVZ4WWC+9aGVd+Gyn1o0CLelf4rEjGoXbAAEgAqeGUxrcIlbjXfbc
mwIDAQAB
-----END PUBLIC KEY-----
";

    fn user() -> (TenantId, User) {
        let user = User { roles: vec!["admin".into()], ..User::plain(UserSub::parse("kim").unwrap()) };
        (TenantId::parse("acme").unwrap(), user)
    }

    async fn verified(tokens: &Tokens, text: &str) -> Result<Principal, &'static str> {
        tokens.verify(text).await.map_err(|refusal| refusal.code)
    }

    #[actix_rt::test]
    async fn tokens_are_signed_with_the_first_shared_secret_there_is() {
        let clock = Clock::system();
        let mut settings = Settings::defaults();
        for (change, kid) in [("", Some(OWN_KEY_ID)), ("key", Some("own")), ("secret", None)] {
            match change {
                "key" => {
                    settings.jwt.keys = toml::from_str::<toml::Table>(
                        "keys = [{id = \"own\", algorithm = \"HS256\", secret = \"s\"}]",
                    )
                    .unwrap()["keys"]
                        .clone()
                        .try_into()
                        .unwrap()
                }
                "secret" => settings.jwt.secret = "another".into(),
                _ => {}
            }
            let (tenant, user) = user();
            let (text, expires_at) = Signer::new(&settings.jwt, "installed").sign(
                tenant.clone(),
                user.clone(),
                clock.now(),
                Duration::from_secs(60),
            );
            assert_eq!(Unverified::parse(&text).unwrap().kid.as_deref(), kid);
            let principal = verified(&Tokens::new(&settings.jwt, "installed", None, clock).unwrap(), &text)
                .await
                .unwrap();
            assert_eq!(
                (principal.tenant, principal.user, principal.key_id),
                (Some(tenant), Some(user), None)
            );
            assert_eq!(
                principal.expires_at,
                Some(expires_at.plus(Duration::from_secs(settings.jwt.leeway_s)))
            );
            let other =
                Tokens::new(&Settings::defaults().jwt, "of another installation", None, clock).unwrap();
            assert!(verified(&other, &text).await.is_err());
        }
    }

    #[actix_rt::test]
    async fn a_public_key_is_never_a_shared_secret() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rsa.pem");
        std::fs::write(&file, RSA_PUBLIC).unwrap();
        let mut jwt = Settings::defaults().jwt;
        let file = file.to_string_lossy().into_owned();
        jwt.keys = vec![settings::JwtKey {
            id: "rsa".into(),
            algorithm: JwtAlgorithm::RS256,
            secret: String::new(),
            file,
        }];
        let tokens = Tokens::new(&jwt, "installed", None, Clock::system()).unwrap();
        let claims = serde_json::json!({"sub": "mallory", "roles": ["admin"], "exp": 4_000_000_000_u64});
        for kid in [Some("rsa".to_owned()), None] {
            let header = Header { kid, ..Header::new(Algorithm::HS256) };
            for secret in [RSA_PUBLIC, RSA_PUBLIC.trim()] {
                let text = encode(&header, &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap();
                let code = verified(&tokens, &text).await.unwrap_err();
                let expected = if header.kid.is_some() { "wrong_algorithm" } else { "invalid_signature" };
                assert_eq!(code, expected);
            }
        }
        jwt.keys[0].algorithm = JwtAlgorithm::ES256;
        let error = Tokens::new(&jwt, "installed", None, Clock::system()).unwrap_err();
        assert!(error.contains("jwt.keys \"rsa\"") && error.contains("ES256"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_is_a_token_that_was_not_signed(
            text in ".{0,60}", header in "\\{\"alg\":\"(HS256|none|RS256)\"(,\"kid\":\"(installation|x)\")?\\}",
            claims in ".{0,40}", signature in "[A-Za-z0-9_-]{0,44}",
        ) {
            let tokens = Tokens::new(&Settings::defaults().jwt, "installed", None, Clock::system()).unwrap();
            let made = format!("{}.{}.{signature}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
            for text in [text, made] {
                let verified = futures_util::FutureExt::now_or_never(tokens.verify(&text));
                prop_assert!(matches!(verified, Some(Err(_))));
            }
        }
    }
}
