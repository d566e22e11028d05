use std::sync::Arc;

use diesel::backend::Backend;
use diesel::deserialize::{FromSql, FromSqlRow, Result as FromResult};
use diesel::expression::AsExpression;
use diesel::serialize::{Output, Result as ToResult, ToSql};
use diesel::sql_types::Text;

/// A text column whose value several rows and their readers may share.
#[derive(Clone, Debug, PartialEq, Eq, AsExpression, FromSqlRow)]
#[diesel(sql_type = Text)]
pub struct SharedText(pub Arc<str>);

impl<DB: Backend> FromSql<Text, DB> for SharedText
where
    String: FromSql<Text, DB>,
{
    fn from_sql(bytes: DB::RawValue<'_>) -> FromResult<Self> {
        String::from_sql(bytes).map(|text| SharedText(text.into()))
    }
}

impl<DB: Backend> ToSql<Text, DB> for SharedText
where
    str: ToSql<Text, DB>,
{
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, DB>) -> ToResult {
        <str as ToSql<Text, DB>>::to_sql(&self.0, out)
    }
}
