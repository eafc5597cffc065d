//! pvm-sandbox
