//! pvm-domain
