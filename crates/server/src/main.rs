//! The command line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use keyholder_domain::{ProviderId, Text};
use keyholder_egress::{Egress, Outcome, Settings};
use keyholder_server::call::chain;
use keyholder_server::config::Config;
use keyholder_server::serve::{Listening, Role, ServeError, connect};
use keyholder_server::{refresh, serve, telemetry};

/// A resolve makes about a hundred small allocations; this one makes them in a fifth less time than the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A credential broker: holds the accounts people connect, and lets services use them through grants.
#[derive(Debug, Parser)]
#[command(name = "keyholder", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve gRPC until told to stop, by the configuration file.
    Serve {
        #[command(flatten)]
        file: ConfigFile,
        /// What this process does; as a rule, everything.
        #[arg(long, value_delimiter = ',', default_value = "server,refresher")]
        roles: Vec<Role>,
    },
    /// Try Keyholder out: start a private Postgres, make certificates and a key, and serve. Needs no configuration.
    #[cfg(feature = "dev")]
    Dev(keyholder_server::dev::DevOptions),
    /// Bring the database schema up to date.
    Migrate(ConfigFile),
    /// Check the configuration, and everything it names, without serving.
    CheckConfig(ConfigFile),
    /// See how connections are refreshed, and let it go on where it was stopped.
    Refresh {
        #[command(subcommand)]
        command: RefreshCommand,
    },
    /// Ask what may be called outside.
    Egress {
        #[command(subcommand)]
        command: EgressCommand,
    },
    /// Look at provider definitions.
    Providers {
        #[command(subcommand)]
        command: Providers,
    },
}

#[derive(Debug, Subcommand)]
enum RefreshCommand {
    /// Print a table of every OAuth client, how its connections stand, and whether anything is refreshed at all.
    Status(ConfigFile),
    /// End the quarantine of a provider's OAuth clients. What the provider says of grants is believed for an hour.
    Resume {
        #[command(flatten)]
        file: ConfigFile,
        /// The provider.
        provider: String,
        /// Only this client.
        #[arg(long)]
        client_id: Option<String>,
    },
    /// Let refreshing go on that was frozen because the database was restored or copied.
    Release(ConfigFile),
}

#[derive(Debug, Subcommand)]
enum EgressCommand {
    /// Say whether a URL may be called, and why not. Asks the name servers; calls nothing. Ends with 0 if it may,
    /// 1 if it may not, 2 if that cannot be said.
    Check {
        #[command(flatten)]
        file: OptionalConfigFile,
        /// The URL.
        url: String,
    },
}

