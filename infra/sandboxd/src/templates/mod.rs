//! What sandboxes are made from: root file systems ([`Templates`]), and the snapshots and built templates that add
//! layers to them ([`Catalog`]).

mod base;
mod catalog;
pub(crate) mod copy;
mod definition;
mod fixups;
mod host;
mod import;
mod record;
mod roots;
mod sources;

pub(crate) use catalog::{Catalog, MAX_PARTS, Resolved, plain_name, tag_of};
pub(crate) use record::{
    DEFAULT_TAG, Origin, StartCommand, TemplateBuild, TemplateKind, TemplateRecord, new_uuid,
};
use roots::ROOT;
pub use roots::{Progress, TemplateError, TemplateStatus, Templates};
