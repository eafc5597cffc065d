//! What comes from package registries: installs by every manager, and the development environments. Minutes each, in the
//! template `base`.

use pvm_application::vm::recipe;
use serde_json::{Value, json};

use crate::lab::Lab;

/// The installed version of a package in an answer.
fn version(out: &Value, name: &str) -> String {
    let all = out["installed"].as_array().unwrap();
    let found = all.iter().find(|package| package["name"] == name);
    found
        .and_then(|package| package["version"].as_str())
        .unwrap_or_else(|| panic!("{name} in {out}"))
        .to_owned()
}

async fn install(lab: &Lab, package: &str, manager: &str, more: Value) -> Value {
    let mut arguments = json!({"package": package, "manager": manager});
    arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    lab.ok("install_package", arguments).await
}

async fn shell(lab: &Lab, command: &str) -> String {
    let out = lab.ok("execute_command", json!({"command": command, "timeout_secs": 200})).await;
    out["stdout"].as_str().unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs from package registries, which takes minutes"]
async fn packages_are_installed_by_every_manager_and_noted() {
    let lab = Lab::start("base").await;
    // The template `host` has sudo only where the host has it.
    assert_eq!(shell(&lab, "sudo -n id -un").await, "root");
    let out = install(&lab, "six==1.16.0 idna", "pip", json!({})).await;
    assert_eq!((version(&out, "six").as_str(), &out["location"]), ("1.16.0", &json!("system")));
    assert!(!version(&out, "idna").is_empty(), "several at once");
    let out = install(&lab, "six", "pip", json!({"virtual_env": "env"})).await;
    assert_eq!(out["location"], "/workspace/env");
    // A virtual environment of the code project is found without being named.
    shell(&lab, "mkdir -p web && cd web && python3 -m venv .venv").await;
    let out = install(&lab, "six==1.15.0", "pip", json!({"working_dir": "web"})).await;
    assert_eq!((&out["location"], version(&out, "six").as_str()), (&json!("/workspace/web/.venv"), "1.15.0"));
    assert_eq!(shell(&lab, "web/.venv/bin/python -c 'import six; print(six.__version__)'").await, "1.15.0");

    let out = install(&lab, "left-pad@1.3.0 is-even", "npm", json!({"working_dir": "app"})).await;
    assert_eq!((version(&out, "left-pad").as_str(), &out["location"]), ("1.3.0", &json!("/workspace/app")));
    assert!(!version(&out, "is-even").is_empty());
    install(&lab, "is-number", "npm", json!({"working_dir": "app", "dev": true})).await;
    let dev =
        shell(&lab, "node -p \"Object.keys(require('/workspace/app/package.json').devDependencies)[0]\"")
            .await;
    assert_eq!(dev, "is-number");
    let out = install(&lab, "semver@7.5.0", "npm", json!({"global": true})).await;
    assert_eq!((version(&out, "semver").as_str(), &out["location"]), ("7.5.0", &json!("system")));
    assert_eq!(shell(&lab, "semver -i minor 1.2.3").await, "1.3.0", "its command is on the PATH");
    let out = install(&lab, "is-odd", "yarn", json!({"working_dir": "yapp"})).await;
    assert!(!version(&out, "is-odd").is_empty());
    let out = install(&lab, "is-number@7.0.0", "yarn", json!({"working_dir": "yapp", "dev": true})).await;
    assert_eq!(version(&out, "is-number"), "7.0.0");
    let out = install(&lab, "tree hello", "apt", json!({})).await;
    assert!(!version(&out, "tree").is_empty() && !version(&out, "hello").is_empty(), "{out}");
    assert_eq!(shell(&lab, "tree --version >/dev/null && hello").await, "Hello, world!");

    for (bad, why) in [
        (
            json!({"package": "no-such-package-at-all-1", "manager": "npm", "working_dir": "app"}),
            "could not install",
        ),
        (json!({"package": "no-such-package-at-all-1", "manager": "pip"}), "could not install"),
        (json!({"package": "no-such-package-at-all-1", "manager": "apt"}), "Unable to locate"),
        (json!({"package": "x", "manager": "cargo"}), "cargo is not installed"),
        (json!({"package": "six", "manager": "npm", "virtual_env": "env"}), "only for pip"),
        (json!({"package": "--user six", "manager": "pip"}), "must not start with"),
        (json!({"package": "six", "manager": "brew"}), "apt|pip|npm|yarn|cargo"),
    ] {
        let text = lab.fails("install_package", bad).await;
        assert!(text.contains(why), "{text}");
    }
    let noted = recipe::load(&lab.store, &lab.project_id).await.unwrap();
    assert_eq!(noted.installs.len(), 9, "what succeeded, in order");
    lab.finish().await;
}

/// Makes an environment twice: the second time nothing is made.
async fn twice(lab: &Lab, kind: &str, path: &str, packages: Option<&str>) -> Value {
    let mut arguments = json!({"kind": kind, "path": path});
    if let Some(packages) = packages {
        arguments["packages"] = json!(packages);
    }
    let made = lab.ok("create_development_environment", arguments.clone()).await;
    assert!(!made["created"].as_array().unwrap().is_empty(), "{made}");
    assert!(!made["how_to_use"].as_array().unwrap().is_empty());
    let again = lab.ok("create_development_environment", arguments).await;
    assert_eq!(again["created"], json!([]), "{again}");
    assert!(!again["already_there"].as_array().unwrap().is_empty(), "{again}");
    made
}

fn has_version(made: &Value, name: &str) -> bool {
    made["versions"].as_array().unwrap().iter().any(|version| version["name"] == name)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs from package registries, which takes minutes"]
async fn environments_are_made_and_left_alone_when_they_are_there() {
    let lab = Lab::start("base").await;
    let made = twice(&lab, "python", "py", Some("six")).await;
    assert!(
        made["created"].as_array().unwrap().contains(&json!(".venv")) && has_version(&made, "python"),
        "{made}"
    );
    shell(&lab, "py/.venv/bin/python -c 'import six'").await;
    // What is there is kept, also where it is the user's own.
    lab.ok("write_file", json!({"path": "mine/package.json", "content": "{\"name\": \"mine\"}"})).await;
    lab.ok("write_file", json!({"path": "mine/.gitignore", "content": "mine\n"})).await;
    let made = lab
        .ok("create_development_environment", json!({"kind": "node", "path": "mine", "packages": "is-odd"}))
        .await;
    assert_eq!((&made["created"], has_version(&made, "node")), (&json!([]), true), "{made}");
    assert_eq!(
        shell(&lab, "cat mine/.gitignore; node -p \"require('/workspace/mine/package.json').name\"").await,
        "mine\nmine"
    );
    twice(&lab, "node", "fresh", None).await;

    let made = twice(&lab, "fullstack", "full", None).await;
    assert!(has_version(&made, "node"), "{made}");
    shell(&lab, "cd full/frontend && npm run build").await;
    let backend = json!({"name": "backend", "command": "backend/.venv/bin/python backend/app.py",
                         "working_dir": "full", "port": 5000});
    assert_eq!(lab.ok("start_service", backend).await["status"], "running");
    assert!(shell(&lab, "curl -fs http://127.0.0.1:5000/api/health").await.contains("ok"));
    twice(&lab, "data-science", "ds", None).await;
    shell(&lab, "ds/.venv/bin/python -c 'import numpy, pandas, matplotlib, sklearn' && ds/.venv/bin/jupyter lab --version").await;
    let text = lab.fails("create_development_environment", json!({"kind": "cobol"})).await;
    assert!(text.contains("python|node|fullstack|data-science|rust"), "{text}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs from package registries, which takes minutes"]
async fn rust_is_made_and_cargo_adds_to_it() {
    let lab = Lab::start("base").await;
    let made = twice(&lab, "rust", "rs", None).await;
    assert!(has_version(&made, "cargo") && has_version(&made, "rustc"), "{made}");
    let out = install(&lab, "itoa@1 memchr@2", "cargo", json!({"working_dir": "rs"})).await;
    assert_eq!(out["location"], "/workspace/rs");
    assert!(version(&out, "itoa").starts_with("1.") && version(&out, "memchr").starts_with("2."), "{out}");
    install(&lab, "cfg-if@1", "cargo", json!({"working_dir": "rs", "dev": true})).await;
    assert!(shell(&lab, "sed -n '/dev-dependencies/,$p' rs/Cargo.toml").await.contains("cfg-if"));
    shell(&lab, "cd rs && cargo run 2>&1").await;
    lab.finish().await;
}
