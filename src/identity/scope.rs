use std::fmt;

/// What an API key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Publish events and report readings.
    Publish,
    /// Listen.
    Subscribe,
    /// Run the tenant's entities.
    Manage,
    /// Administer the tenant.
    Admin,
    /// Speak for one of the tenant's users.
    ActAsUser,
    /// Run the nodes; bound to no tenant.
    Operator,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Scope; 6] =
        [Scope::Publish, Scope::Subscribe, Scope::Manage, Scope::Admin, Scope::ActAsUser, Scope::Operator];

    /// The word used on the command line and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scope::Publish => "publish",
            Scope::Subscribe => "subscribe",
            Scope::Manage => "manage",
            Scope::Admin => "admin",
            Scope::ActAsUser => "act_as_user",
            Scope::Operator => "operator",
        }
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Reads a list separated by commas; the error is the word that is no scope.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        words
            .map(|word| Scope::ALL.into_iter().find(|scope| scope.as_str() == word).ok_or(word))
            .try_fold(Scopes::default(), |scopes, scope| {
                scope.map(|scope| scopes.with(scope)).map_err(str::to_owned)
            })
    }

    /// With one more.
    pub const fn with(self, scope: Scope) -> Self {
        Scopes(self.0 | 1 << scope as u8)
    }

    /// Whether it is among them.
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & 1 << scope as u8 != 0
    }

    /// Whether any is among them.
    pub fn has_any(self, scopes: &[Scope]) -> bool {
        scopes.iter().any(|scope| self.has(*scope))
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The words, in a fixed order.
    pub fn words(self) -> Vec<&'static str> {
        Scope::ALL.into_iter().filter(|scope| self.has(*scope)).map(Scope::as_str).collect()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.words().join(","))
    }
}
