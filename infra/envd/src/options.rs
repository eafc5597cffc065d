//! The command line.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// How to use the program, shown for `--help` and after a mistake.
pub const USAGE: &str = "usage: envd --init --config-fd N
       envd --listen ADDRESS [--control-socket PATH] [--root-journal DIR] [--default-user NAME] [--default-workdir DIR]";

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Options {
    /// Be PID 1 of a sandbox; the server's socket is this descriptor.
    Init {
        /// Number of the inherited socket.
        config_fd: RawFd,
    },
    /// Be an ordinary server.
    Alone(Alone),
    /// Show [`USAGE`].
    Help,
    /// Show the version.
    Version,
}

/// Settings of a daemon that runs alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alone {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where to listen for a sandbox server.
    pub control_socket: Option<PathBuf>,
    /// Folder of the run journal.
    pub journal: PathBuf,
    /// User of requests that name none.
    pub default_user: String,
    /// Working directory of requests that name none.
    pub default_workdir: Option<String>,
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// A sentence saying which argument is wrong.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Options, String> {
    let mut arguments = arguments.into_iter();
    let mut init = false;
    let mut config_fd = None;
    let mut listen = None;
    let mut alone = Alone {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        control_socket: None,
        journal: PathBuf::from(crate::journal::DEFAULT_ROOT),
        default_user: "root".into(),
        default_workdir: None,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--help" | "-h" => return Ok(Options::Help),
            "--version" | "-V" => return Ok(Options::Version),
            "--init" => init = true,
            "--config-fd" => {
                let text = value()?;
                let number = text.parse().ok().filter(|number: &RawFd| *number > 2);
                config_fd = Some(
                    number.ok_or_else(|| format!("--config-fd must be a number above 2, not {text:?}"))?,
                );
            }
            "--listen" => {
                let text = value()?;
                listen =
                    Some(text.parse().map_err(|_| format!("--listen must be ADDRESS:PORT, not {text:?}"))?);
            }
            "--control-socket" => alone.control_socket = Some(value()?.into()),
            "--root-journal" => alone.journal = value()?.into(),
            "--default-user" => alone.default_user = value()?,
            "--default-workdir" => alone.default_workdir = Some(value()?),
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    match (init, config_fd, listen) {
        (true, Some(config_fd), None) => Ok(Options::Init { config_fd }),
        (true, None, _) => Err("--init needs --config-fd".into()),
        (true, _, Some(_)) => Err("--init and --listen exclude each other".into()),
        (false, Some(_), _) => Err("--config-fd needs --init".into()),
        (false, None, Some(listen)) => Ok(Options::Alone(Alone { listen, ..alone })),
        (false, None, None) => Err("either --init or --listen is needed".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn both_ways_to_run_are_read() {
        assert_eq!(read("--init --config-fd 3"), Ok(Options::Init { config_fd: 3 }));
        let Ok(Options::Alone(alone)) = read("--listen 127.0.0.1:0 --root-journal /j --default-user user")
        else {
            panic!("not read");
        };
        assert_eq!((alone.journal.to_str(), alone.default_user.as_str()), (Some("/j"), "user"));
    }

    #[test]
    fn mistakes_name_the_argument() {
        for (line, part) in [
            ("", "--init or --listen"),
            ("--listen", "needs a value"),
            ("--listen here", "ADDRESS:PORT"),
            ("--init", "--config-fd"),
            ("--init --config-fd 1", "above 2"),
            ("--frobnicate", "--frobnicate"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(part), "{line:?}: {error}");
        }
    }
}
