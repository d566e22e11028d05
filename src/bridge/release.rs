//! What nodes of different releases tell each other of what they write, so that adjacent ones share a cluster.
//!
//! Everything written carries two numbers: the version that wrote it, and the oldest version that can read it. A release
//! may add fields at the end and new kinds of notices, which earlier ones pass over; what earlier ones could not read it
//! only begins to write in the release after the one that began to read it, and says so by the second number.
//!
//! The same rule holds for what carries no number: rows of the outbox, what nodes keep in the database as JSON, and the
//! figures that they exchange. A kind of topic, a class, a visibility is nothing that may be passed over, since a node that
//! does not know it cannot read the event at all: a release learns it, and the next one writes it. A field that is added
//! to stored JSON has a default.

/// The version of what this release writes: messages, notices and logs.
///
/// The feature `next_release` builds what the next one could be: it announces the next version, and adds a field.
pub(super) const VERSION: u32 = if cfg!(feature = "next_release") { 2 } else { 1 };
/// The oldest version that reads what this release writes.
pub(super) const SINCE: u32 = 1;

/// Fields that are added at the end of each entry: names and values.
pub(super) const ADDED: &[(&str, &str)] = if cfg!(feature = "next_release") { &[("next", "1")] } else { &[] };

/// The beginning of every function on a log, which says the same there.
pub(super) fn preamble() -> String {
    let added: Vec<String> = ADDED.iter().map(|(name, value)| format!("'{name}', '{value}'")).collect();
    format!("local VERSION, SINCE, ADDED = {VERSION}, {SINCE}, {{ {} }}\n", added.join(", "))
}
