use crate::http;

/// Prints the document.
pub fn run() -> anyhow::Result<()> {
    println!("{}", http::document().to_pretty_json()?);
    Ok(())
}
