//! What a token's claims (RFC 7519 §4) have to say, and what they make of its bearer.

use std::time::Duration;

use serde_json::{Map, Value};

use super::User;
use super::token::{invalid, refused};
use crate::domain::{Refusal, TenantId, Timestamp, UserSub};
use crate::settings;

/// The last second of the year 9999: later times are mistakes, such as milliseconds.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// What is expected of tokens, and how their claims are called.
#[derive(Clone, Debug)]
pub struct Expectations {
    sub: String,
    tenant: String,
    roles: String,
    carriers: String,
    issuer: Option<String>,
    audience: Option<String>,
    leeway: Duration,
}

/// The bearer of a token whose claims are in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Of which tenant.
    pub tenant: TenantId,
    /// Who.
    pub user: User,
    /// When the token was issued, if it says so.
    pub issued_at: Option<Timestamp>,
    /// When it runs out.
    pub expires_at: Timestamp,
}

impl From<&settings::Jwt> for Expectations {
    fn from(jwt: &settings::Jwt) -> Self {
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Expectations {
            sub: jwt.sub_claim.clone(),
            tenant: jwt.tenant_claim.clone(),
            roles: jwt.roles_claim.clone(),
            carriers: jwt.carriers_claim.clone(),
            issuer: given(&jwt.issuer),
            audience: given(&jwt.audience),
            leeway: Duration::from_secs(jwt.leeway_s),
        }
    }
}

impl Expectations {
    /// Reads claims whose signature was checked; the refusal says which claim is not in order.
    pub fn read(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<Bearer, Refusal> {
        let expires_at = date(claims, "exp")?.ok_or_else(|| invalid("the claim exp is missing"))?;
        if expires_at.plus(self.leeway) <= now {
            return Err(refused("expired_token", format!("the token expired at {expires_at}")));
        }
        if let Some(not_before) = date(claims, "nbf")?
            && not_before > now.plus(self.leeway)
        {
            return Err(refused("premature_token", format!("the token is good from {not_before} on")));
        }
        self.check_origin(claims)?;
        Ok(Bearer {
            tenant: self.tenant(claims)?,
            user: User {
                sub: self.sub(claims)?,
                roles: list(claims, &self.roles)?,
                carriers: list(claims, &self.carriers)?,
            },
            issued_at: date(claims, "iat")?,
            expires_at,
        })
    }

    /// The claims of a token that [`Expectations::read`] would accept; times in whole seconds, as is usual.
    pub fn write(&self, bearer: &Bearer) -> Map<String, Value> {
        let mut claims = Map::new();
        let mut set = |name: &str, value: Value| drop(claims.insert(name.to_owned(), value));
        set(&self.sub, bearer.user.sub.as_str().into());
        set(&self.tenant, bearer.tenant.as_str().into());
        set(&self.roles, bearer.user.roles.clone().into());
        if !bearer.user.carriers.is_empty() {
            set(&self.carriers, bearer.user.carriers.clone().into());
        }
        if let Some(issued_at) = bearer.issued_at {
            set("iat", issued_at.millis().div_euclid(1000).into());
        }
        set("exp", bearer.expires_at.millis().div_euclid(1000).into());
        for (name, value) in [("iss", &self.issuer), ("aud", &self.audience)] {
            if let Some(value) = value {
                set(name, value.as_str().into());
            }
        }
        claims
    }

    fn check_origin(&self, claims: &Map<String, Value>) -> Result<(), Refusal> {
        let is = |value: Option<&Value>, expected: &String| value.and_then(Value::as_str) == Some(expected);
        if let Some(issuer) = &self.issuer
            && !is(claims.get("iss"), issuer)
        {
            return Err(refused("wrong_issuer", "the claim iss is not the issuer that is expected"));
        }
        if let Some(audience) = &self.audience
            && !is(claims.get("aud"), audience)
            && !claims.get("aud").and_then(Value::as_array).is_some_and(|all| {
                all.iter().any(|own| is(Some(own), audience)) && all.iter().all(Value::is_string)
            })
        {
            return Err(refused("wrong_audience", "the claim aud does not name this service"));
        }
        Ok(())
    }

    /// Users are named by a text or, in older systems, by a whole number, and there also as `userId`.
    fn sub(&self, claims: &Map<String, Value>) -> Result<UserSub, Refusal> {
        let value = claims.get(&self.sub).or_else(|| claims.get("userId"));
        let text = match value {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) if !number.is_f64() => number.to_string(),
            Some(_) => return Err(invalid(format!("the claim {} is no text", self.sub))),
            None => return Err(invalid(format!("the claim {} is missing", self.sub))),
        };
        UserSub::parse(&text).map_err(|error| invalid(format!("the claim {} {error}", self.sub)))
    }

