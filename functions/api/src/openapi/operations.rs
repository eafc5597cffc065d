//! What the OpenAPI document says of each route besides what the table of routes says.

use pvm_contracts::agents::Agent;
use pvm_contracts::commands::{Command, RunCommand};
use pvm_contracts::conversations::{
    Approval, Conversation, CreateConversation, CreateProjectConversation, DecideApproval, MessageAccepted,
    SendMessage,
};
use pvm_contracts::events::{CreateTicket, EventPage, Ticket};
use pvm_contracts::fair_use::{Limits, SetLimits};
use pvm_contracts::files::{
    Archive, CompleteUpload, CreateUpload, Download, File, Upload, Version, VersionDownload,
};
use pvm_contracts::health::Health;
use pvm_contracts::keys::{CreateKey, Key, NewKey};
use pvm_contracts::list::List;
use pvm_contracts::projects::{CreateProject, Project, ProjectDeletion, UpdateProject};
use pvm_contracts::secrets::{PutSecret, Secret};
use pvm_contracts::services::{CreateLink, Link, Service, ServiceLogs, StartService};
use pvm_contracts::vm::{Status, Vm};
use pvm_domain::agent::AgentDefinition;
use pvm_domain::limits;
use schemars::JsonSchema;
use serde_json::{Value, json};

use super::schemas::Schemas;

type SchemaOf = fn(&mut Schemas) -> Value;

/// Where a parameter is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Query,
    Header,
}

/// A parameter that may be absent.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) place: Place,
    pub(super) about: &'static str,
    pub(super) schema: Value,
}

/// One status that a route answers with.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) about: &'static str,
    pub(super) media_type: &'static str,
    pub(super) schema: Option<SchemaOf>,
}

/// What is said of a route.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    pub(super) bodies: Vec<(&'static str, SchemaOf)>,
    pub(super) needs_body: bool,
    pub(super) parameters: Vec<Parameter>,
    pub(super) answers: Vec<Answer>,
}

fn accepted<T: JsonSchema>(schemas: &mut Schemas) -> Value {
    schemas.body::<T>()
}

fn answered<T: JsonSchema>(schemas: &mut Schemas) -> Value {
    schemas.answer::<T>()
}

fn bytes(_: &mut Schemas) -> Value {
    json!({"type": "string", "format": "binary"})
}

fn rpc(_: &mut Schemas) -> Value {
    json!({"type": "object"})
}

fn form(_: &mut Schemas) -> Value {
    json!({
        "type": "object",
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "path": {"type": "string", "description": "Where it goes; a folder if it ends with `/`."},
            "mode": {"type": "string", "description": "Permission bits as an octal text."},
        },
        "required": ["file"],
    })
}

fn uploaded(schemas: &mut Schemas) -> Value {
    json!({"anyOf": [schemas.answer::<File>(), schemas.answer::<Upload>()]})
}

impl Operation {
    fn new(tag: &'static str, summary: &'static str) -> Self {
        let (bodies, parameters, answers) = (Vec::new(), Vec::new(), Vec::new());
        Self { tag, summary, bodies, needs_body: false, parameters, answers }
    }

    fn takes<T: JsonSchema>(mut self) -> Self {
        self.bodies.push(("application/json", accepted::<T>));
        self.needs_body = true;
        self
    }

    fn may_take<T: JsonSchema>(mut self) -> Self {
        self.bodies.push(("application/json", accepted::<T>));
        self
    }

    fn takes_raw(mut self, media_type: &'static str, schema: SchemaOf) -> Self {
        self.bodies.push((media_type, schema));
        self.needs_body = true;
        self
    }

    fn answers<T: JsonSchema>(self, status: u16, about: &'static str) -> Self {
        self.answers_as(status, about, "application/json", Some(answered::<T>))
    }

    fn answers_nothing(self, about: &'static str) -> Self {
        self.answers_as(204, about, "", None)
    }

    fn answers_as(
        mut self,
        status: u16,
        about: &'static str,
        media_type: &'static str,
        schema: Option<SchemaOf>,
    ) -> Self {
        self.answers.push(Answer { status, about, media_type, schema });
        self
    }

    fn parameter(mut self, place: Place, name: &'static str, about: &'static str, schema: Value) -> Self {
        self.parameters.push(Parameter { name, place, about, schema });
        self
    }

    fn text(self, name: &'static str, about: &'static str) -> Self {
        self.parameter(Place::Query, name, about, json!({"type": "string"}))
    }

