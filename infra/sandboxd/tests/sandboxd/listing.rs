//! Lists: filters, order, pages, owners.

use http::StatusCode;
use serde_json::{Value, json};

use crate::lab::{Lab, STRANGER};

fn ids(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|row| row["sandboxID"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_ordered_and_paged() {
    let lab = Lab::start().await;
    let mut made = Vec::new();
    for number in 0..5 {
        let metadata = json!({"kind": if number % 2 == 0 { "even & odd=no" } else { "odd" }});
        made.push(lab.create_with(json!({"metadata": metadata})).await.sandbox_id);
        // Start times are milliseconds.
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }
    lab.must(204, "POST", &format!("/sandboxes/{}/pause", made[4]), Value::Null).await;
    let list = |query: &str| {
        let path = format!("/v2/sandboxes?{query}");
        let lab = &lab;
        async move { lab.must(200, "GET", &path, Value::Null).await }
    };
    let newest_first: Vec<_> = made.iter().rev().cloned().collect();
    let all = list("").await;
    assert_eq!(ids(&all.json()), newest_first);
    assert_eq!(all.headers["x-total-running"], "4");
    assert!(!all.headers.contains_key("x-next-token"));
    assert_eq!(ids(&list("order=asc").await.json()), made);
    assert_eq!(ids(&list("state=paused").await.json()), [made[4].clone()]);

    let first = list("limit=2").await;
    assert_eq!(ids(&first.json()), newest_first[..2]);
    let token = first.headers["x-next-token"].to_str().unwrap().to_owned();
    let second = list(&format!("limit=2&nextToken={token}")).await;
    assert_eq!(ids(&second.json()), newest_first[2..4]);

    // Three layers of percent-encoding, as the SDKs send it.
    let query = pvm_e2b_wire::list_query::ListQuery {
        metadata: [("kind".to_owned(), "even & odd=no".to_owned())].into(),
        ..Default::default()
    };
    let even = list(&query.to_query_string()).await.json();
    assert_eq!(ids(&even), [made[4].clone(), made[2].clone(), made[0].clone()]);

    let detail = lab.must(200, "GET", &format!("/sandboxes/{}", made[2]), Value::Null).await.json();
    let since = detail["startedAt"].as_str().unwrap();
    let later = list(&format!("startedAfter={}&order=asc", since.replace(':', "%3A"))).await.json();
    assert_eq!(ids(&later), made[2..], "itself included");
    lab.must(400, "GET", "/v2/sandboxes?startedAfter=yesterday", Value::Null).await;
    assert_eq!(ids(&list("template=host").await.json()), newest_first);
    assert_eq!(ids(&list("template=other").await.json()), [""; 0]);

    let old = lab.must(200, "GET", "/sandboxes", Value::Null).await.json();
    assert_eq!(ids(&old), newest_first[1..]);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_sandbox_is_not_there() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let id = &sandbox.sandbox_id;
    assert_eq!(lab.call_as(STRANGER, "GET", "/v2/sandboxes", &Value::Null).await.json(), json!([]));
    for (method, path, body) in [
        ("GET", format!("/sandboxes/{id}"), Value::Null),
        ("DELETE", format!("/sandboxes/{id}"), Value::Null),
        ("POST", format!("/sandboxes/{id}/pause"), Value::Null),
        ("POST", format!("/sandboxes/{id}/connect"), json!({"timeout": 5})),
        ("POST", format!("/v2/sandboxes/{id}/connect"), json!({})),
        ("POST", format!("/sandboxes/{id}/resume"), json!({})),
        ("POST", format!("/sandboxes/{id}/timeout"), json!({"timeout": 5})),
        ("POST", format!("/sandboxes/{id}/refreshes"), json!({})),
        ("POST", format!("/sandboxes/{id}/snapshots"), json!({})),
        ("POST", format!("/sandboxes/{id}/fork"), json!({})),
        ("PUT", format!("/sandboxes/{id}/network"), json!({})),
        ("GET", format!("/sandboxes/{id}/metrics"), Value::Null),
        ("GET", format!("/v2/sandboxes/{id}/logs"), Value::Null),
    ] {
        let answer = lab.call_as(STRANGER, method, &path, &body).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}");
        let nobody = lab.call_as("wrong", method, &path, &body).await;
        assert_eq!(nobody.status, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    assert_eq!(lab.state_of(&sandbox).await, "running");
    lab.finish().await;
}
