//! pvm-application
