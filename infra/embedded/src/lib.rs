//! AWS on one machine: DynamoDB and S3 in this process, for the embedded install and for tests. What uses them uses the
//! SDK, and cannot tell the difference.
#![warn(missing_docs)]

pub mod dynamo;
pub mod s3;
