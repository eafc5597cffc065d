//! Servers that are away, busy, or whose answers get lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pvm_application::ports::{FindVm as _, ReadFrom, RunCommands as _, RunState, VmError, VmFiles as _};
use pvm_e2b_wire::secret::Secret;
use pvm_sandbox::{VmClient, VmClientConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};

use crate::bench::with_bench;
use crate::runs::spec;

const WAIT: Duration = Duration::from_secs(20);

fn client_of(address: SocketAddr) -> VmClient {
    VmClient::new(VmClientConfig::local(address, Secret::new("e2b_x"), "test")).unwrap()
}

/// A server that gives every request the same answer.
async fn always(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = vec![0; 64 * 1024];
            let _ = socket.read(&mut head).await;
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn a_busy_server_says_when_to_come_back() {
    let busy =
        "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let answer = client_of(always(busy).await).vm("i1").await;
    assert!(
        matches!(answer, Err(VmError::Busy { retry_after }) if retry_after == Duration::from_secs(7)),
        "{answer:?}"
    );
    let away = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    assert!(matches!(client_of(always(away).await).vm("i1").await, Err(VmError::Busy { .. })));
}

#[tokio::test]
async fn a_server_that_fails_or_is_away_is_not_an_answer() {
    let broken = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    assert!(matches!(client_of(always(broken).await).vms(None).await, Err(VmError::Unavailable(_))));
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert!(matches!(client_of(nobody).vms(None).await, Err(VmError::Unavailable(_))));
    let no_json = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]";
    assert!(client_of(always(no_json).await).vms(None).await.unwrap().is_empty());
    assert!(matches!(client_of(always(no_json).await).vm("i1").await, Err(VmError::Unavailable(_))));
}

#[tokio::test]
async fn a_refused_key_says_so() {
    let refused = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 36\r\nconnection: close\r\n\r\n{\"code\":401,\"message\":\"unknown key\"}\n";
    let answer = client_of(always(refused).await).vm("i1").await;
    assert!(matches!(&answer, Err(VmError::Refused(why)) if why.contains("key")), "{answer:?}");
}

/// Passes connections on to `to`; while `cut` is set, answers are thrown away.
async fn lossy(to: SocketAddr, cut: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, cut) = (TcpStream::connect(to).await.unwrap(), cut.clone());
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let up = tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                    if cut.load(Ordering::SeqCst) || to_client.write_all(&buffer[..length]).await.is_err() {
                        break;
                    }
                }
                up.abort();
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_answer_was_lost_is_found_again_and_has_run_once() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        for script_journal in [false, true] {
            let cut = Arc::new(AtomicBool::new(false));
            let address = lossy(bench.address(), cut.clone()).await;
            let local =
                VmClientConfig::local(address, bench.config.api_key.clone(), &bench.config.deployment_id);
            let client = VmClient::new(VmClientConfig { script_journal, ..local }).unwrap();
            client.start_run(&vm, &spec(format!("cmd_warm_{script_journal}"), "true"), WAIT).await.unwrap();
            let run =
                spec(format!("cmd_{script_journal}"), &format!("echo x >> /tmp/{script_journal}; echo done"));
            cut.store(true, Ordering::SeqCst);
            let lost = client.start_run(&vm, &run, WAIT).await;
            assert!(matches!(lost, Err(VmError::Unavailable(_))), "{lost:?}");
            cut.store(false, Ordering::SeqCst);
            let again = client.start_run(&vm, &run, WAIT).await.unwrap();
            assert_eq!((again.state, again.stdout.data.as_ref()), (RunState::Exited, &b"done\n"[..]));
            let from = ReadFrom { stdout: 0, stderr: 0, limit: 100, wait: Duration::ZERO };
            assert!(client.read_run(&vm, &run.run_id, from).await.unwrap().is_some());
            let file = client.read_file(&vm, &format!("/tmp/{script_journal}"), "user", 100).await.unwrap();
            assert_eq!(file, "x\n");
        }
    })
    .await;
}
