use diesel::prelude::{ExpressionMethods, OptionalExtension, QueryDsl, QueryResult, SelectableHelper};
use diesel_async::RunQueryDsl;

use crate::storage::schema::{declared_topics, topic_members};
use crate::storage::{DeclaredTopicRow, TopicMemberRow};

/// Stores a declared topic, new or changed; to be called after the feed was moved on.
pub async fn save(conn: &mut Conn, row: &DeclaredTopicRow) -> QueryResult<()> {
    diesel::insert_into(declared_topics::table)
        .values(row.clone())
        .on_conflict((declared_topics::tenant, declared_topics::name))
        .do_update()
        .set(row.clone())
        .execute(conn)
        .await?;
    Ok(())
}

/// A declared topic.
pub async fn find(conn: &mut Conn, tenant: &str, name: &str) -> QueryResult<Option<DeclaredTopicRow>> {
    declared_topics::table
        .find((tenant, name))
        .select(DeclaredTopicRow::as_select())
        .first(conn)
        .await
        .optional()
}

/// Topics that have changed since a generation.
pub async fn since(conn: &mut Conn, generation: i64) -> QueryResult<Vec<DeclaredTopicRow>> {
    declared_topics::table
        .filter(declared_topics::generation.gt(generation))
        .select(DeclaredTopicRow::as_select())
        .load(conn)
        .await
}

/// Makes users members; those who are keep the grant that they have.
pub async fn grant(conn: &mut Conn, rows: &[TopicMemberRow]) -> QueryResult<()> {
    for row in rows {
        let absent = diesel::insert_into(topic_members::table).values(row.clone());
        let inserted = absent.on_conflict_do_nothing().execute(conn).await?;
        if inserted == 0 {
            let withdrawn = topic_members::table
                .find((&row.tenant, &row.name, &row.sub))
                .filter(topic_members::since.is_null());
            diesel::update(withdrawn).set(row.clone()).execute(conn).await?;
        }
    }
    Ok(())
}

/// Takes membership from users.
pub async fn withdraw(
    conn: &mut Conn,
    tenant: &str,
    name: &str,
    subs: &[String],
    generation: i64,
) -> QueryResult<()> {
    let own = topic_members::table.filter(topic_members::tenant.eq(tenant)).filter(topic_members::name.eq(name));
    let members = own.filter(topic_members::sub.eq_any(subs)).filter(topic_members::since.is_not_null());
    diesel::update(members)
        .set((topic_members::since.eq(None::<String>), topic_members::generation.eq(generation)))
        .execute(conn)
        .await?;
    Ok(())
}

/// Members whose user comes after `after`, by user, at most `limit`.
pub async fn members(
    conn: &mut Conn,
    tenant: &str,
    name: &str,
    after: &str,
    limit: i64,
) -> QueryResult<Vec<TopicMemberRow>> {
    topic_members::table
        .filter(topic_members::tenant.eq(tenant))
        .filter(topic_members::name.eq(name))
        .filter(topic_members::since.is_not_null())
        .filter(topic_members::sub.gt(after))
        .order(topic_members::sub)
        .limit(limit)
        .select(TopicMemberRow::as_select())
        .load(conn)
        .await
}

/// How many members a topic has.
pub async fn count_members(conn: &mut Conn, tenant: &str, name: &str) -> QueryResult<i64> {
    topic_members::table
        .filter(topic_members::tenant.eq(tenant))
        .filter(topic_members::name.eq(name))
        .filter(topic_members::since.is_not_null())
        .count()
        .get_result(conn)
        .await
}

/// Members that came or went since a generation.
pub async fn members_since(conn: &mut Conn, generation: i64) -> QueryResult<Vec<TopicMemberRow>> {
    topic_members::table
        .filter(topic_members::generation.gt(generation))
        .select(TopicMemberRow::as_select())
        .load(conn)
        .await
}
