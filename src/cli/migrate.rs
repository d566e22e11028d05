use super::{Common, with_database};

/// Migrates; says what was done.
pub fn run(args: &Common) -> anyhow::Result<()> {
    let (settings, _) = args.settings(&[])?;
    let ran = with_database(&settings, |_, ran| async move { Ok(ran) })?;
    match args.json {
        true => println!("{}", serde_json::json!({"migrations": ran})),
        false if ran.is_empty() => println!("the schema is up to date"),
        false => println!("ran {}", ran.join(", ")),
    }
    Ok(())
}
