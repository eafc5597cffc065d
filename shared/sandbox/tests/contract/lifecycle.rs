//! VMs: made, found, paused, resumed, ended; their ports.

use std::time::Duration;

use pvm_application::ports::{
    ConnectVm as _, EndVm as _, FindVm as _, RunCommands as _, RunSpec, VmError, VmFiles as _,
};
use pvm_sandbox::{VmClient, VmClientConfig};

use crate::bench::with_bench;
use crate::runs::spec;

const WAIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_found_paused_resumed_and_ended() {
    with_bench(|bench| async move {
        let client = &bench.client;
        let (one, two) = (bench.vm("p1").await, bench.vm("p2").await);
        let info = client.vm(&one).await.unwrap().unwrap();
        assert_eq!((info.project_id.as_deref(), info.paused), (Some("p1"), false));
        assert!(info.cpus > 0 && info.memory_mib > 0 && info.ends_at.is_some());
        let ids = |found: Vec<pvm_application::ports::VmInfo>| {
            let mut ids: Vec<_> = found.into_iter().map(|vm| vm.vm_id).collect();
            ids.sort();
            ids
        };
        let mut all = vec![one.clone(), two.clone()];
        all.sort();
        assert_eq!(ids(client.vms(None).await.unwrap()), all);
        assert_eq!(ids(client.vms(Some("p2")).await.unwrap()), std::slice::from_ref(&two));

        let boot = client.boot_id(&one).await.unwrap();
        client.pause_vm(&one).await.unwrap();
        client.pause_vm(&one).await.unwrap();
        assert!(client.vm(&one).await.unwrap().unwrap().paused);
        assert_eq!(ids(client.vms(None).await.unwrap()), all);
        let resumed = client.connect_vm(&one, 600).await.unwrap();
        assert!(!resumed.paused);
        assert_eq!(client.boot_id(&one).await.unwrap(), boot);

        client.kill_vm(&one).await.unwrap();
        client.kill_vm(&one).await.unwrap();
        assert_eq!(client.vm(&one).await.unwrap(), None);
        assert!(matches!(client.connect_vm(&one, 600).await, Err(VmError::Gone)));
        assert!(matches!(client.start_run(&one, &spec("cmd_1", "true"), WAIT).await, Err(VmError::Gone)));
        assert_eq!(ids(client.vms(None).await.unwrap()), [two]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_somebody_else_ended_is_gone_even_where_its_token_is_known() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        bench.client.start_run(&vm, &spec("cmd_1", "true"), WAIT).await.unwrap();
        let other = VmClient::new(bench.config.clone()).unwrap();
        other.kill_vm(&vm).await.unwrap();
        assert!(matches!(
            bench.client.start_run(&vm, &spec("cmd_2", "true"), WAIT).await,
            Err(VmError::Gone)
        ));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_of_another_deployment_are_never_seen() {
    with_bench(|bench| async move {
        bench.vm("p1").await;
        let config = VmClientConfig { deployment_id: "other".to_owned(), ..bench.config.clone() };
        let other = VmClient::new(config).unwrap();
        assert!(other.vms(None).await.unwrap().is_empty());
        assert!(other.vms(Some("p1")).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_answers_to_its_signed_link_alone() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        let serve =
            "mkdir -p /tmp/www && cd /tmp/www && echo hello > index.html && exec python3 -m http.server 8000";
        let serve = RunSpec { timeout_secs: None, ..spec("svc_1-1", serve) };
        bench.client.start_run(&vm, &serve, Duration::ZERO).await.unwrap();
        let link = bench.client.port_url(&vm, 8000);
        let host = format!("8000-{vm}.localhost");
        assert!(link.starts_with(&format!("http://{host}:")), "{link}");
        let browser = reqwest::Client::builder().no_proxy().resolve(&host, bench.address()).build().unwrap();
        let mut body = String::new();
        for _ in 0..100 {
            let answer = browser.get(&link).send().await.unwrap();
            if answer.status() == 200 {
                body = answer.text().await.unwrap();
                break;
            }
            assert_eq!(answer.status(), 502);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(body, "hello\n");
        let bare = link.split('?').next().unwrap();
        assert_eq!(browser.get(bare).send().await.unwrap().status(), 403);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_told_to_have_come_to_nothing_only_where_that_is_certain() {
    with_bench(|bench| async move {
        let client = &bench.client;
        let vm = bench.vm("p1").await;
        // Ended in the middle of a run: nobody knows how far it came.
        let start =
            async { client.start_run(&vm, &spec("cmd_1", "touch /tmp/began; sleep 100"), WAIT).await };
        let end = async {
            while client.stat(&vm, "/tmp/began", "user").await.unwrap().is_none() {}
            bench.scripted.kill_vm(&vm).await.unwrap();
        };
        let (cut, ()) = tokio::join!(start, end);
        assert!(matches!(cut, Err(VmError::Unavailable(_))), "{cut:?}");
        let later = client.start_run(&vm, &spec("cmd_2", "true"), WAIT).await;
        assert!(matches!(later, Err(VmError::Gone)), "{later:?}");
        // Paused with its files only: it is there, and its processes will be new.
        let vm = bench.vm("p2").await;
        let url = format!("{}/sandboxes/{vm}/pause", bench.config.api_url);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let asked = http.post(url).header("x-api-key", bench.config.api_key.expose());
        let asked = asked.json(&serde_json::json!({"memory": false})).send().await.unwrap();
        assert!(asked.status().is_success(), "{asked:?}");
        let paused = client.start_run(&vm, &spec("cmd_3", "true"), WAIT).await;
        assert!(matches!(paused, Err(VmError::Paused)), "{paused:?}");
        assert!(client.is_there(&vm).await.unwrap() && client.vm(&vm).await.unwrap().unwrap().paused);
        client.connect_vm(&vm, 600).await.unwrap();
        assert_eq!(client.start_run(&vm, &spec("cmd_3", "true"), WAIT).await.unwrap().exit_code, Some(0));
    })
    .await;
}
