//! The protocol's handler: one for each request, for one project and one caller.

use std::sync::Arc;

use pvm_application::error::{AppError, ErrorCode};
use pvm_domain::key::Principal;
use pvm_domain::project::{Project, Scope};
use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CancelTaskParams, CompleteRequestParams,
    CompleteResult, GetPromptRequestParams, GetPromptResponse, GetTaskParams, GetTaskResult, Implementation,
    ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities,
    ServerConfig, Tool, UpdateTaskParams,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::Value;

use crate::parts::Parts;

/// Milliseconds that lists may be kept by a client: they change with the install, not with the project.
pub(crate) const LIST_TTL_MS: u64 = 300_000;

const INSTRUCTIONS: &str = "Tools for one project's Linux VM. The workspace is /workspace; commands run as `user`, who \
    has sudo. The VM starts by itself at the first use, which may take a while; files, services and installed packages \
    survive it. Use install_package for packages and start_service for servers. A call that outlives its request \
    answers a command_id: look at it with get_command.";

/// The server as one caller sees it.
pub struct ProjectServer<P> {
    pub(crate) mcp: Arc<P>,
    pub(crate) project: Arc<Project>,
    pub(crate) principal: Arc<Principal>,
    pub(crate) scope: Scope,
}

impl<P> Clone for ProjectServer<P> {
    fn clone(&self) -> Self {
        Self {
            mcp: self.mcp.clone(),
            project: self.project.clone(),
            principal: self.principal.clone(),
            scope: self.scope,
        }
    }
}

impl<P> std::fmt::Debug for ProjectServer<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProjectServer({})", self.project.project_id)
    }
}

impl<P: Parts> ProjectServer<P> {
    /// The server of `project` for `principal`, who may do `scope` in it.
    pub fn new(mcp: Arc<P>, project: Project, principal: Principal, scope: Scope) -> Self {
        Self { mcp, project: Arc::new(project), principal: Arc::new(principal), scope }
    }

    /// The tools that the caller may use.
    fn visible(&self) -> Vec<Tool> {
        pvm_tools::for_scope(self.scope).map(tool).collect()
    }
}

/// A tool of the catalogue in the protocol's form.
pub(crate) fn tool(entry: &pvm_tools::Entry) -> Tool {
    // The catalogue's view is this very form; that every tool reads back is a test.
    serde_json::from_value(entry.for_mcp()).unwrap_or_default()
}

/// An error of a use case as the protocol tells it, for methods that are not tools.
pub(crate) fn protocol_error(error: &AppError) -> ErrorData {
    if let Some(source) = &error.source {
        tracing::warn!(code = error.code.as_str(), cause = %format!("{source:#}"), "an MCP request failed");
    }
    let data = Some(serde_json::json!({"code": error.code.as_str()}));
    match error.code {
        ErrorCode::NotFound => ErrorData::resource_not_found(error.detail.clone(), data),
        ErrorCode::Invalid | ErrorCode::BadRequest => ErrorData::invalid_params(error.detail.clone(), data),
        _ => ErrorData::internal_error(error.detail.clone(), data),
    }
}

impl<P: Parts> ServerHandler for ProjectServer<P> {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_resources().enable_prompts();
        let mut capabilities = capabilities.enable_completions().build();
        let tasks = (rmcp::model::TASKS_EXTENSION_ID.to_owned(), serde_json::Map::new());
        capabilities.extensions = Some([tasks].into());
        let about = Implementation::new("project-vm", env!("CARGO_PKG_VERSION"))
            .with_title(format!("Project VM: {}", self.project.name));
        ServerConfig::new(capabilities).with_server_info(about).with_instructions(INSTRUCTIONS)
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        self.suggestions(request).await
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let all = ListToolsResult::with_all_items(self.visible());
        Ok(all.with_ttl_ms(LIST_TTL_MS).with_cache_scope(CacheScope::Private))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        pvm_tools::entry(name).filter(|entry| entry.scope() <= self.scope).map(tool)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(entry) = pvm_tools::entry(&request.name) else {
            let shown: String = request.name.chars().take(64).collect();
            return Err(ErrorData::invalid_params(format!("There is no tool {shown:?}."), None));
        };
        if entry.scope() > self.scope {
            let text = "This tool changes things, and the token may only read. Ask the owner for a key with the \
                        scope `write`.";
            return Ok(crate::calls::failed(text).into());
        }
        let arguments = request.arguments.map_or(Value::Null, Value::Object);
        Ok(self.call(entry, &arguments, &context).await)
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        self.task(&request.task_id).await
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        // None of the tools asks anything; the task must be there all the same.
        self.known_job(&request.task_id).await.map(|_| ())
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.cancel(&request.task_id).await
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        self.resources(request.and_then(|page| page.cursor)).await
    }

    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let all = ListResourceTemplatesResult::with_all_items(crate::resources::templates());
        Ok(all.with_ttl_ms(LIST_TTL_MS).with_cache_scope(CacheScope::Private))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        self.resource(&request.uri).await.map(Into::into)
    }

    async fn list_prompts(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let all = ListPromptsResult::with_all_items(crate::prompts::all());
        Ok(all.with_ttl_ms(LIST_TTL_MS).with_cache_scope(CacheScope::Private))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        crate::prompts::get(&request.name, request.arguments.as_ref()).map(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_has_the_protocols_form() {
        for entry in pvm_tools::entries() {
            let tool = tool(entry);
            assert_eq!(tool.name, entry.definition.name);
            assert!(tool.output_schema.is_some() && tool.title.is_some());
            assert_eq!(tool.annotations.unwrap().read_only_hint, Some(entry.definition.read_only));
        }
    }
}
