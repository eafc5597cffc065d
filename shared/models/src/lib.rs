//! pvm-models
