//! `POST /api/projects/{project_id}/stream-ticket`

use lambda_http::Request;
use pvm_application::authorize::authorize;
use pvm_application::error::{AppError, AppResult};
use pvm_application::ports::Clock;
use pvm_application::store::WriteStore;
use pvm_contracts::events::{CreateTicket, Ticket};
use pvm_domain::ids::ProjectId;
use pvm_domain::project::Scope;
use pvm_entry::{Reply, Signer, principal, reply, request, ticket};

/// Makes a ticket for one event stream of the project.
///
/// # Errors
/// Of the request; `invalid` for a path that is none of the project's event streams.
pub async fn handle(
    store: &impl WriteStore,
    signer: &Signer,
    clock: &impl Clock,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id: ProjectId = request::path_id(&request, "project_id")?;
    let CreateTicket { path } = request::json(&request)?;
    let path = path.unwrap_or_else(|| format!("/api/projects/{project_id}/events"));
    let scope = if is_terminal(&project_id, &path) { Scope::Write } else { Scope::Read };
    authorize(store, &principal, &project_id, scope).await?;
    if scope == Scope::Read && !is_stream(&project_id, &path) {
        let detail = "must be the path of this project's terminal or of one of its event streams";
        return Err(AppError::invalid("path", detail));
    }
    let claim = request::claim(&request, &principal, request.body())?;
    crate::once::note(store, clock, claim.as_ref(), &path).await?;
    let (ticket, expires_at) = ticket::issue(signer, clock.now(), &principal, &project_id, &path, scope);
    let url = format!("{path}?{}={ticket}", ticket::PARAMETER);
    Ok(reply::ok(&Ticket { ticket, url, expires_at }))
}

/// Whether `path` is where the project's terminal is (a WebSocket, in an embedded install).
fn is_terminal(project_id: &ProjectId, path: &str) -> bool {
    path.strip_prefix(&format!("/api/projects/{project_id}/")) == Some("vm/terminal")
}

/// Whether `path` is `.../events` or `.../conversations/{conversation_id}/events` below the project.
fn is_stream(project_id: &ProjectId, path: &str) -> bool {
    let Some(rest) = path.strip_prefix(&format!("/api/projects/{project_id}/")) else { return false };
    match rest.split('/').collect::<Vec<_>>()[..] {
        ["events"] => true,
        ["conversations", name, "events"] => {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use pvm_domain::ids::PrefixedId;

    use super::*;

    #[test]
    fn a_ticket_is_for_an_event_stream_of_its_project() {
        let (project, other) = (ProjectId::from_parts(1, 1), ProjectId::from_parts(2, 2));
        let below = |rest: &str| is_stream(&project, &format!("/api/projects/{project}/{rest}"));
        assert!(below("events") && below("conversations/my-chat.1/events"));
        assert!(!below("files") && !below("conversations//events") && !below("conversations/a/b/events"));
        assert!(!below("conversations/a?x=/events"));
        assert!(!is_stream(&project, &format!("/api/projects/{other}/events")));
    }
}
