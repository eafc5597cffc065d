//! Builds `envd`, the daemon that becomes PID 1 of every sandbox, as a static binary, so that it runs in any
//! root file system, and hands its path to `include_bytes!`.
//!
//! It is a cargo inside a cargo: its own target folder under the outer one keeps the two from waiting for each
//! other's lock, and is the same for every profile of the outer build, so that envd is compiled once.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

/// What of the outer cargo's environment would change, or break, the inner build.
const NOT_INHERITED: [&str; 8] = [
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CLIPPY_ARGS",
    "CARGO_BUILD_TARGET",
    "CARGO_MAKEFLAGS",
    "CARGO_PROFILE",
];
const SOURCES: [&str; 4] = ["../envd/src", "../envd/Cargo.toml", "../e2b-wire/src", "../e2b-wire/Cargo.toml"];

fn main() -> ExitCode {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let triple = variable("TARGET")?;
    let target = outer_target(&out, &triple).ok_or("no target folder above OUT_DIR")?.join("envd-static");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args(["build", "--quiet", "--package", "pvm-envd", "--bin", "envd", "--profile", "envd"])
        .args(["--target", &triple])
        .arg("--target-dir")
        .arg(&target)
        .current_dir("../..")
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        // CARGO_FEATURE_*, CARGO_CFG_* and CARGO_PKG_* describe this package; envd's build must not see them.
        let describes_us = ["CARGO_FEATURE_", "CARGO_CFG_", "CARGO_PKG_", "DEP_"]
            .iter()
            .any(|prefix| name_text.starts_with(prefix));
        if name_text != "RUSTFLAGS" && (describes_us || NOT_INHERITED.contains(&&*name_text)) {
            cargo.env_remove(&name);
        }
    }
    let status = cargo.status().map_err(|error| format!("cargo did not start for envd: {error}"))?;
    if !status.success() {
        return Err("building envd failed (static linking needs libc.a: apt-get install libc6-dev)".into());
    }
    let built = target.join(&triple).join("envd").join("envd");
    fs::copy(&built, out.join("envd")).map_err(|error| format!("{}: {error}", built.display()))?;
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("cargo did not set {name}"))
}

/// The outer target folder: `OUT_DIR` is `<target>/[<triple>/]<profile>/build/<package>/out`.
fn outer_target<'a>(out: &'a Path, triple: &str) -> Option<&'a Path> {
    let folder = out.ancestors().nth(4)?;
    if folder.file_name().is_some_and(|name| name == triple) { folder.parent() } else { Some(folder) }
}
