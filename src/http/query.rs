use std::collections::HashSet;
use std::ops::RangeInclusive;

use actix_web::{HttpRequest, web};

use crate::domain::{Cursor, EntityId, Refusal, Selector};

/// The parameters behind a request's question mark, decoded.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Those of a request.
    pub fn of(request: &HttpRequest) -> Result<Self, Refusal> {
        Query::parse(request.query_string())
    }

    /// Reads them all.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let query = web::Query::<Vec<(String, String)>>::from_query(text);
        let query = query.map_err(|_| Refusal::malformed("query", "cannot be decoded"))?.into_inner();
        match query.iter().find(|(_, value)| value.contains('\0')) {
            Some((name, _)) => Err(Refusal::malformed(name, "must not hold the character NUL")),
            None => Ok(Query(query)),
        }
    }

    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// `cursor`: where to resume; an empty one is none.
    pub fn cursor(&self) -> Option<Cursor> {
        self.get("cursor").and_then(Cursor::given)
    }

    /// A list split at commas, trimmed, empties and repetitions dropped, of one or more such parameters;
    /// missing or empty is an error.
    pub fn list(&self, name: &str) -> Result<Vec<&str>, Refusal> {
        if self.get(name).is_none() {
            return Err(Refusal::malformed(name, "is required"));
        }
        let mut seen = HashSet::new();
        let texts = self.0.iter().filter(|(own, _)| own == name).map(|(_, text)| text);
        let items = texts.flat_map(|text| text.split(',')).map(str::trim).filter(|item| !item.is_empty());
        let items: Vec<&str> = items.filter(|item| seen.insert(*item)).collect();
        if items.is_empty() {
            return Err(Refusal::malformed(name, "names nothing"));
        }
        Ok(items)
    }

    /// A list of ids.
    pub fn ids(&self, name: &str) -> Result<Vec<EntityId>, Refusal> {
        let parse = |item| {
            EntityId::parse(item).map_err(|error| Refusal::malformed(name, format!("{item:?} {error}")))
        };
        self.list(name)?.into_iter().map(parse).collect()
    }

    /// `topics`: topics and prefixes.
    pub fn topics(&self) -> Result<Vec<Selector>, Refusal> {
        let parse = |item| {
            Selector::parse(item).map_err(|error| Refusal::malformed("topics", format!("{item:?}: {error}")))
        };
        self.list("topics")?.into_iter().map(parse).collect()
    }

    /// A whole number within a range, if it is given.
    pub fn number(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Refusal> {
        match self.get(name).map(str::parse) {
            None => Ok(None),
            Some(Ok(number)) if range.contains(&number) => Ok(Some(number)),
            Some(_) => {
                let (least, most) = range.into_inner();
                Err(Refusal::malformed(name, format!("must be within {least}-{most}")))
            }
        }
    }

    /// `limit`: 1–200, 50 when not given.
    pub fn limit(&self) -> Result<usize, Refusal> {
        Ok(self.number("limit", 1..=200)?.unwrap_or(50) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn query(text: &str) -> Query {
        Query::of(&TestRequest::with_uri(&format!("/?{text}")).to_http_request())
            .unwrap_or_else(|_| panic!("{text}"))
    }

    #[test]
    fn lists_are_trimmed_and_deduplicated() {
        assert_eq!(query("ids=a,%20b%20,,a,c").list("ids").unwrap_or_default(), ["a", "b", "c"]);
        assert_eq!(query("ids=a,b&other=x&ids=c,a").list("ids").unwrap_or_default(), ["a", "b", "c"]);
        assert!(query("ids=,%20,").list("ids").is_err());
        assert!(query("other=1").list("ids").is_err());
        assert!(query("ids=a%0Ab").ids("ids").is_err());
    }

    #[test]
    fn limits_have_a_range() {
        assert_eq!(query("").limit().unwrap_or(0), 50);
        assert!(query("limit=0").limit().is_err() && query("limit=201").limit().is_err());
        assert_eq!(query("wait=60").number("wait", 0..=60).unwrap_or_default(), Some(60));
        for text in ["wait=61", "wait=-1", "wait=1.5", "wait=", "wait=x"] {
            assert!(query(text).number("wait", 0..=60).is_err(), "{text}");
        }
    }
}