    fn tenant(&self, claims: &Map<String, Value>) -> Result<TenantId, Refusal> {
        match claims.get(&self.tenant) {
            None | Some(Value::Null) => Ok(TenantId::default_tenant()),
            Some(Value::String(text)) => TenantId::parse(text)
                .map_err(|error| refused("wrong_tenant", format!("the claim {} {error}", self.tenant))),
            Some(_) => Err(refused("wrong_tenant", format!("the claim {} is no text", self.tenant))),
        }
    }
}

/// Seconds since 1970-01-01 UTC, possibly with a fraction (RFC 7519 §2, NumericDate).
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, Refusal> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..=LAST_SECOND).contains(seconds));
    let seconds =
        seconds.ok_or_else(|| invalid(format!("the claim {name} is no time in seconds since 1970")))?;
    Ok(Some(Timestamp::from_micros((seconds * 1e6) as i64)))
}

/// A list of texts, or one text with its items between commas or spaces; absent means none.
fn list(claims: &Map<String, Value>, name: &str) -> Result<Vec<String>, Refusal> {
    let items: Option<Vec<String>> = match claims.get(name) {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::String(text)) => {
            let items = text.split([',', ' ']).filter(|item| !item.is_empty());
            Some(items.map(str::to_owned).collect())
        }
        Some(Value::Array(items)) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        Some(_) => None,
    };
    let items = items.ok_or_else(|| invalid(format!("the claim {name} is no list of texts")))?;
    if items.len() <= User::MAX_ITEMS && items.iter().all(|item| User::is_item(item)) {
        return Ok(items);
    }
    Err(invalid(format!("the claim {name} may hold {} items of 1-128 bytes", User::MAX_ITEMS)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: i64 = 1_800_000_000;

    fn expectations(change: impl FnOnce(&mut settings::Jwt)) -> Expectations {
        let mut jwt = settings::Settings::defaults().jwt;
        change(&mut jwt);
        Expectations::from(&jwt)
    }

    fn read(expectations: &Expectations, claims: Value) -> Result<Bearer, &'static str> {
        let now = Timestamp::from_micros(NOW * 1_000_000);
        expectations.read(claims.as_object().unwrap(), now).map_err(|refusal| refusal.code)
    }

    #[test]
    fn little_is_required_and_what_is_missing_has_a_default() {
        let bearer = read(&expectations(|_| {}), json!({"sub": "kim", "exp": NOW + 60})).unwrap();
        assert_eq!(bearer.tenant, TenantId::default_tenant());
        assert_eq!(bearer.user, User::plain(UserSub::parse("kim").unwrap()));
        assert_eq!((bearer.issued_at, bearer.expires_at.millis()), (None, (NOW + 60) * 1000));
        let full = json!({"sub": "김", "tenant": "acme", "roles": ["manager", "admin"], "carriers": "c1, c2",
            "iat": NOW as f64 - 0.5, "nbf": NOW, "exp": NOW + 60});
        let bearer = read(&expectations(|_| {}), full).unwrap();
        assert_eq!((bearer.tenant.as_str(), bearer.user.sub.as_str()), ("acme", "김"));
        assert_eq!(
            (bearer.user.roles, bearer.user.carriers),
            (vec!["manager".to_owned(), "admin".to_owned()], vec!["c1".to_owned(), "c2".to_owned()])
        );
        assert_eq!(bearer.issued_at.map(Timestamp::millis), Some(NOW * 1000 - 500));
    }

    #[test]
    fn older_systems_name_the_user_differently() {
        let own = expectations(|_| {});
        assert_eq!(read(&own, json!({"userId": "u1", "exp": NOW + 1})).unwrap().user.sub.as_str(), "u1");
        assert_eq!(read(&own, json!({"userId": 17, "exp": NOW + 1})).unwrap().user.sub.as_str(), "17");
        let both = json!({"userId": "u1", "sub": "s1", "exp": NOW + 1});
        assert_eq!(read(&own, both).unwrap().user.sub.as_str(), "s1");
        let renamed = expectations(|jwt| {
            jwt.sub_claim = "uid".into();
            jwt.tenant_claim = "https://acme.example/org".into();
            jwt.roles_claim = "groups".into();
        });
        let claims = json!({"uid": "u2", "https://acme.example/org": "acme", "groups": "admin", "sub": "x",
            "tenant": "other", "exp": NOW + 1});
        let bearer = read(&renamed, claims).unwrap();
        assert_eq!((bearer.user.sub.as_str(), bearer.tenant.as_str()), ("u2", "acme"));
        assert_eq!(bearer.user.roles, ["admin"]);
    }

    #[test]
    fn what_is_not_in_order_is_named() {
        let strict = expectations(|jwt| {
            jwt.issuer = "https://id.example".into();
            jwt.audience = "bongsu".into();
        });
        let good =
            json!({"sub": "kim", "exp": NOW + 60, "iss": "https://id.example", "aud": ["other", "bongsu"]});
        assert!(read(&strict, good.clone()).is_ok());
        for (name, value, code) in [
            ("exp", json!(null), "invalid_token"),
            ("exp", json!("soon"), "invalid_token"),
            ("exp", json!(NOW * 1000), "invalid_token"),
            ("exp", json!(-1), "invalid_token"),
            ("exp", json!(NOW - 6), "expired_token"),
            ("nbf", json!(NOW + 6), "premature_token"),
            ("nbf", json!({}), "invalid_token"),
            ("iat", json!("now"), "invalid_token"),
            ("iss", json!("https://id.example/"), "wrong_issuer"),
            ("aud", json!("bongsu2"), "wrong_audience"),
            ("aud", json!([]), "wrong_audience"),
            ("aud", json!(["bongsu", 1]), "wrong_audience"),
            ("sub", json!(""), "invalid_token"),
            ("sub", json!("x".repeat(129)), "invalid_token"),
            ("sub", json!(1.5), "invalid_token"),
            ("sub", json!(null), "invalid_token"),
            ("tenant", json!("a b"), "wrong_tenant"),
            ("tenant", json!(""), "wrong_tenant"),
            ("tenant", json!(7), "wrong_tenant"),
            ("roles", json!({"admin": true}), "invalid_token"),
            ("roles", json!(["admin", 1]), "invalid_token"),
            ("roles", json!(vec!["r"; 65]), "invalid_token"),
            ("carriers", json!(["c".repeat(129)]), "invalid_token"),
        ] {
            let mut claims = good.clone();
            claims[name] = value;
            assert_eq!(read(&strict, claims.clone()).unwrap_err(), code, "{claims}");
        }
        for (name, code) in [
            ("exp", "invalid_token"),
            ("iss", "wrong_issuer"),
            ("aud", "wrong_audience"),
            ("sub", "invalid_token"),
        ] {
            let mut claims = good.clone();
            claims.as_object_mut().unwrap().remove(name);
            assert_eq!(read(&strict, claims).unwrap_err(), code);
        }
    }

    #[test]
    fn clocks_may_be_off_by_the_leeway_and_no_more() {
        let own = expectations(|jwt| jwt.leeway_s = 30);
        assert!(read(&own, json!({"sub": "a", "exp": NOW - 29, "nbf": NOW + 30})).is_ok());
        assert_eq!(read(&own, json!({"sub": "a", "exp": NOW - 30})), Err("expired_token"));
        assert_eq!(read(&own, json!({"sub": "a", "exp": NOW, "nbf": NOW + 31})), Err("premature_token"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            sub in ".{1,20}", tenant in "[A-Za-z0-9_.:-]{1,20}", roles in prop::collection::vec("[a-z_]{1,8}", 0..5),
            carriers in prop::collection::vec("[a-z_]{1,8}", 0..5), age in 0i64..1000, left in 1i64..1000,
        ) {
            let own = expectations(|jwt| {
                jwt.issuer = "bongsu".into();
                jwt.audience = "all".into();
            });
            let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
            let bearer = Bearer {
                tenant: TenantId::parse(&tenant).unwrap(),
                user: User { sub: UserSub::parse(&sub).unwrap(), roles, carriers },
                issued_at: Some(at(NOW - age)),
                expires_at: at(NOW + left),
            };
            prop_assert_eq!(own.read(&own.write(&bearer), at(NOW)).unwrap(), bearer);
        }
    }
}
