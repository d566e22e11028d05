use serde::{Deserialize, Serialize};

/// Who may see the proposals of a bid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Everybody of the tenant sees everything.
    Open,
    /// Others than the owner see pseudonyms in place of carriers and proposals.
    Anonymous,
    /// Others than the owner see nothing but how their own proposal stands.
    Sealed,
}

impl Visibility {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Visibility::Open => "open",
            Visibility::Anonymous => "anonymous",
            Visibility::Sealed => "sealed",
        }
    }

    /// The one of this name.
    pub fn parse(text: &str) -> Option<Self> {
        [Visibility::Open, Visibility::Anonymous, Visibility::Sealed]
            .into_iter()
            .find(|own| own.as_str() == text)
    }
}
