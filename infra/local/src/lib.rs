//! pvm-local