    fn number(self, name: &'static str, about: &'static str, least: u64, most: Option<u64>) -> Self {
        let mut schema = json!({"type": "integer", "minimum": least});
        if let Some(most) = most {
            schema["maximum"] = most.into();
        }
        self.parameter(Place::Query, name, about, schema)
    }

    fn paged(self) -> Self {
        let most = Some(u64::from(limits::LIST_MAX));
        self.number("limit", "Entries at most; 100 where it is absent.", 1, most)
            .text("cursor", "The `next_cursor` of the page before.")
    }

    fn waits(self) -> Self {
        let most = Some(limits::POLL_WAIT_SECS);
        self.number("wait", "Seconds to wait for something new where there is nothing yet.", 0, most)
    }

    fn once(self) -> Self {
        let about =
            "Makes the request safe to repeat: the same key with the same request has one effect, for a day.";
        let schema = json!({"type": "string", "minLength": 1, "maxLength": 255});
        self.parameter(Place::Header, "Idempotency-Key", about, schema)
    }

    fn versioned(self) -> Self {
        let about = "Only where the resource still has this `ETag`.";
        self.parameter(Place::Header, "If-Match", about, json!({"type": "string"}))
    }

    fn log(self) -> Self {
        let about = "In a stream that is taken up again: the id of the last event that arrived.";
        self.number("after", "Only events with a higher `seq`.", 0, None)
            .waits()
            .parameter(Place::Header, "Last-Event-ID", about, json!({"type": "string"}))
            .answers::<EventPage>(
                200,
                "Events. With `Accept: text/event-stream` as they happen: `id` is the `seq`, `event` the type, `data` \
                 the event; pieces of text come as `delta` without an id.",
            )
    }
}

/// What is said of the route called `name`.
pub(super) fn operation(name: &str) -> Option<Operation> {
    project(name)
        .or_else(|| machine(name))
        .or_else(|| file(name))
        .or_else(|| secret(name))
        .or_else(|| conversation(name))
        .or_else(|| account(name))
}

fn project(name: &str) -> Option<Operation> {
    let about = |summary| Operation::new("projects", summary);
    Some(match name {
        "create-project" => about("Make a project")
            .once()
            .takes::<CreateProject>()
            .answers::<Project>(201, "The project; with `auto_setup_vm` its VM is `starting`."),
        "list-projects" => about("List your projects")
            .paged()
            .answers::<List<Project>>(200, "Those changed last come first."),
        "get-project" => about("Show a project").answers::<Project>(200, "The project."),
        "update-project" => about("Change a project")
            .versioned()
            .takes::<UpdateProject>()
            .answers::<Project>(200, "The project as it is now."),
        "delete-project" => about("Delete a project with everything it has")
            .answers::<ProjectDeletion>(202, "It is found no more; the rest goes on by itself."),
        "get-status" => {
            about("Show how a project stands: VM, services, files").answers::<Status>(200, "Its status.")
        }
        "read-project-events" => {
            about("Read the project's own log: files, conflicts, VM states, services").log()
        }
        "create-stream-ticket" => about("Make a ticket for clients that cannot send headers")
            .once()
            .may_take::<CreateTicket>()
            .answers::<Ticket>(200, "The ticket, good for a minute."),
        _ => return None,
    })
}

