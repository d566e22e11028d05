/// How much of a bid others than its owner may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Everything.
    Open,
    /// Everything, other carriers under pseudonyms.
    Anonymous,
    /// Nothing but each carrier's own rank.
    Sealed,
}

impl Visibility {
    const ALL: [Visibility; 3] = [Visibility::Open, Visibility::Anonymous, Visibility::Sealed];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Visibility::Open => "open",
            Visibility::Anonymous => "anonymous",
            Visibility::Sealed => "sealed",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Self> {
        Visibility::ALL.into_iter().find(|own| own.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_visibility_is_read_as_it_is_written() {
        for own in Visibility::ALL {
            assert_eq!(Visibility::parse(own.as_str()), Some(own));
            assert_eq!(serde_json::to_value(own).unwrap(), own.as_str());
        }
        assert_eq!(Visibility::parse("Sealed"), None);
    }
}
