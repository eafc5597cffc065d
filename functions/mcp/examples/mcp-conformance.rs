//! The server of the protocol's conformance suite: the real server of a project, on records in memory and without a VM,
//! behind a handler that adds the tools, resources and prompts with the names and contents that the suite asks for. Never
//! shipped. Prints its URL and serves until it is ended.
#![expect(clippy::expect_used, reason = "a test's server fails by panicking")]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pvm_application::ports::{
    ByteStream, ConnectVm, GetObject, Machine, NewId, ObjectError, ObjectInfo, ReadFrom, RequestSave,
    RunCommands, RunReport, RunSpec, StartExecution, Started, VmEntry, VmError, VmFiles, VmInfo,
    WorkflowError,
};
use pvm_application::store::{Tx, WriteStore};
use pvm_aws::clients::{self, ClientSettings, StaticCredentials};
use pvm_aws::{Dynamo, Tables};
use pvm_domain::Timestamp;
use pvm_domain::ids::{OwnerId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::{Project, Scope};
use pvm_embedded::dynamo::EmbeddedDynamo;
use pvm_entry::settings::Secret;
use pvm_entry::{Signer, System};
use pvm_mcp::{Doors, Mcp, Parts, ProjectServer, Waits, respond};
use pvm_tools::Registry;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, CompleteRequestParams,
    CompleteResult, ContentBlock, GetPromptRequestParams, GetPromptResponse, GetPromptResult,
    ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, ProgressNotificationParam, Prompt, PromptArgument, PromptMessage,
    ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, Resource, ResourceContents,
    ResourceTemplate, Role, ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::{Value, json};

/// One red pixel.
const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg==";
/// A WAV file without samples.
const WAV: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";

const TOOLS: [(&str, &str); 10] = [
    ("test_simple_text", "Returns text."),
    ("test_image_content", "Returns an image."),
    ("test_audio_content", "Returns audio."),
    ("test_embedded_resource", "Returns a resource."),
    ("test_multiple_content_types", "Returns text, an image and a resource."),
    ("test_error_handling", "Fails."),
    ("test_tool_with_progress", "Reports progress."),
    ("test_missing_capability", "Needs sampling, which the client does not have."),
    ("test_logging_tool", "Would log if it was asked to."),
    ("test_streaming_elicitation", "Reports progress before it answers."),
];

#[derive(Clone)]
struct WithFixtures<H>(H);

fn resource(uri: &str, mime: &str, text: &str) -> ResourceContents {
    ResourceContents::TextResourceContents {
        uri: uri.to_owned(),
        mime_type: Some(mime.to_owned()),
        text: text.to_owned(),
        meta: None,
    }
}

fn block(value: Value) -> ContentBlock {
    serde_json::from_value(value).expect("a content block")
}

fn embedded(uri: &str, mime: &str, text: &str) -> ContentBlock {
    block(json!({"type": "resource", "resource": {"uri": uri, "mimeType": mime, "text": text}}))
}

fn image() -> ContentBlock {
    block(json!({"type": "image", "data": PNG, "mimeType": "image/png"}))
}

async fn progress(context: &RequestContext<RoleServer>) {
    for step in [0.0, 50.0, 100.0] {
        if let Some(token) = context.meta.get_progress_token() {
            let note = ProgressNotificationParam::new(token, step).with_total(100.0);
            context.peer.notify_progress(note).await.expect("the suite takes progress");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn fixture(
    name: &str,
    context: &RequestContext<RoleServer>,
) -> Option<Result<CallToolResult, ErrorData>> {
    let content = match name {
        "test_simple_text" | "test_logging_tool" => {
            vec![ContentBlock::text("This is a simple text response for testing.")]
        }
        "test_image_content" => vec![image()],
        "test_audio_content" => vec![block(json!({"type": "audio", "data": WAV, "mimeType": "audio/wav"}))],
        "test_embedded_resource" => {
            vec![embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]
        }
        "test_multiple_content_types" => vec![
            ContentBlock::text("Multiple content types test:"),
            image(),
            embedded("test://mixed-content-resource", "application/json", r#"{"test":"data","value":123}"#),
        ],
        "test_error_handling" => {
            let text = "This tool intentionally returns an error for testing";
            return Some(Ok(CallToolResult::error(vec![ContentBlock::text(text)])));
        }
        "test_tool_with_progress" | "test_streaming_elicitation" => {
            progress(context).await;
            vec![ContentBlock::text("Done.")]
        }
        "test_missing_capability" => {
            let needed: ClientCapabilities =
                serde_json::from_value(json!({"sampling": {}})).expect("a client's capabilities");
            return Some(Err(ErrorData::missing_required_client_capability(needed)));
        }
        _ => return None,
    };
    Some(Ok(CallToolResult::success(content)))
}

impl<H: ServerHandler> ServerHandler for WithFixtures<H> {
    fn get_info(&self) -> ServerConfig {
        self.0.get_info()
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        self.0.complete(request, context).await
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let mut all = self.0.list_tools(request, context).await?;
        let schema = json!({"type": "object", "properties": {}}).as_object().cloned().unwrap_or_default();
        all.tools.extend(TOOLS.map(|(name, about)| Tool::new(name, about, schema.clone())));
        Ok(all)
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.0.get_tool(name)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        match fixture(&request.name, &context).await {
            Some(result) => result.map(Into::into),
            None => self.0.call_tool(request, context).await,
        }
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let mut all = self.0.list_resources(request, context).await?;
        all.resources.push(Resource::new("test://static-text", "static-text").with_mime_type("text/plain"));
        all.resources
            .push(Resource::new("test://static-binary", "static-binary").with_mime_type("image/png"));
        Ok(all)
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let mut all = self.0.list_resource_templates(request, context).await?;
        let template = ResourceTemplate::new("test://template/{id}/data", "template");
        all.resource_templates.push(template.with_mime_type("application/json"));
        Ok(all)
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = request.uri.clone();
        let contents = match uri.as_str() {
            "test://static-text" => {
                resource(&uri, "text/plain", "This is the content of the static text resource.")
            }
            "test://static-binary" => ResourceContents::BlobResourceContents {
                uri,
                mime_type: Some("image/png".to_owned()),
                blob: PNG.to_owned(),
                meta: None,
            },
            _ => match uri.strip_prefix("test://template/").and_then(|rest| rest.strip_suffix("/data")) {
                Some(id) => {
                    let data = json!({"id": id, "templateTest": true, "data": format!("Data for ID: {id}")});
                    resource(&uri, "application/json", &data.to_string())
                }
                None => return self.0.read_resource(request, context).await,
            },
        };
        Ok(ReadResourceResult::new(vec![contents]).into())
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let mut all = self.0.list_prompts(request, context).await?;
        let argument = |name: &str| PromptArgument::new(name).with_required(true);
        let prompt = |name: &str, arguments: Vec<PromptArgument>| {
            Prompt::new(name, Some("For the suite."), Some(arguments))
        };
        all.prompts.push(prompt("test_simple_prompt", vec![]));
        all.prompts.push(prompt("test_prompt_with_arguments", vec![argument("arg1"), argument("arg2")]));
        all.prompts.push(prompt("test_prompt_with_embedded_resource", vec![argument("resourceUri")]));
        all.prompts.push(prompt("test_prompt_with_image", vec![]));
        Ok(all)
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let argument = |name: &str| {
            let all = request.arguments.as_ref();
            all.and_then(|all| all.get(name)).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let text = |text: String| PromptMessage::new_text(Role::User, text);
        let messages = match request.name.as_str() {
            "test_simple_prompt" => vec![text("This is a simple prompt for testing.".to_owned())],
            "test_prompt_with_arguments" => {
                let (one, two) = (argument("arg1"), argument("arg2"));
                vec![text(format!("Prompt with arguments: arg1='{one}', arg2='{two}'"))]
            }
            "test_prompt_with_embedded_resource" => {
                let contents = embedded(
                    &argument("resourceUri"),
                    "text/plain",
                    "Embedded resource content for testing.",
                );
                vec![
                    PromptMessage::new(Role::User, contents),
                    text("Please process the embedded resource above.".to_owned()),
                ]
            }
            "test_prompt_with_image" => vec![
                PromptMessage::new(Role::User, image()),
                text("Please analyze the image above.".to_owned()),
            ],
            _ => return self.0.get_prompt(request, context).await,
        };
        Ok(GetPromptResult::new(messages).into())
    }
}

/// What the suite does not use: objects, saves, workflows and a VM.
#[derive(Clone, Copy)]
struct Nothing;

impl GetObject for Nothing {
    async fn get(&self, _: &str) -> Result<Bytes, ObjectError> {
        Err(ObjectError::NotFound)
    }
    async fn get_stream(&self, _: &str) -> Result<(u64, ByteStream), ObjectError> {
        Err(ObjectError::NotFound)
    }
    async fn head(&self, _: &str) -> Result<ObjectInfo, ObjectError> {
        Err(ObjectError::NotFound)
    }
}

impl RequestSave for Nothing {
    async fn request_save(&self, _: &ProjectId) {}
}

impl StartExecution for Nothing {
    async fn start(&self, _: Machine, _: &str, _: &Value) -> Result<Started, WorkflowError> {
        Ok(Started::Open)
    }
}

impl ConnectVm for Nothing {
    async fn connect_vm(&self, _: &str, _: u64) -> Result<VmInfo, VmError> {
        Err(VmError::Gone)
    }
    async fn boot_id(&self, _: &str) -> Result<String, VmError> {
        Err(VmError::Gone)
    }
    fn port_url(&self, _: &str, port: u16) -> String {
        format!("http://localhost:{port}")
    }
}

impl RunCommands for Nothing {
    async fn start_run(&self, _: &str, _: &RunSpec, _: Duration) -> Result<RunReport, VmError> {
        Err(VmError::Gone)
    }
    async fn read_run(&self, _: &str, _: &str, _: ReadFrom) -> Result<Option<RunReport>, VmError> {
        Err(VmError::Gone)
    }
    async fn kill_run(&self, _: &str, _: &str) -> Result<(), VmError> {
        Err(VmError::Gone)
    }
}

impl VmFiles for Nothing {
    async fn read_file(&self, _: &str, _: &str, _: &str, _: u64) -> Result<Bytes, VmError> {
        Err(VmError::Gone)
    }
    async fn read_file_stream(&self, _: &str, _: &str, _: &str) -> Result<(u64, ByteStream), VmError> {
        Err(VmError::Gone)
    }
    async fn write_file(&self, _: &str, _: &str, _: &str, _: Bytes) -> Result<(), VmError> {
        Err(VmError::Gone)
    }
    async fn write_file_stream(
        &self,
        _: &str,
        _: &str,
        _: &str,
        _: u64,
        _: ByteStream,
    ) -> Result<(), VmError> {
        Err(VmError::Gone)
    }
    async fn stat(&self, _: &str, _: &str, _: &str) -> Result<Option<VmEntry>, VmError> {
        Err(VmError::Gone)
    }
    async fn list_dir(&self, _: &str, _: &str, _: &str, _: u32) -> Result<Vec<VmEntry>, VmError> {
        Err(VmError::Gone)
    }
    async fn remove(&self, _: &str, _: &str, _: &str) -> Result<(), VmError> {
        Err(VmError::Gone)
    }
    async fn scan_workspace(&self, _: &str) -> Result<Vec<VmEntry>, VmError> {
        Err(VmError::Gone)
    }
}

async fn server() -> anyhow::Result<ProjectServer<impl Parts>> {
    let dynamo = EmbeddedDynamo::in_memory()?;
    let base = clients::load(ClientSettings {
        region: Some("us-east-1".to_owned()),
        credentials: Some(StaticCredentials { access_key: "test".to_owned(), secret_key: "test".to_owned() }),
        dynamodb_http: Some(dynamo.http_client()),
        ..ClientSettings::default()
    })
    .await;
    let tables = Tables { app: "app".to_owned(), events: "events".to_owned() };
    pvm_aws::schema::create_missing(&base.dynamodb(), &tables).await?;
    let store = Dynamo::new(base.dynamodb(), tables);
    let owner = OwnerId::parse("local")?;
    let now = Timestamp::now();
    let mut project = Project {
        project_id: System.new_id(),
        owner: owner.clone(),
        name: "conformance".to_owned(),
        description: String::new(),
        auto_setup_vm: false,
        template: None,
        env: std::collections::BTreeMap::new(),
        vm_idle_secs: None,
        vm_paused_secs: None,
        deleting: false,
        created_at: now,
        updated_at: now,
        version: 0,
    };
    store.commit(Tx::new().create(&mut project)).await?;
    let mcp = Mcp {
        tools: Registry::new(store, Nothing, Nothing, System),
        objects: Nothing,
        saver: Nothing,
        signer: Signer::new(&Secret::new("0123456789abcdef0123456789abcdef"))?,
        waits: Waits::default(),
    };
    let principal = Principal { owner, scope: Scope::Write, projects: None };
    Ok(ProjectServer::new(Arc::new(mcp), project, principal, Scope::Write))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = WithFixtures(server().await?);
    let port: u16 = std::env::args().nth(1).map_or(Ok(0), |port| port.parse())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    #[expect(clippy::print_stdout, reason = "the driver reads the URL from here")]
    {
        println!("http://{}/mcp", listener.local_addr()?);
    }
    loop {
        let (socket, _) = listener.accept().await?;
        let server = server.clone();
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                let request = hyper::Request::from_parts(parts, Full::new(body));
                Ok::<_, Infallible>(respond(server, &Doors::default(), request).await)
            }
        });
        tokio::spawn(async move {
            // A client that goes away is none of the server's trouble.
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service)
                    .await,
            );
        });
    }
}
