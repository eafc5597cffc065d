//! Finding a conversation by its id or by its owner's own name for it.

use pvm_domain::conversation::{Conversation, ConversationAlias};
use pvm_domain::ids::{ConversationId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use crate::authorize::authorize;
use crate::error::{AppError, AppResult};
use crate::keys;
use crate::store::ReadStore;

/// The conversation that `name` (an id, or an alias of the caller's) means in `project_id`, if the caller may do `scope`
/// there.
///
/// # Errors
/// `not_found`, also for conversations of other projects; `forbidden`; of the store.
pub async fn find(
    store: &impl ReadStore,
    principal: &Principal,
    project_id: &ProjectId,
    name: &str,
    scope: Scope,
) -> AppResult<Conversation> {
    authorize(store, principal, project_id, scope).await?;
    let missing = || AppError::not_found("conversation");
    let id: ConversationId = match name.parse() {
        Ok(id) => id,
        Err(_) if is_alias(name) => {
            let key = keys::conversation_alias(&principal.owner, name);
            store.get::<ConversationAlias>(&key).await?.ok_or_else(missing)?.conversation_id
        }
        Err(_) => return Err(missing()),
    };
    let conversation: Conversation = store.get(&keys::conversation(&id)).await?.ok_or_else(missing)?;
    if conversation.project_id == *project_id { Ok(conversation) } else { Err(missing()) }
}

/// Whether `text` can be an alias: `[A-Za-z0-9_.-]{1,128}`, and not in the form of an id.
pub(super) fn is_alias(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && text.parse::<ConversationId>().is_err()
}
