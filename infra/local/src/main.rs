//! `pvm`: the embedded install.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this program talks to the person at the terminal"
)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pvm_entry::Settings;
use pvm_local::{bench, demo, serve, template};

/// A Linux computer for every project: agents, people and programs work in it together.
#[derive(Debug, Parser)]
#[command(version, after_help = "Settings are environment variables; `pvm settings` lists them.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole system in this process until Ctrl-C.
    Serve,
    /// Run the main job end to end on real input, over HTTP, and check every fact.
    Demo {
        /// Leave the project, and a stack that was started for it, running.
        #[arg(long)]
        keep: bool,
    },
    /// Build a template of VMs now.
    Template {
        /// Which: `base` or `host`.
        name: String,
    },
    /// Measure the figures of the design, each as a ratio to a baseline measured in the same run.
    Bench {
        /// Rounds of each measurement.
        #[arg(long, default_value_t = 200)]
        rounds: usize,
    },
    /// List the settings.
    Settings,
    /// Remove the state folder with all VMs; no server may be using it.
    Purge,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pvm: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pvm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve => serve::run(Settings::from_env()?).await,
        Command::Demo { keep } => {
            let settings = Settings::from_env()?;
            let api_key = settings.api_key.map(|key| key.reveal().to_owned());
            demo::run(demo::Options { url: settings.url, api_key, keep }).await
        }
        Command::Template { name } => {
            let shown = name.clone();
            template::ensure(&name, None, move |progress| println!("{shown}: {progress}")).await?;
            println!("{name}: ready");
            Ok(())
        }
        Command::Bench { rounds } => bench::run(rounds).await,
        Command::Settings => {
            for variable in Settings::VARIABLES {
                let default = if variable.default.is_empty() { "not set" } else { variable.default };
                println!("{:<26} {} (default: {default})", variable.name, variable.doc.trim());
            }
            Ok(())
        }
        Command::Purge => serve::purge(&Settings::from_env()?).await,
    }
}
