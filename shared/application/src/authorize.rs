//! The one door: every use case on a project asks here first. What the caller may not see does not exist (404).

use pvm_domain::ids::ProjectId;
use pvm_domain::key::Principal;
use pvm_domain::project::{Member, Project, Scope};

use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::store::ReadStore;

/// The project, if `principal` may do `scope` in it.
///
/// # Errors
/// `not_found` where it does not exist, is being deleted, or is not the caller's; `forbidden` where the caller may see
/// it but not do this.
pub async fn authorize(
    store: &impl ReadStore,
    principal: &Principal,
    project_id: &ProjectId,
    scope: Scope,
) -> AppResult<Project> {
    if !principal.reaches(project_id, Scope::Read) {
        return Err(AppError::not_found("project"));
    }
    let project: Project = match store.get(&keys::project(project_id)).await? {
        Some(project) => project,
        None => return Err(AppError::not_found("project")),
    };
    if project.deleting {
        return Err(AppError::not_found("project"));
    }
    let allowed = if project.owner == principal.owner {
        true
    } else {
        let member: Option<Member> = store.get(&keys::member(project_id, &principal.owner)).await?;
        match member {
            Some(member) => member.role.allows(scope),
            None => return Err(AppError::not_found("project")),
        }
    };
    if !allowed || scope > principal.scope {
        return Err(forbidden(scope));
    }
    Ok(project)
}

/// Demands `scope` where no project is concerned.
///
/// # Errors
/// `forbidden` with the scope that is missing.
pub fn require(principal: &Principal, scope: Scope) -> AppResult<()> {
    if scope <= principal.scope { Ok(()) } else { Err(forbidden(scope)) }
}

fn forbidden(scope: Scope) -> AppError {
    let name = match scope {
        Scope::Read => "read",
        Scope::Write => "write",
        Scope::Admin => "admin",
    };
    AppError::new(
        ErrorCode::Forbidden,
        format!("This needs the scope `{name}`; ask the owner for a key that has it."),
    )
}
