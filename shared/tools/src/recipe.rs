//! Notes what was installed, so that a rebuilt VM gets it again.

use pvm_application::ports::RunSpec;
use pvm_application::vm::recipe::{self, Place};
use pvm_domain::file::WORKSPACE;
use pvm_domain::vm::InstallStep;

use crate::call::{Call, Ports};

/// Notes a run that succeeded. Failing to note it is not the caller's trouble: the packages are there.
pub(crate) async fn record<P: Ports>(call: &Call<'_, P>, run: &RunSpec) {
    let step = InstallStep {
        command: run.command.clone(),
        working_dir: run.working_dir.clone(),
        user: run.user.clone(),
        epoch: call.context.epoch,
    };
    if let Err(error) = recipe::record(call.ports.store(), &call.context.project_id, step).await {
        tracing::warn!(project.id = %call.context.project_id, %error, "an install could not be noted");
    }
}

/// Notes what a plain shell line that succeeded installed. A lane's directory is gone with the lane.
pub(crate) async fn record_line<P: Ports>(call: &Call<'_, P>, run: &RunSpec) {
    let context = call.context;
    let place = Place {
        working_dir: (context.working_dir == WORKSPACE).then_some(run.working_dir.as_str()),
        user: &run.user,
        epoch: context.epoch,
    };
    recipe::record_line(call.ports.store(), &context.project_id, &run.command, place).await;
}
