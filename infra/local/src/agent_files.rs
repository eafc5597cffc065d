//! Agents from files: each `*.md` of a folder is an agent of this install's owner. A changed file is a new version; a file
//! that is gone leaves its agent, which only DELETE removes.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use pvm_application::agents;
use pvm_application::ports_model::KnowModels;
use pvm_application::store::WriteStore;
use pvm_domain::ids::OwnerId;
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use pvm_entry::System;

/// Brings the owner's agents up to the files of `folder`; answers the names that changed. No folder is no files.
///
/// # Errors
/// Names the file and what is wrong with it.
pub async fn load(
    store: &impl WriteStore,
    models: &impl KnowModels,
    owner: &OwnerId,
    folder: &Path,
) -> anyhow::Result<Vec<String>> {
    let mut changed = Vec::new();
    for file in files(folder)? {
        let named = || format!("{}", file.display());
        let text = std::fs::read_to_string(&file).with_context(named)?;
        let definition = agents::parse_markdown(&text).with_context(named)?;
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let id = definition.agent_id.clone();
        ensure!(
            id == stem,
            "{}: it defines the agent {id}; its name must be that of the file",
            file.display()
        );
        pvm_tools::check_tools(&definition).with_context(named)?;
        let principal = Principal { owner: owner.clone(), scope: Scope::Write, projects: None };
        let known = agents::get(store, &principal, &id).await.ok();
        let outcome = match known.filter(|known| !known.builtin) {
            Some(known) if known.definition == definition => continue,
            Some(_) => agents::update(store, models, &System, &principal, &id, definition, None).await,
            None => agents::create(store, models, &System, &principal, definition, None).await,
        };
        if let Err(error) = outcome {
            bail!("{}: {}", file.display(), error.detail);
        }
        changed.push(id);
    }
    Ok(changed)
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("{} (PVM_AGENTS_DIR)", folder.display())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // README.md and the like describe the folder.
        let is_agent = path.extension().is_some_and(|end| end == "md")
            && path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .is_some_and(|stem| !stem.chars().any(|c| c.is_ascii_uppercase()));
        if is_agent && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
