//! Set-ups that need no package from outside: made, and used as they say.

use serde_json::json;

use super::bench::Bench;

#[tokio::test]
async fn what_a_set_up_says_of_its_use_works() {
    for kind in ["python", "node", "rust"] {
        let mut bench = Bench::new();
        let arguments = json!({"kind": kind, "path": "app"});
        let made = bench.ok("create_development_environment", arguments.clone()).await;
        let lines: Vec<&str> =
            made["how_to_use"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
        let used = bench
            .call(
                "execute_command",
                json!({"command": format!("set -e\n{}", lines.join("\n")), "timeout_secs": 300}),
            )
            .await;
        assert!(!used.is_error, "{kind}: {}", used.text);
        // It may be repeated, and leaves what is there as it is.
        let again = bench.ok("create_development_environment", arguments).await;
        assert_eq!(again["created"], json!([]), "{kind}");
        assert!(!again["already_there"].as_array().unwrap().is_empty(), "{kind}");
    }
}

/// pip and npm with packages that are directories: their own part of an installation, without a registry.
#[tokio::test]
async fn packages_of_a_directory_are_installed_and_their_versions_told() {
    let mut bench = Bench::new();
    bench.file("lib/package.json", r#"{"name": "my-lib", "version": "1.2.3"}"#);
    let path = format!("file:{}", bench.path("lib"));
    let out =
        bench.ok("install_package", json!({"package": path, "manager": "npm", "working_dir": "app"})).await;
    assert_eq!(out["location"], json!(bench.path("app")));
    assert!(std::fs::exists(bench.path("app/node_modules/my-lib/package.json")).unwrap());
    let text = bench
        .fails("install_package", json!({"package": "file:/nowhere", "manager": "npm", "working_dir": "app"}))
        .await;
    assert!(text.contains("npm could not install this: exit code"), "{text}");
}
