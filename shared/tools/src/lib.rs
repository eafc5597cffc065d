//! The tools that agents and MCP clients use in a project's VM: one file and one definition each. The catalogue knows
//! what they are, the registry runs them over the ports.

mod arguments;
mod call;
mod catalogue;
mod commit_file;
mod create_development_environment;
mod edit_file;
mod execute_command;
mod get_command;
mod get_system_info;
mod git_operations;
mod install_package;
mod kill_command;
mod list_directory;
mod list_services;
mod output;
mod paths;
mod project_services;
mod read_file;
mod recipe;
mod registry;
mod rights;
mod schema;
mod search_files;
mod service_logs;
mod shell;
mod start_service;
mod stop_service;
mod write_file;

#[cfg(test)]
mod testing;

pub use call::Ports;
pub use catalogue::{Entry, check_tools, entries, entry, for_scope, unknown_tools};
pub use create_development_environment::how_to_use;
pub use registry::{Registry, is_command_id, refused, running, watched_arguments};
pub use schema::check_subset;
