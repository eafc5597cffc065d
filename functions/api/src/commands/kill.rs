//! `DELETE /api/projects/{project_id}/vm/commands/{command_id}`

use lambda_http::Request;
use pvm_application::commands::{self, Live};
use pvm_application::error::AppResult;
use pvm_application::ports::{
    Ambient, ConnectVm, GetObject, PutObject, RequestSave, RunCommands, StartExecution,
};
use pvm_application::store::WriteStore;
use pvm_entry::{Reply, principal, request};

use crate::commands::view::{self, Offsets};

/// Kills a command and answers how it ended; 202 where its end is not known yet.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    objects: &(impl PutObject + GetObject),
    workflow: &impl StartExecution,
    vm: &(impl RunCommands + ConnectVm),
    saver: &impl RequestSave,
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let command_id = request::path_id(&request, "command_id")?;
    let command =
        commands::kill(store, objects, workflow, vm, saver, ambient, &principal, &project_id, &command_id)
            .await?;
    view::reply(objects, Live { command, report: None }, Offsets::default()).await
}
