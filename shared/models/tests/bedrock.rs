//! Bedrock over a real socket: what it is sent, and what is made of its event stream and of its own errors.
#![expect(clippy::unwrap_used, reason = "tests")]

mod wire;

use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_bedrockruntime::config::{BehaviorVersion, Region};
use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use pvm_application::ports_model::{ModelError, Stop};
use pvm_aws::clients::{self, ClientSettings, StaticCredentials};
use pvm_models::{BedrockClient, Library, ModelSettings, ModelTable, Models, Providers, Replay};
use serde_json::{Value, json};

use wire::{Server, call};

const CLAUDE: &str = "bedrock/us.anthropic.claude-opus-4-7-v1:0";

async fn models(url: &str) -> Models {
    let own = StaticCredentials { access_key: "AKTEST".to_owned(), secret_key: "hush".to_owned() };
    let base = clients::load(ClientSettings {
        region: Some("us-east-1".to_owned()),
        credentials: Some(own),
        ..ClientSettings::default()
    })
    .await;
    models_of(base.bedrock("eu-west-1", Some(url)))
}

fn models_of(client: BedrockClient) -> Models {
    let providers = Providers {
        bedrock: Some(client),
        known: ModelTable::parse(r#"{"bedrock/*": {"input": 3, "output": 15, "cache_read": 0.3}}"#).unwrap(),
        ..Providers::default()
    };
    let replay = Replay { library: Library::default(), pace: Duration::ZERO };
    Models::new(ModelSettings { default_model: "replay/demo".to_owned(), replay })
        .with_providers(providers)
        .unwrap()
}

/// An answer of the service: events by their names, or an exception.
fn stream(events: &[(&str, Value)]) -> Vec<u8> {
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\n\
        connection: close\r\n\r\n"
        .to_vec();
    for (name, payload) in events {
        let (kind, label) = if name.ends_with("Exception") {
            ("exception", ":exception-type")
        } else {
            ("event", ":event-type")
        };
        let text = |text: &str| HeaderValue::String(text.to_owned().into());
        let message = Message::new(payload.to_string().into_bytes())
            .add_header(Header::new(":message-type", text(kind)))
            .add_header(Header::new(label, text(name)))
            .add_header(Header::new(":content-type", text("application/json")));
        write_message_to(&message, &mut answer).unwrap();
    }
    answer
}

fn refusal(status: &str, kind: &str, headers: &str, message: &str) -> Vec<u8> {
    let body = json!({"message": message});
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\nx-amzn-errortype: {kind}:http://x/\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

#[tokio::test]
async fn it_is_spoken_to_and_understood() {
    let server = Server::new(vec![stream(&[
        ("messageStart", json!({"role": "assistant"})),
        ("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "hm"}}})),
        ("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "s"}}})),
        ("contentBlockDelta", json!({"contentBlockIndex": 1, "delta": {"text": "Héllo"}})),
        ("contentBlockStart", json!({"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "t9", "name": "look"}}})),
        ("contentBlockDelta", json!({"contentBlockIndex": 2, "delta": {"toolUse": {"input": "{\"what\":"}}})),
        ("contentBlockDelta", json!({"contentBlockIndex": 2, "delta": {"toolUse": {"input": "\"b\"}"}}})),
        ("contentBlockStop", json!({"contentBlockIndex": 2})),
        ("messageStop", json!({"stopReason": "tool_use"})),
        ("metadata", json!({"usage": {"inputTokens": 10, "outputTokens": 20, "totalTokens": 130, "cacheReadInputTokens": 100}, "metrics": {"latencyMs": 5}})),
    ])])
    .await;
    let (answer, streamed) = call(&models(&server.url).await, CLAUDE).await;
    let answer = answer.unwrap();
    assert_eq!((answer.text.as_str(), streamed.as_str(), answer.stop), ("Héllo", "Héllo", Stop::ToolCalls));
    assert_eq!(answer.calls[0].arguments, Ok(json!({"what": "b"})));
    let own: Vec<_> = answer.opaque.iter().map(|block| block.value.clone()).collect();
    assert_eq!(own, [json!({"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}})]);
    assert_eq!(
        (answer.usage.input, answer.usage.output, answer.usage.cost_microusd),
        (110, 20, 30 + 30 + 300)
    );
    let (head, body) = server.request(0);
    assert!(head.starts_with("post /model/us.anthropic.claude-opus-4-7-v1%3a0/converse-stream "), "{head}");
    assert!(head.contains("authorization: aws4-hmac-sha256 credential=aktest/") && !head.contains("hush"));
    assert!(head.contains("/eu-west-1/bedrock/"), "signed for the region of the settings: {head}");
    assert_eq!(body["inferenceConfig"], json!({"maxTokens": 500}), "this model takes no temperature");
    assert_eq!(body["system"], json!([{"text": "You help."}, {"cachePoint": {"type": "default"}}]));
    assert_eq!(
        body["messages"],
        json!([
            {"role": "user", "content": [{"text": "[user] Go"}]},
            // What another provider thought is not this one's.
            {"role": "assistant", "content": [{"text": "Looking."},
                {"toolUse": {"toolUseId": "call_1", "name": "look", "input": {"what": "a"}}}]},
            {"role": "user", "content": [
                {"toolResult": {"toolUseId": "call_1", "content": [{"text": "seen"}], "status": "error"}},
                {"cachePoint": {"type": "default"}},
                {"text": "[system] State"}]},
        ])
    );
    assert_eq!(body["toolConfig"]["tools"][0]["toolSpec"]["name"], "look");
}

#[tokio::test]
async fn its_errors_are_told_by_what_they_mean() {
    let begun = || ("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": {"text": "half"}}));
    let server = Server::new(vec![
        refusal("429 Too Many Requests", "ThrottlingException", "retry-after: 12\r\n", "slow"),
        refusal("503 Service Unavailable", "ServiceUnavailableException", "", "down"),
        refusal("400 Bad Request", "ValidationException", "", "Input is too long for requested model."),
        refusal("403 Forbidden", "AccessDeniedException", "", "You don't have access to the model"),
        refusal("403 Forbidden", "UnrecognizedClientException", "", "The security token is invalid"),
        refusal("404 Not Found", "ResourceNotFoundException", "", "no such model"),
        stream(&[begun(), ("throttlingException", json!({"message": "slow"}))]),
        stream(&[begun(), ("modelStreamErrorException", json!({"message": "it fell over"}))]),
        stream(&[begun()]),
        stream(&[begun(), ("messageStop", json!({"stopReason": "end_turn"}))]),
    ])
    .await;
    let models = models(&server.url).await;
    let next = || async { call(&models, CLAUDE).await.0 };
    let rate = next().await;
    assert!(matches!(rate, Err(ModelError::RateLimited { retry_after: Some(wait) }) if wait.as_secs() == 12));
    assert!(matches!(next().await, Err(ModelError::Overloaded { .. })));
    assert!(matches!(next().await, Err(ModelError::ContextOverflow)));
    for part in ["access to the model", "security token is invalid", "no such model"] {
        let error = next().await;
        assert!(matches!(&error, Err(ModelError::NotConfigured(why)) if why.contains(part)), "{error:?}");
    }
    assert!(matches!(next().await, Err(ModelError::RateLimited { .. })));
    assert!(matches!(next().await, Err(ModelError::Broken(why)) if why == "it fell over"));
    assert!(matches!(next().await, Err(ModelError::Broken(_))));
    assert_eq!(next().await.unwrap().text, "half", "an answer without its counts is an answer");
}

#[derive(Debug)]
struct Nobody;

impl ProvideCredentials for Nobody {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Err(CredentialsError::not_loaded_no_source()))
    }
}

#[tokio::test]
async fn without_credentials_it_says_what_is_missing() {
    let config = aws_sdk_bedrockruntime::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Nobody)
        .endpoint_url("http://127.0.0.1:1");
    let error = call(&models_of(BedrockClient::from_conf(config.build())), CLAUDE).await.0;
    assert!(
        matches!(&error, Err(ModelError::NotConfigured(why)) if why.contains("AWS_ACCESS_KEY_ID")),
        "{error:?}"
    );
}
