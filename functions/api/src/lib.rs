//! pvm-api
