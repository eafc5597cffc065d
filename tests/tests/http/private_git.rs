//! A secret's purpose: git over HTTPS to a private host. The server is this test's own, with a certificate of an
//! authority that only the operator's setting knows; the token is in no file of the VM and in no record of ours.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode, header};
use pvm_local::Stack;
use pvm_sandboxd::Shutdown;
use pvm_tests::stack::{client, config};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Put together here so that a search for it does not find this test's own text.
fn token() -> String {
    ["gh", "p-0123456789", "abcdef"].concat()
}

fn git(folder: &Path, args: &[&str]) {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "init.defaultBranch=main"]);
    let done = git.args(args).current_dir(folder).env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap();
    assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A bare repository as plain files, which git's HTTP reads without a program on the server's side.
fn repository(folder: &Path) -> PathBuf {
    let work = folder.join("work");
    std::fs::create_dir(&work).unwrap();
    git(&work, &["init", "--quiet"]);
    std::fs::write(work.join("README"), "private\n").unwrap();
    git(&work, &["add", "."]);
    git(&work, &["commit", "--quiet", "-m", "first"]);
    git(folder, &["clone", "--quiet", "--bare", "work", "private.git"]);
    git(&folder.join("private.git"), &["update-server-info"]);
    folder.to_owned()
}

/// Serves the folder over TLS to whoever brings the token; answers the port and the authority's certificate.
async fn serve(folder: PathBuf) -> (u16, String) {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let issuer_certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(leaf.der().to_vec())], key)
        .unwrap();
    let expected = format!("Bearer {}", token());
    let router = Router::new().fallback(async move |request: Request| {
        let answer =
            |status, body: Vec<u8>| Response::builder().status(status).body(Body::from(body)).unwrap();
        let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if sent != Some(&expected) {
            return answer(StatusCode::UNAUTHORIZED, b"no token".to_vec());
        }
        match std::fs::read(folder.join(request.uri().path().trim_start_matches('/'))) {
            Ok(bytes) => answer(StatusCode::OK, bytes),
            Err(_) => answer(StatusCode::NOT_FOUND, Vec::new()),
        }
    });
    // TLS ends here, and plain HTTP goes on to the router on a port of its own.
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let behind = plain.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(plain, router).await });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let Ok(mut inside) = tokio::net::TcpStream::connect(behind).await else { return };
                drop(copy_bidirectional(&mut outside, &mut inside).await);
            });
        }
    });
    (port, issuer_certificate.pem())
}

/// Files below a folder that have the text in them.
fn with_text(folder: &Path, text: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            with_text(&entry.path(), text, found);
        } else if kind.is_file()
            && let Ok(bytes) = std::fs::read(entry.path())
            && bytes.windows(text.len()).any(|window| window == text.as_bytes())
        {
            found.push(entry.path());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_repository_is_cloned_without_its_token_in_the_vm() {
    let home = tempfile::tempdir().unwrap();
    let (port, certificate) = serve(repository(home.path())).await;
    let ca_file = home.path().join("authority.pem");
    std::fs::write(&ca_file, certificate).unwrap();
    let mut config = config(home.path());
    config.egress.as_mut().unwrap().ca_file = Some(ca_file);
    let stack = Stack::start(config).await.unwrap();
    let api = client(&stack);
    let path = api.project("git").await;
    // The sandbox reaches its own loopback without the proxy, so git is told to use it even so.
    let clone = format!(
        "rm -rf private && no_proxy= NO_PROXY= git -c http.proxy=http://127.0.0.1:3128 clone --quiet \
         https://localhost:{port}/private.git 2>&1; cat private/README"
    );
    let before = api.run(&path, json!({"command": clone, "env": {"GIT_TERMINAL_PROMPT": "0"}})).await;
    assert_ne!(before["exit_code"], 0, "without the secret the host is not even trusted: {before}");
    let value = format!("Bearer {}", token());
    let secret = json!({"host": format!("localhost:{port}"), "header": "authorization", "value": value});
    api.put(&format!("{path}/secrets/GIT"), secret).await.expect(201);
    assert_eq!(api.shell(&path, &clone).await, "private\n");
    api.shell(&path, "cd private && no_proxy= git -c http.proxy=http://127.0.0.1:3128 fetch --quiet origin")
        .await;

    // Nowhere but in the secret's own file and in the sandbox server's rules, both readable by their owner alone.
    let mut found = Vec::new();
    with_text(&home.path().join("state"), &token(), &mut found);
    assert!(!found.is_empty());
    for file in found {
        use std::os::unix::fs::PermissionsExt as _;
        let text = file.strip_prefix(home.path().join("state")).unwrap().to_string_lossy().into_owned();
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o077,
            0,
            "{text} is open to others"
        );
        let rules = text.starts_with("sandboxes/") && !text.contains("/upper/");
        assert!(text.starts_with("secrets/") || rules, "{text} holds the token");
    }
    assert_eq!(api.delete(&path).await.status, 202);
    let secrets = home.path().join("state/secrets");
    while std::fs::read_dir(&secrets).is_ok_and(|mut entries| entries.next().is_some()) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    stack.shutdown(Shutdown::KillAll).await.unwrap();
}
