//! The AWS form for tests: the tools of fixed versions, and a stack deployed on an emulator.

mod faults;
mod stack;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

pub use faults::{Fault, Faults};
pub use stack::{AwsStack, STACK};

/// The repository.
pub fn repository() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of it").to_owned()
    });
    &ROOT
}

/// The folder of the AWS tools, installed now if they are not yet.
pub fn tools() -> &'static Path {
    static TOOLS: LazyLock<PathBuf> = LazyLock::new(|| {
        let script = repository().join("scripts/aws-tools.sh");
        let ran = Command::new(script).stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
        assert!(ran.status.success(), "scripts/aws-tools.sh could not install the tools of the AWS form");
        PathBuf::from(String::from_utf8(ran.stdout).unwrap().trim())
    });
    &TOOLS
}
