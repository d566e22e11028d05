use serde_json::Value;

/// A client that holds the whole list of a ranking and follows it by frames alone.
#[derive(Debug, Default)]
pub struct Watcher {
    version: i64,
    rows: Vec<Value>,
    /// Frames whose moves could be applied.
    pub applied: usize,
}

impl Watcher {
    /// Takes a frame in, as the protocol says.
    pub fn take(&mut self, frame: &Value) {
        let version = frame["version"].as_i64().expect("a version");
        if version <= self.version {
            return;
        }
        match frame["moves"].as_array() {
            Some(moves) if frame["from_version"] == self.version => {
                self.apply(moves);
                self.applied += 1;
            }
            // not at from_version: the window, which has to be all there is
            _ => {
                self.rows = frame["ranked_proposals"].as_array().expect("rows").clone();
                assert_eq!(frame["total"], self.rows.len(), "the window holds everybody");
            }
        }
        let window = frame["ranked_proposals"].as_array().expect("rows");
        for (at, row) in window.iter().enumerate() {
            assert_eq!(self.rows[at]["proposal_id"], row["proposal_id"], "the window is the top of the list");
            self.rows[at] = row.clone();
        }
        assert_eq!(frame["total"], self.rows.len());
        for (at, row) in self.rows.iter_mut().enumerate() {
            row["rank"] = (at + 1).into();
        }
        self.version = version;
    }

    fn apply(&mut self, moves: &[Value]) {
        for own in moves {
            let place = |name: &str| own[name].as_u64().map(|rank| rank as usize - 1);
            let taken = place("from").map(|from| self.rows.remove(from));
            if let Some(taken) = &taken {
                assert_eq!(taken["proposal_id"], own["proposal_id"]);
            }
            if let Some(to) = place("to") {
                let row = match &own["row"] {
                    Value::Null => {
                        taken.unwrap_or_else(|| serde_json::json!({"proposal_id": own["proposal_id"]}))
                    }
                    row => row.clone(),
                };
                self.rows.insert(to, row);
            }
        }
    }

    /// The version it is at.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// What it holds, without what a later frame need not say again.
    pub fn rows(&self) -> Vec<Value> {
        let fields =
            ["proposal_id", "carrier_id", "rank", "score", "price", "ei", "lead_time_hours", "rating"];
        let shown = |row: &Value| {
            let own = fields.iter().filter(|name| !row[**name].is_null());
            own.map(|name| ((*name).to_owned(), row[*name].clone())).collect()
        };
        self.rows.iter().map(|row| Value::Object(shown(row))).collect()
    }
}
