//! The embedded install: everything that a deployment on AWS has, in one process on one machine.
#![warn(missing_docs)]
