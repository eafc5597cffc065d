//! pvm-sandboxd
