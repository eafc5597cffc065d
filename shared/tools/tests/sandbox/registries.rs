//! What comes from package registries: installs by every manager, and the development environments. Minutes each, in the
//! template `base`.

use pvm_application::vm::recipe;
use serde_json::{Value, json};

use crate::lab::Lab;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs from package registries, which takes minutes"]
async fn packages_are_installed_by_every_manager_and_noted() {
    let lab = Lab::start("base").await;
    // The template `host` has sudo only where the host has it.
    let out = lab.ok("execute_command", json!({"command": "sudo -n id -un"})).await;
    assert_eq!(out["stdout"], "root\n", "{out}");
    let version = |out: &Value, name: &str| {
        let all = out["installed"].as_array().unwrap();
        let found = all.iter().find(|package| package["name"] == name);
        found
            .and_then(|package| package["version"].as_str())
            .unwrap_or_else(|| panic!("{name} in {out}"))
            .to_owned()
    };
    let out = lab.ok("install_package", json!({"package": "six==1.16.0 idna", "manager": "pip"})).await;
    assert_eq!(version(&out, "six"), "1.16.0");
    assert_eq!(out["location"], "system");
    let out =
        lab.ok("install_package", json!({"package": "six", "manager": "pip", "virtual_env": "env"})).await;
    assert_eq!(out["location"], "/workspace/env");
    let out = lab
        .ok("install_package", json!({"package": "left-pad@1.3.0", "manager": "npm", "working_dir": "app"}))
        .await;
    assert_eq!(version(&out, "left-pad"), "1.3.0");
    let out = lab
        .ok("install_package", json!({"package": "is-odd", "manager": "yarn", "working_dir": "yapp"}))
        .await;
    assert!(!version(&out, "is-odd").is_empty());
    let out = lab.ok("install_package", json!({"package": "tree", "manager": "apt"})).await;
    assert!(!version(&out, "tree").is_empty());
    lab.ok("execute_command", json!({"command": "tree --version"})).await;
    let text = lab
        .fails(
            "install_package",
            json!({"package": "no-such-package-at-all", "manager": "npm", "working_dir": "app"}),
        )
        .await;
    assert!(text.contains("could not install"), "{text}");
    let text = lab.fails("install_package", json!({"package": "x", "manager": "cargo"})).await;
    assert!(text.contains("cargo is not installed"), "{text}");
    let noted = recipe::load(&lab.store, &lab.project_id).await.unwrap();
    assert_eq!(noted.installs.len(), 5);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs from package registries, which takes minutes"]
async fn environments_are_made_and_left_alone_when_they_are_there() {
    let lab = Lab::start("base").await;
    let made = lab
        .ok("create_development_environment", json!({"kind": "python", "path": "py", "packages": "six"}))
        .await;
    assert!(made["created"].as_array().unwrap().contains(&json!(".venv")), "{made}");
    let again = lab
        .ok("create_development_environment", json!({"kind": "python", "path": "py", "packages": "six"}))
        .await;
    assert_eq!(again["created"], json!([]), "{again}");
    lab.ok("execute_command", json!({"command": "py/.venv/bin/python -c 'import six'"})).await;
    let made = lab.ok("create_development_environment", json!({"kind": "fullstack", "path": "full"})).await;
    assert!(made["versions"].as_array().unwrap().iter().any(|v| v["name"] == "node"), "{made}");
    lab.ok("execute_command", json!({"command": "cd full/frontend && npm run build", "timeout_secs": 120}))
        .await;
    let backend = json!({"name": "backend", "command": "backend/.venv/bin/python backend/app.py",
                         "working_dir": "full", "port": 5000});
    assert_eq!(lab.ok("start_service", backend).await["status"], "running");
    lab.ok("create_development_environment", json!({"kind": "data-science", "path": "ds"})).await;
    lab.ok("execute_command", json!({"command": "ds/.venv/bin/python -c 'import pandas, sklearn'"})).await;
    let made = lab.ok("create_development_environment", json!({"kind": "rust", "path": "rs"})).await;
    assert!(made["versions"].as_array().unwrap().iter().any(|v| v["name"] == "cargo"), "{made}");
    lab.ok("execute_command", json!({"command": "cd rs && cargo run", "timeout_secs": 120})).await;
    lab.finish().await;
}
