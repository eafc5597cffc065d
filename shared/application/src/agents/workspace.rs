//! Agents of a project's own workspace: `agents/<agent_id>.md`. They only add names. Whoever can write files could otherwise
//! give a known agent another prompt or more rights.

use pvm_domain::agent::AgentDefinition;
use pvm_domain::conversation::PinnedAgent;
use pvm_domain::file::{ProjectFile, WorkspacePath};
use pvm_domain::ids::{OwnerId, ProjectId};
use pvm_domain::limits;
use pvm_domain::{Timestamp, text};
use sha2::{Digest, Sha256};

use super::{AgentVersion, CheckTools, parse_markdown};
use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::GetObject;
use crate::store::{StoreError, Tx, WriteStore};

/// Numbers of such versions begin here, far above those that are counted, and still whole in JSON.
const FIRST: u64 = 1 << 52;

/// The version of an agent that its file in the workspace says now. The same text is the same version.
///
/// # Errors
/// `invalid` naming `agent_ids` and what is wrong with the file; of the store. `None` where there is no such file.
pub(crate) async fn pin_workspace(
    store: &impl WriteStore,
    objects: &impl GetObject,
    owner: &OwnerId,
    project_id: &ProjectId,
    agent_id: &str,
    check_tools: CheckTools,
    now: Timestamp,
) -> AppResult<Option<(PinnedAgent, AgentDefinition)>> {
    if pvm_domain::agent::agent_id("agent_ids", agent_id).is_err() {
        return Ok(None);
    }
    let name = format!("agents/{agent_id}.md");
    let path = WorkspacePath::parse("agent_ids", &name)?;
    let file: Option<ProjectFile> = store.get(&keys::file(project_id, &path)).await?;
    let Some(file) = file.filter(|file| file.object_version > 0) else { return Ok(None) };
    let bad = |why: String| {
        AppError::invalid("agent_ids", format!("names {agent_id:?}, whose file {name} cannot be used: {why}"))
    };
    if file.size > limits::JSON_BODY_BYTES as u64 {
        return Err(bad("it is too long".to_owned()));
    }
    let bytes = objects.get(&file.current_key()).await.map_err(|error| {
        AppError::new(ErrorCode::Unavailable, "The file store does not answer; try again in a moment.")
            .because(error)
    })?;
    let definition =
        parse_markdown(&String::from_utf8_lossy(&bytes)).map_err(|error| bad(error.to_string()))?;
    check_tools(&definition).map_err(|error| bad(error.to_string()))?;
    if definition.agent_id != agent_id {
        let other = text::head_and_tail(&definition.agent_id, 80).0;
        return Err(bad(format!("it defines {other:?}, and its name must be that of the file")));
    }
    let number = number_of(&bytes);
    let mut version = AgentVersion {
        owner: owner.clone(),
        definition: definition.clone(),
        number,
        created_at: now,
        version: 0,
    };
    match store.commit(Tx::new().create(&mut version)).await {
        // It is there already, with the same text.
        Ok(_) | Err(StoreError::Conflict { .. }) => {}
        Err(other) => return Err(other.into()),
    }
    Ok(Some((PinnedAgent { agent_id: agent_id.to_owned(), number }, definition)))
}

/// A number that follows from the text.
fn number_of(bytes: &[u8]) -> u64 {
    let hash = Sha256::digest(bytes);
    let digits = hash.iter().take(6).fold(0, |number, byte| (number << 8) | u64::from(*byte));
    FIRST + digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_version_follows_from_its_text_and_is_whole_in_json() {
        assert_eq!(number_of(b"a"), number_of(b"a"));
        assert_ne!(number_of(b"a"), number_of(b"b"));
        assert!(number_of(b"a") >= FIRST && number_of(b"a") < 1 << 53);
    }
}
