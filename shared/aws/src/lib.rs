//! pvm-aws
