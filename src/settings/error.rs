use std::path::PathBuf;

/// Why there are no settings; the message names the key.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file that cannot be read or is no TOML.
    #[error("configuration file {}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A key that does not exist.
    #[error("configuration: unknown key `{key}`{}", suggestion.as_ref().map_or(String::new(), |near| format!(", did you mean `{near}`?")))]
    UnknownKey {
        /// The key as given.
        key: String,
        /// The nearest key that exists.
        suggestion: Option<String>,
    },
    /// A value of the wrong type or outside its range, or two that contradict each other.
    #[error("configuration: {key} {problem}")]
    Invalid {
        /// `section.key`
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}
