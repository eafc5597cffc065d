//! pvm-entry
