use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Common, with_database};
use crate::clock::Clock;
use crate::domain::{TenantId, UserSub};
use crate::identity::{Signer, User, installation_secret};

/// Options of `token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token for a user, signed with the HS256 secret of the configuration or else of this installation
    Create(CreateArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    #[command(flatten)]
    common: Common,
    /// The user's tenant
    #[arg(long, default_value = "default")]
    tenant: String,
    /// The user
    #[arg(long)]
    sub: String,
    /// Roles, separated by commas: dispatcher, manager, admin, shipper, ...
    #[arg(long, value_delimiter = ',')]
    roles: Vec<String>,
    /// Carriers that the user speaks for, separated by commas
    #[arg(long, value_delimiter = ',')]
    carriers: Vec<String>,
    /// How long it is good, seconds
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    ttl: u64,
}

/// Runs one of the token commands.
pub fn run(args: &TokenArgs) -> anyhow::Result<()> {
    match &args.command {
        TokenCommand::Create(args) => create(args),
    }
}

fn create(args: &CreateArgs) -> anyhow::Result<()> {
    let (settings, _) = args.common.settings(&[])?;
    let tenant = TenantId::parse(&args.tenant).context("--tenant")?;
    let sub = UserSub::parse(&args.sub).context("--sub")?;
    for (option, items) in [("--roles", &args.roles), ("--carriers", &args.carriers)] {
        if items.len() > User::MAX_ITEMS || items.iter().any(|item| !User::is_item(item)) {
            bail!("{option}: at most {} items of 1-128 bytes", User::MAX_ITEMS);
        }
    }
    let user = User { sub, roles: args.roles.clone(), carriers: args.carriers.clone() };
    let clock = Clock::system();
    let secret =
        with_database(&settings, move |db, _| async move { Ok(installation_secret(&db, clock).await?) })?;
    let signer = Signer::new(&settings.jwt, &secret);
    let (token, expires_at) = signer.sign(tenant, user, clock.now(), Duration::from_secs(args.ttl));
    if args.common.json {
        println!("{}", json!({"token": token, "expires_at": expires_at}));
    } else {
        println!("{token}");
        eprintln!("good until {expires_at}");
    }
    Ok(())
}
