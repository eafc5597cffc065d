//! The first and last steps of setting a VM up: finding, resuming or making it; and saying how it went.

use pvm_domain::file::WORKSPACE;
use pvm_domain::ids::{OperationId, ProjectId};
use pvm_domain::limits;
use pvm_domain::project::Project;
use pvm_domain::vm::{VmLease, VmRecipe, VmStatus};

use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::{
    Ambient, ConnectVm, CreateVm, FindVm, HeaderRule, NewVm, ReadSecrets, SetEgress, VmError, VmInfo,
};
use crate::secrets::rules;
use crate::store::{ReadStore, WriteStore};
use crate::vm::{ReadyVm, lease, ready::ready_of};

/// The VM that an operation works on: the lease must still belong to it, and is told that the operation is alive. Every
/// step begins with it.
///
/// # Errors
/// `conflict` where another operation has taken over, which ends this one.
pub async fn of_operation<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    project_id: &ProjectId,
    operation: &OperationId,
) -> AppResult<(VmLease, Option<ReadyVm>)> {
    let lease = lease::change(store, ambient, project_id, |lease| {
        fence(lease, operation)?;
        let now = ambient.now();
        let renew = lease.needs_renewal_at(now);
        if renew {
            lease.renew(now);
        }
        Ok(renew)
    })
    .await?;
    let vm = match (&lease.vm_id, &lease.boot_id) {
        (Some(vm_id), Some(boot_id)) => {
            Some(ReadyVm { vm_id: vm_id.clone(), epoch: lease.epoch, boot_id: boot_id.clone() })
        }
        _ => None,
    };
    Ok((lease, vm))
}

/// Tells the lease that an operation is alive whose step needs no VM. One that was taken over is not told of here: what
/// erases a project may be done by several.
///
/// # Errors
/// Of the store.
pub async fn keep_alive<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    project_id: &ProjectId,
    operation: &OperationId,
) -> AppResult<()> {
    match of_operation(store, ambient, project_id, operation).await {
        Err(error) if !matches!(error.code, ErrorCode::Conflict | ErrorCode::NotFound) => Err(error),
        _ => Ok(()),
    }
}

fn fence(lease: &VmLease, operation: &OperationId) -> AppResult<()> {
    if lease.operation.as_ref() == Some(operation) {
        return Ok(());
    }
    Err(AppError::new(ErrorCode::Conflict, "Another operation has taken this VM over."))
}

/// Finds the project's VM (the one of the lease, or one whose creation was not noted), resumes it, or makes a new one.
/// Safe to repeat.
///
/// # Errors
/// Of the provider or the store.
pub async fn provision<S, K, V, A>(
    store: &S,
    secrets: &K,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
    operation: &OperationId,
) -> AppResult<VmLease>
where
    S: WriteStore,
    K: ReadSecrets,
    V: CreateVm + FindVm + ConnectVm + SetEgress,
    A: Ambient,
{
    let (lease, _) = of_operation(store, ambient, project_id, operation).await?;
    let project: Project =
        store.get(&keys::project(project_id)).await?.ok_or_else(|| AppError::not_found("project"))?;
    let recipe: Option<VmRecipe> = store.get(&keys::vm_recipe(project_id)).await?;
    let info = if let Some(info) = adopt(vm, &lease, project_id).await? {
        info
    } else {
        let egress = rules::current(store, secrets, project_id).await?;
        vm.create_vm(&new_vm(&project, recipe.as_ref(), egress)).await?
    };
    let boot_id = vm.boot_id(&info.vm_id).await?;
    let attached = lease::change(store, ambient, project_id, |lease| {
        fence(lease, operation)?;
        lease.attach(&info.vm_id, &boot_id, ambient.now());
        lease.template = Some(info.template.clone());
        Ok(true)
    })
    .await?;
    // After the lease names the VM: a secret that changes from here on is told to it by whoever changes it.
    rules::ready_vm(store, secrets, vm, project_id, &info.vm_id).await?;
    Ok(attached)
}

fn new_vm(project: &Project, recipe: Option<&VmRecipe>, egress: Vec<HeaderRule>) -> NewVm {
    let mut env = project.env.clone();
    if let Some(recipe) = recipe {
        for (name, value) in &recipe.env {
            env.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    env.insert("PVM_PROJECT_ID".to_owned(), project.project_id.to_string());
    env.insert("PVM_WORKSPACE".to_owned(), WORKSPACE.to_owned());
    NewVm {
        project_id: project.project_id.to_string(),
        template: project.template.clone(),
        env,
        timeout_secs: limits::VM_TIMEOUT_SECS,
        egress,
    }
}

/// The VM of the lease if it is still there, else one that carries this project's id.
async fn adopt<V: FindVm + ConnectVm>(
    vm: &V,
    lease: &VmLease,
    project_id: &ProjectId,
) -> AppResult<Option<VmInfo>> {
    if let Some(vm_id) = &lease.vm_id {
        match vm.connect_vm(vm_id, limits::VM_TIMEOUT_SECS).await {
            Ok(info) => return Ok(Some(info)),
            Err(VmError::Gone) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for known in vm.vms(Some(project_id.as_str())).await? {
        match vm.connect_vm(&known.vm_id, limits::VM_TIMEOUT_SECS).await {
            Ok(info) => return Ok(Some(info)),
            Err(VmError::Gone) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Whether the project's VM is active.
///
/// # Errors
/// Of the store.
pub async fn is_active<S: ReadStore, A: Ambient>(
    store: &S,
    ambient: &A,
    project_id: &ProjectId,
) -> AppResult<bool> {
    Ok(ready_of(&lease::load(store, ambient, project_id).await?).is_some())
}

/// The set-up is complete: the VM is active.
///
/// # Errors
/// Of the store, or where another operation has taken over.
pub async fn activate<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    project_id: &ProjectId,
    operation: &OperationId,
) -> AppResult<VmLease> {
    lease::change(store, ambient, project_id, |lease| {
        if lease.operation.is_none() && lease.state == VmStatus::Active {
            return Ok(false);
        }
        fence(lease, operation)?;
        lease.finish(VmStatus::Active, None);
        lease.last_activity = ambient.now();
        Ok(true)
    })
    .await
}

/// The set-up failed: the project stays usable, and the next use tries again.
///
/// # Errors
/// Of the store.
pub async fn fail<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    project_id: &ProjectId,
    operation: &OperationId,
    reason: &str,
    refused: bool,
) -> AppResult<()> {
    let reason = pvm_domain::text::head_and_tail(reason, 1000).0;
    let failed = lease::change(store, ambient, project_id, |lease| {
        let ours = lease.operation.as_ref() == Some(operation);
        if ours {
            lease.finish(VmStatus::Failed, Some(reason.clone()));
            lease.refused = refused;
        }
        Ok(ours)
    });
    match failed.await {
        Err(error) if error.code == ErrorCode::NotFound => Ok(()),
        other => other.map(|_| ()),
    }
}
