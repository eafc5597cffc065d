//! The adapters that all steps together need, as every embedding program has them.

pub use pvm_entry::Wiring;
