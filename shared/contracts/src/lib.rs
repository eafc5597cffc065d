//! pvm-contracts
