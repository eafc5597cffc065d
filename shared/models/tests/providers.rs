//! The providers over real sockets: what they are sent, and what is made of what they answer.
#![expect(clippy::unwrap_used, reason = "tests")]

mod wire;

use std::time::Duration;

use pvm_application::ports_model::{KnowModels, ModelError, Stop};
use pvm_models::{
    AnthropicSettings, Library, ModelSettings, ModelTable, Models, OpenAiSettings, ProviderKey, Providers,
    Replay,
};
use serde_json::json;

use wire::{Server, call};

fn stream(events: &[&str]) -> String {
    let body: String = events.iter().map(|event| format!("{event}\n\n")).collect();
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{body}")
}

fn refusal(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n{body}")
}

fn models(url: &str) -> Models {
    let key = ProviderKey::new("sk-test");
    let anthropic =
        AnthropicSettings { base_url: url.to_owned(), key: key.clone(), version: "2026-10-21".to_owned() };
    let providers = Providers {
        openai: Some(OpenAiSettings { base_url: format!("{url}/v1"), key: Some(key) }),
        anthropic: Some(anthropic),
        bedrock: None,
        known: ModelTable::parse(r#"{"anthropic/*": {"input": 3, "output": 15, "cache_read": 0.3}}"#)
            .unwrap(),
    };
    let replay = Replay { library: Library::default(), pace: Duration::ZERO };
    Models::new(ModelSettings { default_model: "replay/demo".to_owned(), replay })
        .with_providers(providers)
        .unwrap()
}

#[tokio::test]
async fn an_openai_server_is_spoken_to_and_understood() {
    let server = Server::new(vec![stream(&[
        r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"Héllo"}}]}"#,
        r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c9","type":"function","function":{"name":"look","arguments":"{\"what\":\"b\"}"}}]}}]}"#,
        r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
        r#"data: {"choices":[],"usage":{"prompt_tokens":50,"completion_tokens":7}}"#,
        "data: [DONE]",
    ])])
    .await;
    let (answer, streamed) = call(&models(&server.url), "openai/any/model:7b").await;
    let answer = answer.unwrap();
    assert_eq!((answer.text.as_str(), streamed.as_str(), answer.stop), ("Héllo", "Héllo", Stop::ToolCalls));
    assert_eq!((answer.usage.input, answer.usage.output, answer.usage.cost_microusd), (50, 7, 0));
    let (head, body) = server.request(0);
    assert!(head.starts_with("post /v1/chat/completions ") && head.contains("authorization: bearer sk-test"));
    assert_eq!(
        (body["model"].as_str(), body["max_tokens"].as_u64(), body["temperature"].as_f64()),
        (Some("any/model:7b"), Some(500), Some(0.5))
    );
    assert_eq!(
        body["messages"],
        json!([
            {"role": "system", "content": "You help."},
            {"role": "user", "content": "[user] Go"},
            {"role": "assistant", "content": "Looking.", "tool_calls": [
                {"id": "call 1", "type": "function", "function": {"name": "look", "arguments": "{\"what\":\"a\"}"}}]},
            {"role": "tool", "tool_call_id": "call 1", "content": "seen"},
            {"role": "user", "content": "[system] State"},
        ])
    );
    assert_eq!(body["tools"][0]["function"]["name"], "look");
}

#[tokio::test]
async fn anthropic_is_spoken_to_and_understood() {
    let server = Server::new(vec![stream(&[
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":10,\"cache_read_input_tokens\":100,\"output_tokens\":1}}}",
        "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}",
        "event: ping\ndata: {\"type\":\"ping\"}",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":20}}",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}",
    ])])
    .await;
    let (answer, streamed) = call(&models(&server.url), "anthropic/claude-x").await;
    let answer = answer.unwrap();
    assert_eq!((answer.text.as_str(), streamed.as_str(), answer.stop), ("Hello", "Hello", Stop::End));
    assert_eq!(
        (answer.usage.input, answer.usage.output, answer.usage.cost_microusd),
        (110, 20, 30 + 30 + 300)
    );
    let (head, body) = server.request(0);
    assert!(head.starts_with("post /v1/messages ") && head.contains("anthropic-version: 2026-10-21"));
    assert!(head.contains("x-api-key: sk-test"));
    assert!(body.get("temperature").is_none(), "this version refuses it");
    assert_eq!(body["system"][0]["cache_control"]["type"], "ephemeral");
    assert_eq!(body["messages"][1]["content"][0]["type"], "thinking");
    assert_eq!(
        body["messages"][1]["content"][2],
        json!({"type": "tool_use", "id": "call_1", "name": "look", "input": {"what": "a"}})
    );
    let result = &body["messages"][2]["content"][0];
    assert_eq!((&result["tool_use_id"], &result["is_error"]), (&json!("call_1"), &json!(true)));
    assert_eq!(result["cache_control"]["type"], "ephemeral");
    assert!(body["messages"][2]["content"][1].get("cache_control").is_none());
}

