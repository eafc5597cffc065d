//! Every provider's wire against a server that nobody here wrote (npm `@copilotkit/aimock`): streams, tool rounds, refusals
//! with and without hints, contexts that are too long, connections that break. What we sent is recorded on the way and
//! checked by the vendors' own packages.
//!
//! `scripts/test-tools.sh` installs server and packages below the target folder.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod fixtures;
mod server;
mod tee;

use std::time::Duration;

use pvm_application::ports_model::{
    Block, CallModel, CallPlace, ModelAnswer, ModelError, ModelMessage, ModelRequest, ModelTool, Role, Stop,
};
use pvm_aws::clients::{self, ClientSettings, StaticCredentials};
use pvm_domain::ids::{ConversationId, PrefixedId, RunId};
use pvm_models::{
    AnthropicSettings, Library, ModelSettings, ModelTable, Models, OpenAiSettings, ProviderKey, Providers,
    Replay,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use server::Server;

const PRICES: &str = r#"{"*": {"input": 2, "output": 10}}"#;

/// A provider against a server of its own.
struct Bench {
    model: &'static str,
    server: Server,
    models: Models,
}

impl Bench {
    async fn start(model: &'static str) -> Self {
        let server = Server::start(&fixtures::all()).await;
        let url = server.url();
        let key = ProviderKey::new("sk-test");
        let base = clients::load(ClientSettings {
            region: Some("us-east-1".to_owned()),
            credentials: Some(StaticCredentials { access_key: "AKTEST".into(), secret_key: "test".into() }),
            ..ClientSettings::default()
        })
        .await;
        let providers = Providers {
            openai: Some(OpenAiSettings { base_url: format!("{url}/v1"), key: Some(key.clone()) }),
            anthropic: Some(AnthropicSettings {
                base_url: url.clone(),
                key,
                version: pvm_models::ANTHROPIC_VERSION.to_owned(),
            }),
            bedrock: Some(base.bedrock("us-east-1", Some(&url))),
            known: ModelTable::parse(PRICES).unwrap(),
        };
        let replay = Replay { library: Library::default(), pace: Duration::ZERO };
        let models = Models::new(ModelSettings { default_model: model.to_owned(), replay })
            .with_providers(providers)
            .unwrap();
        Self { model, server, models }
    }

    /// Calls the model; answers the text that came in pieces, too.
    async fn call(&self, messages: Vec<ModelMessage>) -> (Result<ModelAnswer, ModelError>, String) {
        let (sender, mut pieces) = mpsc::channel(1000);
        let request = request(self.model, messages);
        let answer = self.models.call(&request, sender).await;
        let mut text = String::new();
        while let Ok(piece) = pieces.try_recv() {
            text.push_str(&piece);
        }
        (answer, text)
    }

    async fn say(&self, words: &str) -> (Result<ModelAnswer, ModelError>, String) {
        self.call(vec![user(vec![text(words)])]).await
    }

    /// All that a provider must do, then the check of what it was sent.
    async fn all(self) {
        self.streams().await;
        self.tool_round().await;
        self.refusals().await;
        self.breaks().await;
        self.server.validate();
    }

    async fn streams(&self) {
        let (answer, streamed) = self.say(fixtures::GREET).await;
        let answer = answer.unwrap();
        assert_eq!((answer.text.as_str(), answer.stop), (fixtures::GREETING, Stop::End));
        assert_eq!(streamed, fixtures::GREETING, "the pieces are the answer");
        assert!(answer.calls.is_empty());
        assert_eq!((answer.usage.input, answer.usage.output), (120, 30));
        assert_eq!(answer.usage.cost_microusd, 120 * 2 + 30 * 10);
    }

    /// The model calls two tools, gets both results (one of a failure), and speaks.
    async fn tool_round(&self) {
        let (answer, streamed) = self.say(fixtures::WORK).await;
        let answer = answer.unwrap();
        assert_eq!((answer.text.as_str(), answer.stop), (fixtures::WORKING, Stop::ToolCalls));
        assert_eq!(streamed, fixtures::WORKING);
        let calls: Vec<_> = answer.calls.iter().map(|it| (it.name.as_str(), it.arguments.clone())).collect();
        assert_eq!(
            calls,
            [
                ("execute_command", Ok(json!({"command": "ls -la \"a b\"", "timeout_secs": 5}))),
                ("read_file", Ok(json!({"path": "README.md"}))),
            ]
        );
        let provider = self.model.split('/').next().unwrap().to_owned();
        let mut own: Vec<Block> = answer
            .opaque
            .iter()
            .map(|block| Block::Opaque { provider: provider.clone(), value: block.value.clone() })
            .collect();
        own.push(text(&answer.text));
        let mut results = Vec::new();
        for (place, call) in answer.calls.into_iter().enumerate() {
            let id = call.provider_id;
            let arguments = call.arguments.unwrap();
            own.push(Block::ToolUse { id: id.clone(), name: call.name, arguments });
            results.push(Block::ToolResult { id, text: format!("result {place}"), is_error: place == 1 });
        }
        results.push(text(fixtures::RESULTS));
        let assistant = ModelMessage { role: Role::Assistant, blocks: own };
        let (answer, _) = self.call(vec![user(vec![text(fixtures::WORK)]), assistant, user(results)]).await;
        let answer = answer.unwrap();
        assert_eq!((answer.text.as_str(), answer.stop), (fixtures::DONE, Stop::End));
    }

    async fn refusals(&self) {
        let before = self.server.journal().await.len();
        let (answer, _) = self.say(fixtures::SHORT_WAIT).await;
        assert_eq!(answer.unwrap().text, fixtures::GREETING, "a short wait is waited for");
        let statuses: Vec<u64> = self.server.journal().await.split_off(before);
        assert_eq!(statuses, [429, 200]);

        let before = self.server.journal().await.len();
        let (answer, _) = self.say(fixtures::LONG_WAIT).await;
        assert!(
            matches!(answer, Err(ModelError::RateLimited { retry_after: Some(wait) }) if wait.as_secs() == 40),
            "a long one goes back: {answer:?}"
        );
        assert_eq!(self.server.journal().await.len(), before + 1, "and nothing is sent meanwhile");

        let (answer, _) = self.say(fixtures::OVERLOADED).await;
        assert!(matches!(answer, Err(ModelError::Overloaded { retry_after: None })), "{answer:?}");
        let (answer, _) = self.say(fixtures::TOO_LONG).await;
        assert!(matches!(answer, Err(ModelError::ContextOverflow)), "{answer:?}");
        let (answer, _) = self.say(fixtures::BAD_KEY).await;
        assert!(matches!(&answer, Err(ModelError::NotConfigured(why)) if why.contains("key")), "{answer:?}");
        let (answer, _) = self.say(fixtures::BAD_REQUEST).await;
        assert!(
            matches!(&answer, Err(ModelError::Refused(why)) if why.contains("a field is wrong")),
            "{answer:?}"
        );
    }

    async fn breaks(&self) {
        let (answer, streamed) = self.say(fixtures::BREAKS_OFF).await;
        assert!(matches!(answer, Err(ModelError::Broken(_))), "{answer:?}");
        assert!(fixtures::STORY.starts_with(&streamed) && streamed.len() < fixtures::STORY.len());
        // A server that takes the request and hangs up without a word.
        let (answer, streamed) = self.say(fixtures::HANGS_UP).await;
        assert!(matches!(answer, Err(ModelError::Overloaded { .. } | ModelError::Broken(_))), "{answer:?}");
        assert_eq!(streamed, "");
    }
}

fn text(text: &str) -> Block {
    Block::Text { text: text.to_owned() }
}

fn user(blocks: Vec<Block>) -> ModelMessage {
    ModelMessage { role: Role::User, blocks }
}

/// A request as the system makes them: with the real tools, whose schemas a provider must take.
fn request(model: &str, messages: Vec<ModelMessage>) -> ModelRequest {
    let tools = pvm_tools::entries().iter().map(|entry| &entry.definition).map(|tool| ModelTool {
        name: tool.name.clone(),
        description: tool.description.clone(),
        input_schema: tool.input_schema.clone(),
    });
    ModelRequest {
        model: model.to_owned(),
        system: "You help.".to_owned(),
        messages,
        tools: tools.collect(),
        temperature: Some(0.5),
        max_tokens: 500,
        place: CallPlace {
            conversation_id: ConversationId::from_parts(1, 1),
            run_id: RunId::from_parts(1, 1),
            agent_id: "dev_agent".to_owned(),
            initial_message: "Go".to_owned(),
            turn: 0,
            agent_step: 0,
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_chat_completions() {
    Bench::start("openai/gpt-4o").await.all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic_messages() {
    Bench::start("anthropic/claude-sonnet-4-5").await.all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bedrock_converse() {
    let bench = Bench::start("bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0").await;
    // The same request twice has the same bytes: the provider's cache goes by them.
    bench.say(fixtures::GREET).await.0.unwrap();
    bench.say(fixtures::GREET).await.0.unwrap();
    let bodies = bench.server.bodies();
    assert_eq!(bodies[0], bodies[1]);
    let body: Value = serde_json::from_slice(&bodies[0]).unwrap();
    assert_eq!(body["system"][1]["cachePoint"]["type"], "default");
    bench.all().await;
}
