//! Every environment variable of the system, declared once: name, type, default, documentation.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A variable as documentation shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it is when it is not set; empty for "not set".
    pub default: &'static str,
    /// What it does.
    pub doc: &'static str,
}

/// Variables that cannot be used, all of them, with what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct BadSettings(pub Vec<String>);

/// A value that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Terminal,
    /// For machines, one JSON object to a line.
    Json,
}

/// A type that a variable can have.
trait Parse: Sized {
    fn parse(text: &str) -> Result<Self, String>;
}

impl Parse for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}
impl Parse for Secret {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self::new(text))
    }
}
impl Parse for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("must name a folder".to_owned()) } else { Ok(Self::from(text)) }
    }
}
impl Parse for SocketAddr {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is not an address and port such as 127.0.0.1:8787"))
    }
}
impl Parse for u64 {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is not a whole number"))
    }
}
impl Parse for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" | "on" => Ok(true),
            "false" | "off" => Ok(false),
            other => Err(format!("{other:?} is not `true` or `false`")),
        }
    }
}
impl Parse for LogFormat {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "terminal" => Ok(Self::Terminal),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is not `terminal` or `json`")),
        }
    }
}
impl Parse for pvm_domain::project::Scope {
    fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_value(text.into()).map_err(|_| format!("{text:?} is not `read`, `write` or `admin`"))
    }
}
impl Parse for Vec<String> {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
    }
}
impl<T: Parse> Parse for Option<T> {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::parse(text).map(Some) }
    }
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty = $name:literal, $default:literal;)*) => {
        /// The settings of a process. `from_env` reads them; embedded mode fills in what it makes itself.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $field: $type,)*
        }

        impl Settings {
            /// Every variable.
            pub const VARIABLES: &'static [Variable] = &[
                $(Variable { name: $name, default: $default, doc: concat!($($doc),+) }),*
            ];

            /// Reads the settings from `lookup`, which answers a variable's text where it is set.
            ///
            /// # Errors
            /// Names every variable that cannot be used, and what would be right.
            pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, BadSettings> {
                let mut bad = Vec::new();
                $(let $field = {
                    let text = lookup($name).unwrap_or_else(|| $default.to_owned());
                    <$type as Parse>::parse(text.trim())
                        .map_err(|reason| bad.push(format!("{}: {reason}", $name)))
                        .ok()
                };)*
                match ($($field,)*) {
                    ($(Some($field),)*) => Ok(Self { $($field),* }),
                    _ => Err(BadSettings(bad)),
                }
            }
        }
    };
}

