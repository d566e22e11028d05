use std::fmt;
use std::str::FromStr;

/// Names one run of a tenant's log; new whenever the log starts afresh. Written as 16 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// An epoch from its number, for instance from the operating system's generator.
    pub const fn new(value: u64) -> Self {
        Epoch(value)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}", self.0)
    }
}

impl FromStr for Epoch {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 16 || !text.bytes().all(lower_hex) {
            return Err(PositionError);
        }
        u64::from_str_radix(text, 16).map(Epoch).map_err(|_| PositionError)
    }
}

/// A place in a tenant's log, `<epoch>-<seq>`: everything up to and including `seq` lies behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which run of the log.
    pub epoch: Epoch,
    /// Number of the last event behind this position; 0 before the first.
    pub seq: u64,
}

/// The text is not a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be <16 hex digits>-<number>")]
pub struct PositionError;

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.epoch, self.seq)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (epoch, seq) = text.split_once('-').ok_or(PositionError)?;
        let canonical =
            seq == "0" || (!seq.starts_with('0') && seq.bytes().all(|byte| byte.is_ascii_digit()));
        if seq.is_empty() || !canonical {
            return Err(PositionError);
        }
        Ok(Position { epoch: epoch.parse()?, seq: seq.parse().map_err(|_| PositionError)? })
    }
}

impl serde::Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a client sent as the place to resume from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// A position of some log.
    At(Position),
    /// Anything else: answered in-band as `invalid`, never as an HTTP error.
    Unreadable,
}

impl Cursor {
    /// Reads a cursor; never fails.
    pub fn read(text: &str) -> Self {
        text.parse().map_or(Cursor::Unreadable, Cursor::At)
    }

    /// The same of what may be left empty, which is no cursor.
    pub fn given(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Cursor::read(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_position_survives_its_text(epoch: u64, seq: u64) {
            let position = Position { epoch: Epoch::new(epoch), seq };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }

        #[test]
        fn any_text_is_a_cursor_and_only_canonical_text_is_a_position(text in ".{0,60}") {
            if let Cursor::At(position) = Cursor::read(&text) {
                prop_assert_eq!(position.to_string(), text);
            }
        }
    }

    #[test]
    fn near_misses_are_unreadable() {
        for text in [
            "",
            "-",
            "1763900000000",
            "00000000000000ab-",
            "00000000000000AB-1",
            "00000000000000ab-01",
            "00000000000000ab-+1",
            "00000000000000ab-18446744073709551616",
            "0000000000000ab-1",
            "00000000000000ab-1\n",
        ] {
            assert_eq!(Cursor::read(text), Cursor::Unreadable, "{text:?}");
            assert_eq!(Cursor::given(text).is_none(), text.is_empty());
        }
    }
}
