//! Secrets of a project: values that the egress proxy adds to requests for one host. Records hold the reference, the
//! secret store the value; a VM is only told to the proxy outside it.

pub mod delete;
pub mod get;
pub mod list;
pub mod put;
pub mod rules;
