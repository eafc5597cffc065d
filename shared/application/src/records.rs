//! Which domain type is stored where: the `Record` of each.

use pvm_domain::archive::Archive;
use pvm_domain::command::Command;
use pvm_domain::fair_use::{OwnerLimits, Resource};
use pvm_domain::file::{
    DeletedFile, FilePointer, FileVersion, Manifest, ProjectFile, Unstored, WorkspaceLink,
};
use pvm_domain::key::ApiKey;
use pvm_domain::project::{Member, Project};
use pvm_domain::secret::SecretRef;
use pvm_domain::service::Service;
use pvm_domain::vm::{VmLease, VmRecipe};

use crate::keys;

macro_rules! record {
    ($type:ty, $kind:literal, |$r:ident| $key:expr $(, owner: $owner:expr)? $(, sweep: $sweep:expr)? $(, expires: $expires:expr)? $(, count: $count:expr, uncount: $uncount:expr)?) => {
        impl $crate::store::Record for $type {
            const KIND: &'static str = $kind;
            fn key(&self) -> $crate::store::Key { let $r = self; $key }
            fn version(&self) -> u64 { self.version }
            fn set_version(&mut self, version: u64) { self.version = version; }
            $(fn owner_index(&self) -> Option<$crate::store::IndexKey> { let $r = self; $owner })?
            $(fn sweep_index(&self) -> Option<$crate::store::IndexKey> { let $r = self; $sweep })?
            $(fn expires_at(&self) -> Option<pvm_domain::Timestamp> { let $r = self; $expires })?
            $(fn count(&mut self) -> Option<pvm_domain::fair_use::Use> { let $r = self; $count }
              fn uncount(&self) -> Option<pvm_domain::fair_use::Use> { let $r = self; $uncount })?
        }
    };
}
pub(crate) use record;

record!(Project, "project", |r| keys::project(&r.project_id),
    owner: (!r.deleting).then(|| keys::project_listing(&r.owner, r.updated_at, &r.project_id)),
    sweep: r.deleting.then(|| keys::sweep(keys::Sweep::Deletion, r.updated_at, r.project_id.as_str())));
record!(Member, "member", |r| keys::member(&r.project_id, &r.principal),
    owner: Some(keys::member_listing(&r.principal, &r.project_id)));
record!(ApiKey, "api_key", |r| keys::api_key(&r.hash),
    owner: r.revoked_at.is_none().then(|| keys::api_key_listing(&r.owner, r.key_id.as_str())));
record!(ProjectFile, "file", |r| keys::file(&r.project_id, &r.path),
    sweep: r.uploads.iter().map(|upload| upload.until).min()
        .map(|until| keys::sweep(keys::Sweep::Upload, until, r.file_id.as_str())),
    count: { let bytes = r.stored_bytes(); r.counted.count(Resource::StorageBytes, r.owner.as_ref(), bytes) },
    uncount: r.counted.uncount(Resource::StorageBytes, r.owner.as_ref()));
record!(FileVersion, "file_version", |r| keys::file_version(&r.project_id, &r.file_id, r.number),
    count: r.counted.count(Resource::StorageBytes, r.owner.as_ref(), r.size),
    uncount: r.counted.uncount(Resource::StorageBytes, r.owner.as_ref()));
record!(DeletedFile, "deleted_file", |r| keys::deleted_file(&r.file.project_id, &r.file.file_id),
    sweep: Some(keys::sweep(keys::Sweep::DeletedFile, r.deleted_at, r.file.file_id.as_str())),
    count: r.counted.count(Resource::StorageBytes, r.file.owner.as_ref(), r.file.size),
    uncount: r.counted.uncount(Resource::StorageBytes, r.file.owner.as_ref()));
record!(WorkspaceLink, "link", |r| keys::link(&r.project_id, &r.path));
record!(Archive, "archive", |r| keys::archive(&r.project_id, &r.archive_id),
    expires: Some(r.expires_at()));
record!(Manifest, "manifest", |r| keys::manifest(&r.project_id));
record!(Unstored, "unstored", |r| keys::unstored(&r.project_id));
record!(FilePointer, "file_pointer", |r| keys::file_pointer(&r.project_id, &r.file_id));
record!(Service, "service", |r| keys::service(&r.project_id, &r.service_id),
    count: r.counted.count(Resource::Services, r.owner.as_ref(), 1),
    uncount: r.counted.uncount(Resource::Services, r.owner.as_ref()));
record!(OwnerLimits, "owner_limits", |r| keys::owner_limits(&r.owner));
record!(SecretRef, "secret", |r| keys::secret(&r.project_id, &r.name));
record!(VmRecipe, "vm_recipe", |r| keys::vm_recipe(&r.project_id));
record!(Command, "command", |r| keys::command(&r.project_id, &r.command_id));
record!(VmLease, "vm_lease", |r| keys::vm_lease(&r.project_id),
    sweep: r.due_at().map(|at| keys::sweep(keys::Sweep::Vm, at, r.project_id.as_str())),
    count: { let running = u64::from(r.is_running()); r.counted.count(Resource::VmsRunning, r.owner.as_ref(), running) },
    uncount: r.counted.uncount(Resource::VmsRunning, r.owner.as_ref()));
