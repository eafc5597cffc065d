//! How a sandbox is kept apart from the host and from other sandboxes: namespaces and an id range of its own,
//! an overlay root made from mount descriptors, control groups. PID 1 inside (envd) does the rest, see
//! `pvm_envd::sandbox_init`.

pub(crate) mod cgroup;
mod clone;
pub(crate) mod ids;
pub(crate) mod launch;
pub(crate) mod mode;
pub(crate) mod overlay;
pub(crate) mod process;
mod spares;
pub(crate) mod spawner;
mod tree;
