//! The embedded database as another process sees it.

use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::sql_types::Text;
use diesel::{Connection, QueryableByName, RunQueryDsl, SqliteConnection};

/// A connection of its own to a server's database.
pub struct Outsider(SqliteConnection);

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    integrity_check: String,
}

impl Outsider {
    /// Opens the database of a data directory, with a server running or without.
    pub fn open(data_dir: &Path) -> Self {
        let path = data_dir.join("bongsu.db");
        let connection = SqliteConnection::establish(&path.to_string_lossy()).expect("it opens");
        let mut own = Outsider(connection);
        own.run("PRAGMA busy_timeout=10000");
        own
    }

    /// Runs statements.
    pub fn run(&mut self, statements: &str) {
        self.0.batch_execute(statements).unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    /// Fails unless SQLite finds the file whole.
    pub fn assert_whole(&mut self) {
        let lines: Vec<Line> =
            diesel::sql_query("PRAGMA integrity_check").load(&mut self.0).expect("it checks");
        let found: Vec<_> = lines.iter().map(|line| line.integrity_check.as_str()).collect();
        assert_eq!(found, ["ok"]);
    }
}
