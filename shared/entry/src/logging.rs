//! Logs: readable lines on a terminal, JSON in Lambda. They go to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, Settings};

/// Starts logging for this process. A second call in one process changes nothing.
///
/// # Errors
/// `PVM_LOG` is not a filter.
pub fn start(settings: &Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.log).map_err(|error| {
        anyhow::anyhow!("PVM_LOG: {error}; write a level such as `info`, or `info,pvm_api=debug`")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match settings.log_format {
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
        LogFormat::Terminal => {
            builder.compact().with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init()
        }
    };
    // Only a test that starts several servers gets here twice.
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
    Ok(())
}
