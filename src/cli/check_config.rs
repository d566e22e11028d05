use super::Common;

/// Prints the options in force; fails when they are not valid.
pub fn run(args: &Common) -> anyhow::Result<()> {
    let (settings, warnings) = args.settings(&[])?;
    if args.json {
        let shown: toml::Table = settings.masked().parse()?;
        let warnings: Vec<String> = warnings.into_iter().map(|warning| warning.0).collect();
        println!("{}", serde_json::json!({"settings": shown, "warnings": warnings}));
        return Ok(());
    }
    print!("{}", settings.masked());
    for warning in warnings {
        eprintln!("warning: {}", warning.0);
    }
    Ok(())
}
