//! What sandboxes are made from: root file systems ([`Templates`]), and the snapshots and built templates that add
//! layers to them ([`Catalog`]).

mod base;
mod catalog;
pub(crate) mod copy;
mod definition;
mod fixups;
mod host;
mod import;
mod roots;
mod sources;

pub(crate) use catalog::{Catalog, MAX_PARTS, Origin, Resolved, StartCommand, TemplateKind, TemplateRecord};
use roots::ROOT;
pub use roots::{Progress, TemplateError, TemplateStatus, Templates};
