//! PostgreSQL: how it is reached, what a node makes of its absence, and serving from it alone.

mod alone;
mod commands;
mod connections;
mod outages;
