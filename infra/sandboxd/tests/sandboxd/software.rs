//! What people install and run in a sandbox works under the system call filter and the egress proxy.

use serde_json::json;

use crate::lab::Lab;

/// Each line: what it shows, the command, how its output ends.
const STEPS: [(&str, &str, &str); 7] = [
    ("sudo", "sudo -n id -u", "0"),
    (
        "apt installs PostgreSQL",
        "sudo apt-get update -qq && sudo apt-get install -y -qq --no-install-recommends postgresql >/tmp/log 2>&1; \
         dpkg -l postgresql | tail -1 | cut -c1-2",
        "ii",
    ),
    (
        "PostgreSQL answers",
        "sudo pg_ctlcluster $(ls /etc/postgresql) main start; \
         for i in $(seq 50); do sudo -u postgres psql -tAc 'select 1+1' 2>/dev/null && break; sleep 0.2; done",
        "2",
    ),
    (
        "pip installs Jupyter",
        "python3 -m venv /tmp/v && /tmp/v/bin/pip install -q jupyter-server ipykernel 2>&1 | tail -1; \
         test -x /tmp/v/bin/jupyter && echo there",
        "there",
    ),
    (
        "Jupyter starts a kernel",
        "(nohup /tmp/v/bin/jupyter server --no-browser --port 8888 --ServerApp.token=x >/tmp/j.log 2>&1 &); \
         api() { curl -sf -H 'Authorization: token x' \"http://127.0.0.1:8888/api$@\"; }; \
         for i in $(seq 120); do api '' >/dev/null && break; sleep 0.5; done; \
         curl -s -o /dev/null -w '%{http_code}' -X POST -H 'Authorization: token x' http://127.0.0.1:8888/api/kernels -d '{}'",
        "201",
    ),
    (
        "npm installs a package that node loads",
        "mkdir /tmp/n && cd /tmp/n && npm init -y >/dev/null && \
         npm install --no-fund --no-audit --loglevel=error left-pad >/dev/null && \
         node -e 'console.log(require(\"left-pad\")(7, 3, \"0\"))'",
        "007",
    ),
    (
        "git commits and clones",
        "mkdir /tmp/g && cd /tmp/g && git init -q . && git config user.email a@b && git config user.name a && \
         echo committed > f && git add f && git commit -qm m && git clone -q /tmp/g /tmp/g2 && cat /tmp/g2/f",
        "committed",
    ),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy: installs some hundred megabytes from the package registries, needs the template base"]
async fn packages_databases_and_notebooks_install_and_run() {
    let lab = Lab::start().await;
    let sandbox = lab.create_with(json!({"templateID": "base", "timeout": 3600})).await;
    assert_eq!(sandbox.alias.as_deref(), Some("base"), "build it first: `make template`");
    for (what, command, end) in STEPS {
        let seen = lab.sh(&sandbox, command).await;
        assert!(seen.stdout.trim_end().ends_with(end), "{what}: {seen:?}");
    }
    lab.kill(&sandbox).await;
    lab.finish().await;
}
