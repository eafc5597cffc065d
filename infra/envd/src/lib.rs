//! pvm-envd