fn machine(name: &str) -> Option<Operation> {
    let about = |summary| Operation::new("vm", summary);
    let offset = |operation: Operation| {
        operation
            .number("stdout_offset", "Standard output from this byte on.", 0, None)
            .number("stderr_offset", "Standard error from this byte on.", 0, None)
            .waits()
    };
    Some(match name {
        "setup-vm" => about("Make, adopt or resume the VM, and restore files, installs and services")
            .once()
            .answers::<Vm>(200, "It is active.")
            .answers::<Vm>(202, "It is on its way."),
        "pause-vm" => about("Save the workspace and pause the VM").once().answers::<Vm>(200, "The VM as it is now."),
        "delete-vm" => about("Save the workspace and end the VM; the project stays")
            .answers::<Vm>(200, "There is no VM.")
            .answers::<Vm>(202, "It is being saved and ended."),
        "run-command" => about("Run a shell command in the VM, which is readied if it must be")
            .once()
            .takes::<RunCommand>()
            .answers::<Command>(
                200,
                "It has ended. With `Accept: text/event-stream`: a `command` event with its id, `output` events as it runs, \
                 then one `exit` event.",
            )
            .answers::<Command>(202, "It goes on; ask for it by its id."),
        "get-command" => {
            offset(about("Show a command and its output")).answers::<Command>(
                200,
                "The command as it stands. With `Accept: text/event-stream`: `output` events from the offsets on as it \
                 runs, then one `exit` event.",
            )
        }
        "get-command-output" => about("Read the raw bytes of a command's output")
            .parameter(
                Place::Query,
                "stream",
                "Which stream; standard output where it is absent.",
                json!({"type": "string", "enum": ["stdout", "stderr"]}),
            )
            .number("offset", "From this byte on.", 0, None)
            .waits()
            .answers_as(
                200,
                "Up to 4 MiB; `x-output-next` is the offset to go on from, `x-output-total` how many bytes there are.",
                "application/octet-stream",
                Some(bytes),
            ),
        "kill-command" => about("Kill a command with all its processes")
            .answers::<Command>(200, "It has ended.")
            .answers::<Command>(202, "It is being killed."),
        "start-service" => about("Start a service")
            .once()
            .takes::<StartService>()
            .answers::<Service>(201, "The service, as it stands after a short wait."),
        "list-services" => about("List services").answers::<List<Service>>(200, "All of them, in one page."),
        "stop-service" => about("Stop a service and forget it").answers::<Service>(200, "How it was left."),
        "get-service-logs" => {
            let tail = Some(limits::OUTPUT_INLINE_BYTES as u64 / 4);
            offset(about("Read a service's output"))
                .number("tail_bytes", "Newest bytes of each stream; 65536 where it is absent.", 1, tail)
                .answers::<ServiceLogs>(
                    200,
                    "Its output. With `Accept: text/event-stream` it is followed: `output` events as it comes, and a \
                     `state` event with the service at every change.",
                )
        }
        "create-service-link" => about("Make a link that opens a service's port to whoever has it, for a while")
            .once()
            .may_take::<CreateLink>()
            .answers::<Link>(201, "The link."),
        "revoke-service-links" => {
            about("Void every link to a service's port that was given out").answers_nothing("None of them opens it.")
        }
        _ => return None,
    })
}

fn file(name: &str) -> Option<Operation> {
    let about = |summary| Operation::new("files", summary);
    Some(match name {
        "upload-file" => about("Upload a file, or get a presigned upload for one of any size")
            .once()
            .text("path", "Where the file goes, for bytes that are the whole body.")
            .text("mode", "Permission bits as an octal text such as `755`.")
            .takes_raw("application/octet-stream", bytes)
            .takes_raw("multipart/form-data", form)
            .takes::<CreateUpload>()
            .answers_as(
                201,
                "The file; after JSON with the request that uploads it.",
                "application/json",
                Some(uploaded),
            ),
        "list-files" => about("List files by path")
            .paged()
            .text("prefix", "Only paths that start with this.")
            .text(
                "deleted",
                "`true` lists the files that the VM deleted and that can still be had back, instead.",
            )
            .answers::<List<File>>(200, "One page of them."),
        "get-file" => about("Show a file with a presigned download").answers::<Download>(200, "The file."),
        "delete-file" => {
            about("Delete a file for good, in the VM too; of one that the VM deleted, what is kept")
                .answers_nothing("It is gone.")
        }
        "complete-upload" => about("Complete an upload in parts")
            .once()
            .takes::<CompleteUpload>()
            .answers::<File>(202, "The file; its bytes are taken over and synced into the VM next."),
        "abort-upload" => {
            about("Give an upload in parts up").answers_nothing("It is over, its parts are gone.")
        }
        "list-file-versions" => {
            about("List the versions of a file, the current one first; of one that the VM deleted too")
                .answers::<List<Version>>(200, "All that are kept, in one page.")
        }
        "get-file-version" => about("Show a version of a file with a presigned download")
            .answers::<VersionDownload>(200, "The version."),
        "restore-file-version" => about(
            "Make an earlier version of a file the newest one, in the VM too; brings a deleted file back",
        )
        .once()
        .answers::<File>(200, "The file as it is now."),
        "create-archive" => about("Ask for all files as one tar.zst")
            .once()
            .answers::<Archive>(202, "It is being built; ask for it by its id."),
        "get-archive" => about("Show an archive, with a presigned download once it is ready")
            .waits()
            .answers::<Archive>(200, "The archive as it stands."),
        _ => return None,
    })
}