/// The file whose settings count; without one, the defaults do.
#[derive(Debug, clap::Args)]
struct OptionalConfigFile {
    /// The configuration file, for its settings of egress and danger.
    #[arg(long, env = "KEYHOLDER_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Providers {
    /// List the built-in provider definitions.
    List,
    /// Check the provider definitions in a folder, and say everything that is wrong.
    Lint {
        /// The folder.
        directory: PathBuf,
    },
    /// Print the JSON Schema of provider definitions.
    Schema,
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, env = "KEYHOLDER_CONFIG", default_value = "keyholder.toml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    #[cfg(feature = "dev")]
    let _scenario = fail::FailScenario::setup();
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            say_error(&*error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match command {
        Command::Serve { file, roles } => block_on(serve_file(&file.config, &roles))?,
        #[cfg(feature = "dev")]
        Command::Dev(options) => keyholder_server::dev::run(&options)?,
        Command::Migrate(file) => block_on(migrate(&file.config))?,
        Command::CheckConfig(file) => block_on(check_config(&file.config))?,
        Command::Refresh { command } => block_on(refresh_command(command))?,
        Command::Egress { command: EgressCommand::Check { file, url } } => {
            return check_url(file.config.as_deref(), &url);
        }
        Command::Providers { command } => return Ok(providers(command)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn block_on(work: impl Future<Output = Result<(), ServeError>>) -> Result<(), Box<dyn std::error::Error>> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)?)
}

async fn serve_file(file: &Path, roles: &[Role]) -> Result<(), ServeError> {
    let config = Config::load(file)?;
    telemetry::start(&config.log);
    Listening::open(config, roles).await?.serve(serve::stop_signal()).await
}

async fn migrate(file: &Path) -> Result<(), ServeError> {
    let store = connect(&Config::load(file)?).await?;
    match store.migrate().await? {
        0 => say("the database schema is up to date"),
        1 => say("applied 1 migration"),
        number => say(&format!("applied {number} migrations")),
    }
    Ok(())
}

async fn check_config(file: &Path) -> Result<(), ServeError> {
    let config = Config::load(file)?;
    serve::check(&config).await?;
    say(&format!("{}: good", file.display()));
    for (place, id) in config.key_ring()?.ids().enumerate() {
        say(&format!("  the key {id} {}", if place == 0 { "wraps and opens" } else { "opens" }));
    }
    for workload in config.policy.workloads() {
        let roles: Vec<&str> = workload.roles().map(keyholder_identity::Role::as_str).collect();
        say(&format!("  {} is {}", workload.id(), roles.join(", ")));
    }
    Ok(())
}

async fn refresh_command(command: RefreshCommand) -> Result<(), ServeError> {
    match command {
        RefreshCommand::Status(file) => say(&refresh::status(&Config::load(&file.config)?).await?),
        RefreshCommand::Resume { file, provider, client_id } => {
            let provider =
                ProviderId::parse(&provider).map_err(|rule| ServeError::Argument("provider", rule))?;
            let client_id = client_id.as_deref().map(Text::parse).transpose();
            let client_id = client_id.map_err(|rule| ServeError::Argument("client-id", rule))?;
            match refresh::resume(&Config::load(&file.config)?, &provider, client_id.as_ref()).await? {
                0 => return Err(ServeError::NothingInQuarantine(provider)),
                1 => say("1 client is used again"),
                number => say(&format!("{number} clients are used again")),
            }
        }
        RefreshCommand::Release(file) => {
            let config = Config::load(&file.config)?;
            if refresh::release(&config).await? {
                match config.refresher.cluster.as_str() {
                    "" => say("refreshing goes on; this installation has no name"),
                    name => say(&format!("refreshing goes on; this installation is called {name}")),
                }
            } else {
                say("refreshing was not frozen");
            }
        }
    }
    Ok(())
}

fn check_url(file: Option<&Path>, url: &str) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let egress = match file {
        Some(file) => Config::load(file)?.egress()?,
        None => Egress::new(&Settings::default())?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let verdict = runtime.block_on(egress.judge(url));
    let (code, line) = match verdict.outcome {
        Outcome::Allowed => (0, "allowed".to_owned()),
        Outcome::Refused(refusal) => (1, format!("refused ({}): {refusal}", refusal.reason())),
        Outcome::Unknown(fault) => (2, format!("cannot be judged ({}): {fault}", fault.reason())),
    };
    say(&line);
    for (address, class) in verdict.addresses {
        say(&format!("  {address}  {class:?}"));
    }
    Ok(ExitCode::from(code))
}

fn providers(command: Providers) -> Result<ExitCode, std::io::Error> {
    match command {
        Providers::List => {
            for provider in keyholder_catalog::Catalog::builtin().iter() {
                let methods: Vec<&str> =
                    provider.auth_methods.iter().map(|method| method.method.as_str()).collect();
                say(&format!("{:<22} {:<28} {}", provider.id, provider.name, methods.join(", ")));
            }
        }
        Providers::Lint { directory } => {
            let report = keyholder_catalog::lint(&directory)?;
            say(report.to_string().trim_end());
            if !report.is_clean() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Providers::Schema => say(keyholder_catalog::schema().trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what a command was asked for. Whoever reads may stop before the end, as `head` does.
fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}

#[expect(clippy::print_stderr, reason = "logging may not have started")]
fn say_error(error: &dyn std::error::Error) {
    eprintln!("keyholder: {}", chain(error));
}
