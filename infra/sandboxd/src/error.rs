//! Why a server did not start: each one sentence that says what to do. What the system said is the error's source.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Reasons.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel refuses user namespaces.
    #[error(
        "this kernel allows no user namespaces: set /proc/sys/user/max_user_namespaces above 0 (it is {0:?})"
    )]
    NoUserNamespaces(String),
    /// Control groups are incomplete.
    #[error(
        "control groups are missing ({0}): mount cgroup v2 with the controllers cpu, memory and pids, or cgroup v1 with cpu, memory, pids and freezer"
    )]
    NoControlGroups(String),
    /// The port is taken.
    #[error("{0} is in use: stop the program that listens there or choose another address")]
    AddressInUse(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another server uses the state folder.
    #[error("another server uses the state folder {0}: stop it or choose another folder")]
    StateInUse(PathBuf),
    /// The disk is full.
    #[error("the disk of {0} is full: free some space and start again")]
    DiskFull(PathBuf),
    /// The state folder's file system cannot hold overlay layers.
    #[error("the file system of {path} cannot hold sandboxes; choose a state folder on ext4, xfs or btrfs")]
    UnfitFileSystem {
        /// The state folder.
        path: PathBuf,
        /// What was refused.
        #[source]
        source: io::Error,
    },
    /// No process in new namespaces.
    #[error("sandboxes cannot be started on this machine")]
    NoSandboxes(#[source] io::Error),
    /// No template can be used.
    #[error("no root file system for sandboxes is there: {0}")]
    NoTemplate(String),
    /// Anything else that the system refused.
    #[error("{step}")]
    System {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl StartError {
    pub(crate) fn at(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { step, source }
    }

    /// For work in a folder, where a full disk has its own sentence.
    pub(crate) fn in_folder(path: &std::path::Path, step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull(path.to_owned()),
            _ => Self::System { step, source },
        }
    }
}