fn secret(name: &str) -> Option<Operation> {
    let about = |summary| Operation::new("secrets", summary);
    Some(match name {
        "list-secrets" => about("List secrets, without their values")
            .answers::<List<Secret>>(200, "All of them, in one page."),
        "put-secret" => {
            about("Set a secret: a header that requests from the VM to one host get on their way out")
                .takes::<PutSecret>()
                .answers::<Secret>(200, "It was there before, and is changed.")
                .answers::<Secret>(201, "It is new.")
        }
        "get-secret" => about("Show a secret, without its value").answers::<Secret>(200, "The secret."),
        "delete-secret" => about("Forget a secret and take it out of force").answers_nothing("It is gone."),
        _ => return None,
    })
}

fn conversation(name: &str) -> Option<Operation> {
    let about = |summary| Operation::new("conversations", summary);
    Some(match name {
        "create-conversation" => {
            about("Begin a conversation")
                .once()
                .takes::<CreateConversation>()
                .answers::<MessageAccepted>(201, "It is there, and its first run on its way.")
        }
        "create-agent-conversation" => about("Begin a conversation, with the project in the body")
            .once()
            .takes::<CreateProjectConversation>()
            .answers::<MessageAccepted>(201, "It is there, and its first run on its way."),
        "list-conversations" => about("List a project's conversations")
            .paged()
            .answers::<List<Conversation>>(200, "Newest first."),
        "get-conversation" => about("Show a conversation").answers::<Conversation>(200, "The conversation."),
        "send-message" => about("Send a further message")
            .once()
            .takes::<SendMessage>()
            .answers::<MessageAccepted>(202, "It begins a run, waits for one, or joins one."),
        "cancel-conversation" => about("End the run under way and those that wait")
            .once()
            .answers::<Conversation>(200, "The conversation as it was left."),
        "fork-conversation" => about("Go on from any point of a conversation in a new one")
            .once()
            .number(
                "at",
                "The `seq` of the last event that the new one has; without it, all of them.",
                1,
                None,
            )
            .answers::<Conversation>(201, "The new conversation; it works in the same VM."),
        "decide-approval" => about("Approve or deny a call that waits")
            .once()
            .takes::<DecideApproval>()
            .answers::<Approval>(200, "The approval as decided."),
        "read-conversation-events" => about("Read a conversation's log").log(),
        _ => return None,
    })
}

fn account(name: &str) -> Option<Operation> {
    let agents = |summary| Operation::new("agents", summary);
    let keys = |summary| Operation::new("keys", summary);
    Some(match name {
        "create-agent" => agents("Define an agent")
            .once()
            .takes::<AgentDefinition>()
            .answers::<Agent>(201, "Its first version."),
        "list-agents" => {
            agents("List your agents and the built-in ones").paged().answers::<List<Agent>>(200, "Agents.")
        }
        "get-agent" => agents("Show an agent").answers::<Agent>(200, "Its newest version."),
        "update-agent" => agents("Store a new version of an agent")
            .versioned()
            .takes::<AgentDefinition>()
            .answers::<Agent>(200, "The new version."),
        "delete-agent" => agents("Delete an agent").versioned().answers_nothing("It is gone."),
        "create-key" => keys("Make an API key")
            .once()
            .takes::<CreateKey>()
            .answers::<NewKey>(201, "The key, shown this once."),
        "list-keys" => {
            keys("List your API keys").paged().answers::<List<Key>>(200, "Keys, without their secrets.")
        }
        "revoke-key" => keys("Revoke an API key").answers_nothing("It opens nothing any more."),
        "get-limits" => Operation::new("limits", "Show your limits of fair use and how much of each is used")
            .answers::<Limits>(200, "Your limits."),
        "set-limits" => Operation::new("limits", "Set limits of an owner, as an operator of the install")
            .takes::<SetLimits>()
            .answers::<Limits>(200, "The owner's limits as they are now."),
        "mcp-server" => Operation::new("mcp", "The MCP server of a project (Streamable HTTP, stateless)")
            .takes_raw("application/json", rpc)
            .answers_as(200, "The answer of the protocol.", "application/json", Some(rpc))
            .answers_as(202, "A notification was taken.", "", None),
        "get-resource-metadata" | "get-mcp-metadata" => Operation::new(
            "mcp",
            "Where a client gets a token for the MCP server (RFC 9728)",
        )
        .answers_as(200, "The metadata.", "application/json", Some(rpc)),
        "get-health" => {
            Operation::new("health", "Ask whether the API answers").answers::<Health>(200, "It does.")
        }
        _ => return None,
    })
}
