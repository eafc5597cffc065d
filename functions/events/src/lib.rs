//! pvm-events
