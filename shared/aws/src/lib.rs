//! The AWS side of the ports: records and events in DynamoDB, objects in S3, executions in Step Functions, secrets.
//! The same adapters serve the cloud and the embedded install; only the clients' endpoints differ ([`clients`]).
#![warn(missing_docs)]

pub mod clients;
mod dynamo;
pub mod install_secrets;
mod managed_secrets;
mod objects;
mod parameters;
pub mod save_queue;
pub mod schema;
mod secrets;
mod workflows;

pub use dynamo::{Dynamo, DynamoSettings, Tables};
pub use managed_secrets::ManagedSecrets;
pub use objects::Objects;
pub use parameters::Parameters;
pub use save_queue::SaveQueue;
pub use secrets::FileSecrets;
pub use workflows::{MachineNames, Workflows};
