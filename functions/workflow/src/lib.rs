//! pvm-workflow
