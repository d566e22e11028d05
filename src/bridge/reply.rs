//! What Redis answers, taken apart.

use std::str::FromStr;

use redis::Value;

use super::error::BridgeError;
use crate::domain::Epoch;

/// The list that every function on a log answers with.
pub(super) struct Reply(Vec<Value>);

impl Reply {
    pub fn of(value: Value) -> Result<Self, BridgeError> {
        match value {
            Value::Array(values) => Ok(Reply(values)),
            other => Err(unexpected(&other)),
        }
    }

    /// The list at this place.
    pub fn at(&self, index: usize) -> Result<&[Value], BridgeError> {
        match self.0.get(index) {
            Some(Value::Array(values)) => Ok(values),
            other => Err(unexpected(&other)),
        }
    }

    pub fn number<T: FromStr>(&self, index: usize) -> Result<T, BridgeError> {
        let missing = || BridgeError::Unexpected(format!("no number at {index}"));
        match self.0.get(index) {
            Some(Value::Int(number)) => number.to_string().parse().map_err(|_| missing()),
            Some(value) => text(value)?.parse().map_err(|_| missing()),
            None => Err(missing()),
        }
    }

    pub fn epoch(&self, index: usize) -> Result<Epoch, BridgeError> {
        self.number(index)
    }
}

pub(super) fn bytes(value: &Value) -> Result<&[u8], BridgeError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.as_bytes()),
        other => Err(unexpected(other)),
    }
}

pub(super) fn text(value: &Value) -> Result<&str, BridgeError> {
    std::str::from_utf8(bytes(value)?).map_err(|error| BridgeError::Unexpected(error.to_string()))
}

pub(super) fn texts(values: &[Value]) -> Result<Vec<&str>, BridgeError> {
    values.iter().map(text).collect()
}

fn unexpected(value: &dyn std::fmt::Debug) -> BridgeError {
    let shown: String = format!("{value:?}").chars().take(200).collect();
    BridgeError::Unexpected(shown)
}
