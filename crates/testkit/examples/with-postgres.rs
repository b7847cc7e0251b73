//! Runs a command with `DATABASE_URL` set to a private Postgres on which a folder of migrations was applied.
//!
//! ```text
//! cargo run -p keyholder-testkit --example with-postgres -- crates/store/migrations cargo check -p keyholder-store
//! ```

use std::error::Error;
use std::process::{Command, ExitCode};

use keyholder_testkit::postgres::PrivatePostgres;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(migrations), Some(program)) = (arguments.next(), arguments.next()) else {
        return Err("give a folder of migrations and a command".into());
    };
    let postgres = PrivatePostgres::temporary()?;
    postgres.create_database("keyholder")?;
    let mut files: Vec<_> = std::fs::read_dir(migrations)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    for file in files {
        postgres.psql("keyholder", &std::fs::read_to_string(file)?)?;
    }
    let status =
        Command::new(program).args(arguments).env("DATABASE_URL", postgres.url("keyholder")).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
