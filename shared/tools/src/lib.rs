//! pvm-tools
