use diesel::prelude::{ExpressionMethods, QueryDsl, QueryResult};
use diesel_async::RunQueryDsl;

use crate::storage::schema::token_secrets;

/// The secret of this installation; `fresh` becomes it when there is none.
pub async fn find_or_insert(conn: &mut Conn, fresh: &str, now_us: i64) -> QueryResult<String> {
    diesel::insert_into(token_secrets::table)
        .values((token_secrets::id.eq(1), token_secrets::secret.eq(fresh), token_secrets::created_us.eq(now_us)))
        .on_conflict_do_nothing()
        .execute(conn)
        .await?;
    token_secrets::table.find(1).select(token_secrets::secret).first(conn).await
}
