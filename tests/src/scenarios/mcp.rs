//! The MCP door, by plain HTTP: both eras of the protocol.

use reqwest::Method;
use serde_json::{Value, json};

use crate::api::Api;

/// The revision without a handshake.
const STATELESS: &str = "2026-07-28";
/// The newest with one.
const HANDSHAKE: &str = "2025-11-25";

/// A request of the stateless era; answers its result.
pub async fn ask(api: &Api, project: &str, method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": STATELESS,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "scenario", "version": "1"}});
    let name = params["name"].as_str().or(params["uri"].as_str()).map(str::to_owned);
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let mut headers = vec![("mcp-method", method), ("mcp-protocol-version", STATELESS)];
    headers.extend(name.as_deref().map(|name| ("mcp-name", name)));
    result(api, project, &message, &headers).await
}

/// Calls a tool, in the stateless form; answers its result.
pub async fn call_tool(api: &Api, project: &str, name: &str, arguments: Value) -> Value {
    ask(api, project, "tools/call", json!({"name": name, "arguments": arguments})).await
}

async fn result(api: &Api, project: &str, message: &Value, headers: &[(&str, &str)]) -> Value {
    let mut request = api.request(Method::POST, &format!("{project}/mcp")).json(message);
    request = request.header("accept", "application/json, text/event-stream");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let text = request.send().await.unwrap().text().await.unwrap();
    let lines = text.lines().map(|line| line.strip_prefix("data:").unwrap_or(line).trim());
    let mut messages = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let found = messages.find(|answer| answer["id"] == message["id"]);
    found.unwrap_or_else(|| panic!("no answer: {text}"))["result"].clone()
}

/// A client of either era finds the tools, calls them, and reads what they made as a resource.
pub async fn both_eras(api: &Api) {
    let project = api.project("mcp").await;
    let version = [("mcp-protocol-version", HANDSHAKE)];
    let about = json!({"protocolVersion": HANDSHAKE, "capabilities": {},
                       "clientInfo": {"name": "scenario", "version": "1"}});
    let message =
        |method: &str, params: Value| json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let agreed = result(api, &project, &message("initialize", about), &[]).await;
    assert_eq!(
        (&agreed["protocolVersion"], &agreed["serverInfo"]["name"]),
        (&json!(HANDSHAKE), &json!("project-vm"))
    );
    let listed = result(api, &project, &message("tools/list", json!({})), &version).await;
    let listed_now = ask(api, &project, "tools/list", json!({})).await;
    assert_eq!(listed["tools"], listed_now["tools"], "the eras have the same tools");
    let names: Vec<_> = listed["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect();
    assert!(names.contains(&json!("execute_command")) && names.contains(&json!("read_file")), "{names:?}");

    let call = json!({"name": "execute_command", "arguments": {"command": "echo one > made.txt; pwd"}});
    let ran = result(api, &project, &message("tools/call", call), &version).await;
    assert_eq!(ran["structuredContent"]["stdout"], "/workspace\n", "{ran}");
    let failed = call_tool(api, &project, "execute_command", json!({"command": "exit 3"})).await;
    assert_eq!(
        (&failed["isError"], &failed["structuredContent"]["exit_code"]),
        (&json!(true), &json!(3)),
        "{failed}"
    );
    let bad = call_tool(api, &project, "read_file", json!({"pth": "x"})).await;
    assert!(bad["isError"] == true && bad.to_string().contains("path (string, required)"), "{bad}");

    let listed = ask(api, &project, "resources/list", json!({})).await;
    assert!(listed.to_string().contains("pvm://status"), "{listed}");
    let read = ask(api, &project, "resources/read", json!({"uri": "pvm://workspace/made.txt"})).await;
    assert_eq!(read["contents"][0]["text"], "one\n", "{read}");
    let status = ask(api, &project, "resources/read", json!({"uri": "pvm://status"})).await;
    assert!(status["contents"][0]["text"].as_str().unwrap().contains("\"active\""), "{status}");
}