#[tokio::test]
async fn refusals_are_told_by_what_they_mean() {
    let server = Server::new(vec![
        refusal("429 Too Many Requests", "retry-after: 12\r\n", "{}"),
        refusal(
            "529 Overloaded",
            "",
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
        ),
        refusal(
            "400 Bad Request",
            "",
            r#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#,
        ),
        refusal("401 Unauthorized", "", r#"{"error":{"message":"bad key"}}"#),
        refusal("307 Temporary Redirect", "location: http://127.0.0.1:1/\r\n", ""),
        stream(&[r#"data: {"choices":[{"delta":{"content":"half"}}]}"#]),
        stream(&["data: not json"]),
    ])
    .await;
    let models = models(&server.url);
    let rate = call(&models, "openai/x").await.0;
    assert!(matches!(rate, Err(ModelError::RateLimited { retry_after: Some(wait) }) if wait.as_secs() == 12));
    assert!(matches!(call(&models, "anthropic/x").await.0, Err(ModelError::Overloaded { .. })));
    assert!(matches!(call(&models, "openai/x").await.0, Err(ModelError::ContextOverflow)));
    let key = call(&models, "anthropic/x").await.0;
    assert!(matches!(key, Err(ModelError::NotConfigured(why)) if why.contains("bad key")));
    assert!(
        matches!(call(&models, "openai/x").await.0, Err(ModelError::Refused(_))),
        "a redirect is not followed"
    );
    assert!(matches!(call(&models, "openai/x").await.0, Err(ModelError::Broken(_))));
    assert!(matches!(call(&models, "openai/x").await.0, Err(ModelError::Broken(_))));
}

#[tokio::test]
async fn nobody_there_is_told_as_overloaded() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    assert!(matches!(
        call(&models(&url), "openai/x").await.0,
        Err(ModelError::Overloaded { retry_after: None })
    ));
}

/// A provider that says that it has no such model refuses it before it is used; one that says anything else does not.
#[tokio::test]
async fn a_model_that_its_provider_denies_is_refused_beforehand() {
    let openai = r#"{"error": {"message": "The model 'gpt-55' does not exist", "code": "model_not_found"}}"#;
    let anthropic =
        r#"{"type": "error", "error": {"type": "not_found_error", "message": "model: claude-55"}}"#;
    for (model, body, path) in [
        ("openai/gpt-55", openai, "get /v1/models/gpt-55 "),
        ("anthropic/claude-55", anthropic, "get /v1/models/claude-55 "),
    ] {
        let server = Server::new(vec![refusal("404 Not Found", "", body)]).await;
        let refused = models(&server.url).confirm(model).await.unwrap_err();
        assert!(
            matches!(&refused, ModelError::NotConfigured(why) if why.contains("does not know the model")),
            "{refused}"
        );
        assert!(server.request(0).0.starts_with(path), "{}", server.request(0).0);
    }
    let unclear = [
        (
            "404 Not Found",
            r#"{"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}"#,
        ),
        ("404 Not Found", r#"{"detail": "Not Found"}"#),
        ("401 Unauthorized", openai),
        ("500 Internal Server Error", "down"),
        ("200 OK", r#"{"id": "a/b:c"}"#),
    ];
    for (status, body) in unclear {
        let server = Server::new(vec![refusal(status, "", body)]).await;
        let models = models(&server.url);
        models.confirm("openai/a/b:c").await.unwrap();
        assert!(server.request(0).0.starts_with("get /v1/models/a%2fb:c "), "{}", server.request(0).0);
    }
    let nobody = models("http://127.0.0.1:1");
    nobody.confirm("openai/any").await.unwrap();
    nobody.confirm("replay/any").await.unwrap();
}