settings! {
    /// Where the HTTP API listens.
    http_addr: SocketAddr = "PVM_HTTP_ADDR", "127.0.0.1:8787";
    /// Where the E2B door listens (control plane and sandboxes).
    e2b_addr: SocketAddr = "PVM_E2B_ADDR", "127.0.0.1:8788";
    /// Where the file store listens.
    s3_addr: SocketAddr = "PVM_S3_ADDR", "127.0.0.1:8789";
    /// The folder of the state of an embedded install.
    home: PathBuf = "PVM_HOME", ".pvm";
    /// For clients: the API's address.
    url: Option<String> = "PVM_URL", "";
    /// For clients: the API key.
    api_key: Option<Secret> = "PVM_API_KEY", "";
    /// For clients: the project.
    project_id: Option<String> = "PVM_PROJECT_ID", "";
    /// How log lines look: `terminal` or `json`.
    log_format: LogFormat = "PVM_LOG_FORMAT", "terminal";
    /// Which log lines are written: a level, or a filter such as `info,pvm_api=debug`.
    log: String = "PVM_LOG", "info";
    /// Signs cursors and stream tickets: at least 32 characters, the same in every function of an install.
    signing_key: Option<Secret> = "PVM_SIGNING_KEY", "";
    /// Web origins that may call the API from a browser, with commas between; `*` is any.
    cors_origins: Vec<String> = "PVM_CORS_ORIGINS", "";
    /// The API's public root, such as `https://api.example.com`, where it cannot be told from a request.
    public_url: Option<String> = "PVM_PUBLIC_URL", "";
    /// Hosts that MCP clients may call the API by, besides this machine's own names, with commas between.
    mcp_hosts: Vec<String> = "PVM_MCP_HOSTS", "";
    /// Issuer of the JWTs that are accepted; absent means API keys only.
    oidc_issuer: Option<String> = "PVM_OIDC_ISSUER", "";
    /// Audience that a JWT must name; needed with an issuer.
    oidc_audience: Option<String> = "PVM_OIDC_AUDIENCE", "";
    /// Where the issuer's keys are; absent means what its `.well-known/openid-configuration` says.
    oidc_jwks_url: Option<String> = "PVM_OIDC_JWKS_URL", "";
    /// Scope of a JWT that names none (as `pvm:read`, `pvm:write` or `pvm:admin` in `scope` or `scp`).
    oidc_default_scope: pvm_domain::project::Scope = "PVM_OIDC_DEFAULT_SCOPE", "admin";
    /// The table of records.
    table_app: Option<String> = "PVM_TABLE_APP", "";
    /// The table of events.
    table_events: Option<String> = "PVM_TABLE_EVENTS", "";
    /// The bucket of file objects.
    bucket: Option<String> = "PVM_BUCKET", "";
    /// Name of the state machine that works off one user message.
    machine_run_turn: String = "PVM_MACHINE_RUN_TURN", "run-turn";
    /// Name of the state machine that sets VMs up and tears them down.
    machine_vm_lifecycle: String = "PVM_MACHINE_VM_LIFECYCLE", "vm-lifecycle";
    /// AWS account of the state machines.
    account: Option<String> = "PVM_ACCOUNT", "";
    /// AWS partition of the state machines.
    partition: String = "PVM_PARTITION", "aws";
    /// URL of DynamoDB, where it is not AWS's.
    dynamodb_url: Option<String> = "PVM_DYNAMODB_URL", "";
    /// URL of S3, where it is not AWS's.
    s3_url: Option<String> = "PVM_S3_URL", "";
    /// URL of Step Functions, where it is not AWS's.
    sfn_url: Option<String> = "PVM_SFN_URL", "";
    /// Milliseconds between looks at a log that another process writes.
    poll_millis: u64 = "PVM_POLL_MILLIS", "500";
    /// Whether functions send event streams as they come; emulators of API Gateway take whole answers only.
    stream_responses: bool = "PVM_STREAM_RESPONSES", "true";
    /// Names this install in the metadata of its VMs: clean-up touches no others.
    deployment_id: String = "PVM_DEPLOYMENT_ID", "local";
    /// Days that the record of an ended command and its whole output are kept, at least 2; a day later they are gone.
    commands_kept_days: u64 = "PVM_COMMANDS_KEPT_DAYS", "30";
    /// Days that a file that was deleted inside the VM can be had back with its earlier versions; they count as storage.
    deleted_files_kept_days: u64 = "PVM_DELETED_FILES_KEPT_DAYS", "7";
    /// PEM file of authorities that the egress proxy trusts besides the host's, for secrets of hosts with a private one.
    egress_ca_file: Option<PathBuf> = "PVM_EGRESS_CA_FILE", "";
    /// Private ranges that VMs may reach all the same, with commas between, such as a package mirror's `10.1.2.3/32`.
    egress_allow_cidrs: Vec<String> = "PVM_EGRESS_ALLOW_CIDRS", "";
    /// Owners that may set the limits of fair use of others, with commas between.
    operators: Vec<String> = "PVM_OPERATORS", "";
    /// Folder of an embedded install whose `*.md` files are agents; read at the start.
    agents_dir: PathBuf = "PVM_AGENTS_DIR", "agents";
    /// The model of agents that name none.
    default_model: String = "PVM_DEFAULT_MODEL", "replay/demo";
    /// Whether a function opens its connection to the database while it starts instead of at its first request.
    early_connection: bool = "PVM_EARLY_CONNECTION", "on";
    /// URL of the queue that requests to save workspaces go to.
    save_queue_url: Option<String> = "PVM_SAVE_QUEUE_URL", "";
    /// Name or ARN of the Secrets Manager secret that holds the E2B key, where `E2B_API_KEY` is not set.
    e2b_key_secret: Option<String> = "PVM_E2B_KEY_SECRET", "";
    /// Name or ARN of the Secrets Manager secret that holds the keys of model providers, as JSON by provider.
    model_keys_secret: Option<String> = "PVM_MODEL_KEYS_SECRET", "";
    /// Name of the SSM parameter (a SecureString) with the same; its keys go before those of the secret.
    model_keys_parameter: Option<String> = "PVM_MODEL_KEYS_PARAMETER", "";
    /// JSON file of models' windows and prices by name; see docs/operations.md. Budgets in money need prices.
    models_file: Option<PathBuf> = "PVM_MODELS_FILE", "";
    /// The same as JSON in the variable itself, for functions, which have no file; it goes first.
    models: Option<String> = "PVM_MODELS", "";
    /// Key of OpenAI, or of the server at `OPENAI_BASE_URL`.
    openai_api_key: Option<Secret> = "OPENAI_API_KEY", "";
    /// A server that speaks OpenAI's Chat Completions, up to and with `/v1`; absent means OpenAI's own.
    openai_base_url: Option<String> = "OPENAI_BASE_URL", "";
    /// Key of Anthropic.
    anthropic_api_key: Option<Secret> = "ANTHROPIC_API_KEY", "";
    /// A server that speaks Anthropic's Messages, without `/v1`; absent means Anthropic's own.
    anthropic_base_url: Option<String> = "ANTHROPIC_BASE_URL", "";
    /// Version of Anthropic's API that is asked for; absent means 2026-10-21.
    anthropic_version: Option<String> = "PVM_ANTHROPIC_VERSION", "";
    /// Region of Amazon Bedrock; with it agents may use `bedrock/...` models, by the AWS credentials of the process.
    bedrock_region: Option<String> = "PVM_BEDROCK_REGION", "";
    /// URL of Bedrock's runtime, where it is not AWS's.
    bedrock_url: Option<String> = "PVM_BEDROCK_URL", "";
    /// E2B control plane; absent means the embedded one, or E2B's cloud by its domain.
    e2b_api_url: Option<String> = "E2B_API_URL", "";
    /// E2B sandboxes, where they are not reached by their domain.
    e2b_sandbox_url: Option<String> = "E2B_SANDBOX_URL", "";
    /// E2B domain.
    e2b_domain: Option<String> = "E2B_DOMAIN", "";
    /// E2B API key.
    e2b_api_key: Option<Secret> = "E2B_API_KEY", "";
}

