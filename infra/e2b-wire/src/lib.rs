//! pvm-e2b-wire
