//! The steps of `vm-lifecycle`: setting a VM up, ending it, and erasing a project. Each does a bounded piece of work and
//! may be repeated; each checks that the lease still belongs to its operation.

pub mod end;
pub mod erase;
pub mod setup;