impl Settings {
    /// Reads the settings from the environment.
    ///
    /// # Errors
    /// As [`Settings::from_lookup`].
    pub fn from_env() -> Result<Self, BadSettings> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// How long clean-up keeps things.
    pub fn kept(&self) -> pvm_application::cleanup::Kept {
        pvm_application::cleanup::Kept::days(self.commands_kept_days, self.deleted_files_kept_days)
    }

    /// Names among `given` that look like ours and are not: misspelt ones, worth a warning.
    pub fn unknown<'a>(given: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let known = |name: &str| Self::VARIABLES.iter().any(|variable| variable.name == name);
        given.filter(|name| name.starts_with("PVM_") && !known(name)).collect()
    }
}

/// The value of a variable that this process cannot do without.
///
/// # Errors
/// Says which variable is missing and what it is.
pub fn required<'a, T>(value: Option<&'a T>, name: &str) -> Result<&'a T, BadSettings> {
    value.ok_or_else(|| {
        let doc = Settings::VARIABLES.iter().find(|known| known.name == name).map_or("", |known| known.doc);
        BadSettings(vec![format!("{name} is not set and this function needs it:{doc}")])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_where_nothing_is_set() {
        let settings = Settings::from_lookup(|_| None).unwrap();
        assert_eq!(settings.http_addr.port(), 8787);
        assert_eq!(settings.log_format, LogFormat::Terminal);
        assert!(settings.bucket.is_none() && settings.cors_origins.is_empty());
        assert_eq!(settings.kept(), pvm_application::cleanup::Kept::default());
    }

    #[test]
    fn every_bad_variable_is_named_at_once() {
        let bad = Settings::from_lookup(|name| match name {
            "PVM_HTTP_ADDR" => Some("8787".to_owned()),
            "PVM_LOG_FORMAT" => Some("xml".to_owned()),
            _ => None,
        })
        .unwrap_err()
        .to_string();
        assert!(bad.contains("PVM_HTTP_ADDR") && bad.contains("127.0.0.1:8787"), "{bad}");
        assert!(bad.contains("PVM_LOG_FORMAT") && bad.contains("json"), "{bad}");
    }

    #[test]
    fn a_missing_variable_is_named_with_its_meaning() {
        let missing = required(None::<&String>, "PVM_BUCKET").unwrap_err().to_string();
        assert!(missing.starts_with("PVM_BUCKET is not set"), "{missing}");
        assert!(missing.contains("bucket of file objects"), "{missing}");
    }

    #[test]
    fn a_secret_is_not_shown_and_misspelt_names_are_found() {
        let settings =
            Settings::from_lookup(|name| (name == "PVM_API_KEY").then(|| "hush".to_owned())).unwrap();
        assert!(!format!("{settings:?}").contains("hush"));
        assert_eq!(Settings::unknown(["PVM_HTTP_ADR", "PATH", "PVM_HOME"].into_iter()), ["PVM_HTTP_ADR"]);
    }
}
