//! One description, many readers: the template, the table of routes, the programs, the state machines, the permissions
//! and the layers must tell the same. Each check names what differs and in which file.
#![expect(clippy::unwrap_used, reason = "tests")]

mod api;
mod errors;
mod functions;
mod layers;
mod machines;
mod permissions;
mod ports;
mod scenarios;
mod settings;
mod tables;
mod template;
mod tools;
mod translated;
mod watched;

use std::path::{Path, PathBuf};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The text of a file of the repository.
fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All Rust sources below a folder of the repository.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = walkdir::WalkDir::new(root().join(folder))
        .into_iter()
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    found.sort();
    found
}

/// Fails with one line for each difference.
#[track_caller]
fn none(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n  {}\n", problems.join("\n  "));
}

/// What is in one set and not in the other, as lines.
fn differences<T: Ord + std::fmt::Debug>(
    left: (&str, &std::collections::BTreeSet<T>),
    right: (&str, &std::collections::BTreeSet<T>),
) -> Vec<String> {
    let only = |(name, of): (&str, &std::collections::BTreeSet<T>),
                (other, not): (&str, &std::collections::BTreeSet<T>)| {
        of.difference(not).map(|item| format!("{item:?} is in {name} and not in {other}")).collect::<Vec<_>>()
    };
    [only(left, right), only(right, left)].concat()
}
