//! pvm-authorizer
