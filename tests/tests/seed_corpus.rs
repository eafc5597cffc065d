//! The shell lines of the system's own description (the seed), each as it stands there, as a command that can be run
//! by itself, and as the fact that must hold afterwards, in a VM of the `base` template. What needs Docker or systemd
//! itself is listed too: it must fail clearly, and the status document must have said so.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use pvm_local::{Stack, StackConfig};
use pvm_sandboxd::Shutdown;
use pvm_tests::api::Api;
use pvm_tests::scenarios::services::fetch;
use pvm_tests::stack::{client, settings};
use serde_json::{Value, json};

/// A line of the seed.
struct Line {
    /// As the seed has it.
    seed: &'static str,
    /// As a command of its own, which must succeed.
    run: &'static str,
    /// A command that succeeds where the line did what it says.
    fact: &'static str,
}

const fn line(seed: &'static str, run: &'static str, fact: &'static str) -> Line {
    Line { seed, run, fact }
}

/// System administration.
const ADMINISTRATION: &[Line] = &[
    line(
        "ps aux | grep python",
        "(python3 -c 'import time; time.sleep(600)' & ) ; sleep 0.3; ps aux | grep python > ps.txt",
        "grep -q time.sleep ps.txt",
    ),
    line("kill -9 1234", "pkill -9 -f time.slee[p]", "! pgrep -f time.slee[p]"),
    line(
        "chmod +x script.sh",
        "printf '#!/bin/sh\\necho ran\\n' > script.sh; chmod +x script.sh",
        "[ \"$(./script.sh)\" = ran ]",
    ),
    line(
        "chown user:group file.txt",
        "touch file.txt; sudo groupadd -f team; sudo chown root:team file.txt",
        "[ \"$(stat -c %U:%G file.txt)\" = root:team ]",
    ),
    line(
        "find / -name \"*.py\" -type f",
        "touch found.py; find / -name '*.py' -type f > found.txt 2>/dev/null || true",
        "grep -qx /workspace/found.py found.txt",
    ),
    line("full privileges", "sudo -n id -u > sudo.txt", "grep -qx 0 sudo.txt"),
    line(
        "File system access: read/write any files in the VM",
        "echo x | sudo tee /etc/pvm-test > /dev/null",
        "[ \"$(cat /etc/pvm-test)\" = x ]",
    ),
    line(
        "VM monitoring and resource usage",
        "free -m > free.txt; df -h / > df.txt; nproc > nproc.txt",
        "grep -q Mem: free.txt && grep -q / df.txt",
    ),
];

/// Projects, version control, environments.
const DEVELOPMENT: &[Line] = &[
    line(
        "mkdir my-app && cd my-app",
        "mkdir -p my-app && cd my-app && pwd > where",
        "[ \"$(cat my-app/where)\" = /workspace/my-app ]",
    ),
    line(
        "git init && git remote add origin https://github.com/user/repo.git",
        "cd my-app && git init -q && git remote add origin https://example.com/user/repo.git",
        "cd my-app && git remote get-url origin | grep -qx https://example.com/user/repo.git",
    ),
    line(
        "git clone https://github.com/user/webapp.git",
        "cd my-app && git config user.email a@b.c && git config user.name a && echo hi > readme && git add readme \
         && git commit -qm first && cd .. && git clone -q my-app webapp",
        "[ \"$(git -C webapp log --format=%s)\" = first ]",
    ),
    line(
        "python -m venv venv && source venv/bin/activate",
        "python -m venv venv && source venv/bin/activate && python -c 'import sys; print(sys.prefix)' > prefix",
        "grep -qx /workspace/venv prefix",
    ),
    line(
        "pip install -r requirements.txt",
        "source venv/bin/activate && echo itsdangerous > requirements.txt && pip install -q -r requirements.txt",
        "venv/bin/python -c 'import itsdangerous'",
    ),
    line(
        "npm init -y",
        "mkdir -p node && cd node && npm init -y > /dev/null",
        "grep -q '\"version\": \"1.0.0\"' node/package.json",
    ),
    line(
        "python app.py &",
        "echo 'import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=5001)' > app.py; nohup python app.py > app.log 2>&1 &",
        "for n in $(seq 100); do curl -sf http://localhost:5001/ > /dev/null && exit 0; sleep 0.1; done; cat app.log; exit 1",
    ),
    line(
        "curl http://localhost/api/health (on port 80)",
        "mkdir -p api && echo ok > api/health && (nohup python3 -m http.server 80 > 80.log 2>&1 &)",
        "for n in $(seq 100); do [ \"$(curl -s http://localhost/api/health)\" = ok ] && exit 0; sleep 0.1; done; cat 80.log; exit 1",
    ),
];

/// What installs much.
const INSTALLS: &[Line] = &[
    line(
        "sudo apt-get install python3-pip nodejs docker.io postgresql (without Docker)",
        "sudo apt-get update -q && sudo DEBIAN_FRONTEND=noninteractive apt-get install -yq python3-pip nodejs postgresql htop nginx-light",
        "command -v pip3 && command -v node && ls /usr/lib/postgresql/*/bin/postgres",
    ),
    line("htop", "TERM=xterm htop --version > htop.txt", "grep -q htop htop.txt"),
    line(
        "systemctl status nginx",
        "sudo systemctl restart nginx && systemctl status nginx > nginx.txt; sudo systemctl stop nginx",
        "grep -qi -e active -e running nginx.txt",
    ),
    line(
        "npm install -g typescript react vue",
        "npm install -g typescript react vue",
        "tsc --version && ls \"$(npm root -g)\"/react \"$(npm root -g)\"/vue > /dev/null",
    ),
    line(
        "npm init -y && npm install express",
        "mkdir -p express && cd express && npm init -y > /dev/null && npm install express",
        "cd express && node -e \"require('express')\"",
    ),
    line(
        "npm start &",
        "cd express && echo \"require('express')().get('/', (q, r) => r.send('up')).listen(3000)\" > server.js \
         && npm pkg set scripts.start='node server.js' && (nohup npm start > npm.log 2>&1 &)",
        "for n in $(seq 100); do [ \"$(curl -s http://localhost:3000/)\" = up ] && exit 0; sleep 0.1; done; exit 1",
    ),
    line(
        "pip install pandas numpy matplotlib scikit-learn",
        "pip install -q pandas numpy matplotlib scikit-learn",
        "python -c 'import pandas, numpy, matplotlib, sklearn'",
    ),
    line(
        "pip install tensorflow (which is resolved; its wheel alone has 600 MB)",
        "pip install --dry-run tensorflow > tensorflow.txt",
        "grep -q 'Would install.*tensorflow-' tensorflow.txt",
    ),
    line(
        "python -c \"import pandas as pd; ... df.plot(); plt.savefig('analysis.png')\"",
        "printf 'day,users\\n1,10\\n2,30\\n3,20\\n' > data.csv && python -c \"\nimport matplotlib\nmatplotlib.use('Agg')\nimport pandas as pd\nimport matplotlib.pyplot as plt\ndf = pd.read_csv('data.csv')\ndf.plot()\nplt.savefig('analysis.png')\nprint(df.describe())\nprint('Analysis complete!')\n\" > analysis.txt",
        "grep -q 'Analysis complete!' analysis.txt && grep -q mean analysis.txt && head -c 4 analysis.png | grep -q PNG",
    ),
    line(
        "pip install flask gunicorn sqlalchemy psycopg2-binary",
        "pip install -q flask gunicorn sqlalchemy psycopg2-binary",
        "python -c 'import flask, gunicorn, sqlalchemy, psycopg2'",
    ),
];

/// What a VM without a kernel of its own does not have. Each fails, and `capabilities` says so beforehand.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("docker-compose up -d", "docker-compose up -d", "docker"),
    ("docker build -t myapp .", "docker build -t myapp .", "docker"),
    ("docker run -p 80:3000 myapp &", "docker run -p 80:3000 myapp", "docker"),
    (
        "systemd itself (systemctl is a small front over service scripts)",
        "[ \"$(ps -p 1 -o comm=)\" = systemd ]",
        "systemd",
    ),
    ("systemd-run", "systemd-run --user true", "systemd"),
];

/// A stack whose VMs are of the full template, which is built first where it is missing.
async fn with_base<F>(test: impl FnOnce(Api, String) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    pvm_local::template::ensure("base", None, |_| {}).await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let mut config = StackConfig::new(settings(home.path()));
    config.build_base = false;
    config.sweep_every = Duration::from_hours(1);
    let stack = Stack::start(config).await.unwrap();
    let api = client(&stack);
    let made = api.post("/api/projects", json!({"name": "seed", "template": "base"})).await.expect(201);
    let path = format!("/api/projects/{}", made["project_id"].as_str().unwrap());
    let result = tokio::spawn(test(api, path)).await;
    stack.shutdown(Shutdown::KillAll).await.unwrap();
    if let Err(failed) = result {
        std::panic::resume_unwind(failed.into_panic());
    }
}

async fn run(api: &Api, path: &str, command: &str) -> Value {
    api.run(path, json!({"command": command, "timeout_secs": 1_800})).await
}

/// Runs every line and looks at its fact; tells all that fail, not the first alone.
async fn hold(api: &Api, path: &str, lines: &[Line]) {
    let mut failed = Vec::new();
    for Line { seed, run: command, fact } in lines {
        let done = run(api, path, command).await;
        if done["exit_code"] != 0 {
            failed.push(format!("{seed}\n  it failed: {done}"));
            continue;
        }
        let held = run(api, path, fact).await;
        if held["exit_code"] != 0 {
            failed.push(format!("{seed}\n  its fact does not hold: {held}\n  it said {}", done["stdout"]));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

async fn quick(api: &Api, path: &str) {
    hold(api, path, ADMINISTRATION).await;
    hold(api, path, DEVELOPMENT).await;
    let status = api.get(&format!("{path}/status")).await.expect(200);
    assert_eq!(status["template"], "base", "{status}");
    for (seed, command, capability) in ELSEWHERE {
        assert_eq!(status["capabilities"][capability], false, "{seed}: {status}");
        let done = run(api, path, command).await;
        assert_ne!(done["exit_code"], 0, "{seed} works; then `{capability}` is there: {done}");
    }
    for capability in ["apt", "internet", "sudo"] {
        assert_eq!(status["capabilities"][capability], true, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_seeds_lines_do_what_they_say() {
    with_base(async |api: Api, path: String| quick(&api, &path).await).await;
}

/// Starts a service and waits for it to run, longer than one answer does: the machine may have much else to do.
async fn started(api: &Api, path: &str, asked: Value) -> Value {
    let name = asked["name"].as_str().unwrap().to_owned();
    let made = api.post(&format!("{path}/services"), asked).await.expect(201);
    assert_ne!(made["status"], "failed", "{made}");
    pvm_tests::scenarios::services::until(api, path, &name, "running").await
}

/// The seed's own example: a Python API on PostgreSQL, both of them services.
async fn python_api(api: &Api, path: &str) {
    let postgres = json!({
        "name": "postgres", "user": "root", "port": 5432, "ready_timeout_secs": 120, "wait_secs": 20,
        "command": "cluster=$(ls -d /etc/postgresql/*/main); version=$(basename \"$(dirname \"$cluster\")\"); \
            pg_ctlcluster \"$version\" main stop 2>/dev/null; mkdir -p /var/run/postgresql; chown postgres: /var/run/postgresql; \
            exec sudo -u postgres /usr/lib/postgresql/$version/bin/postgres -D /var/lib/postgresql/$version/main \
            -c config_file=$cluster/postgresql.conf",
    });
    run(api, path, "sudo systemctl stop postgresql 2>/dev/null; sudo pkill -x postgres; true").await;
    started(api, path, postgres).await;
    let done = run(api, path, "sudo -u postgres createdb mydb && sudo -u postgres psql -c \"create user app password 'pass'\" \
        && sudo -u postgres psql -c 'alter database mydb owner to app' && sudo -u postgres psql -lqt | grep -w mydb").await;
    assert_eq!(done["exit_code"], 0, "{done}");
    // The driver is named: SQLAlchemy 2.1 takes another one for `postgresql://` than the seed installs.
    let source = "from flask import Flask, jsonify\n\
        from sqlalchemy import create_engine, Column, Integer, String\n\
        from sqlalchemy.orm import sessionmaker, declarative_base\n\
        app = Flask(__name__)\n\
        engine = create_engine('postgresql+psycopg2://app:pass@localhost/mydb')\n\
        Base = declarative_base()\n\
        class User(Base):\n    __tablename__ = 'users'\n    id = Column(Integer, primary_key=True)\n    name = Column(String(50))\n\
        Base.metadata.create_all(engine)\n\
        Session = sessionmaker(bind=engine)\n\
        with Session() as session:\n    session.merge(User(id=1, name='John'))\n    session.commit()\n\
        @app.route('/users')\n\
        def get_users():\n    with Session() as session:\n        return jsonify([{'id': u.id, 'name': u.name} for u in session.query(User)])\n\
        if __name__ == '__main__':\n    app.run(host='0.0.0.0', port=5000)\n";
    let written = api.run(path, json!({"command": "cat > app.py", "stdin": source})).await;
    assert_eq!(written["exit_code"], 0, "{written}");
    let asked = json!({"name": "api", "command": "python app.py", "port": 5000, "depends_on": ["postgres"],
        "ready": {"http_path": "/users"}, "ready_timeout_secs": 120, "wait_secs": 20});
    let made = started(api, path, asked).await;
    let mut url = url::Url::parse(made["url"].as_str().unwrap()).unwrap();
    url.set_path("/users");
    let (status, body) = fetch(api, url.as_str()).await;
    assert_eq!(
        (status, serde_json::from_str::<Value>(&body).unwrap()),
        (200, json!([{"id": 1, "name": "John"}]))
    );
    let listed = api.get(&format!("{path}/status")).await.expect(200);
    assert_eq!(listed["services"].as_array().unwrap().len(), 2, "{listed}");
}

/// A notebook server, and a server made with a package of node's registry.
async fn servers(api: &Api, path: &str) {
    let done = run(api, path, "python -m venv /tmp/lab && /tmp/lab/bin/pip install -q jupyterlab").await;
    assert_eq!(done["exit_code"], 0, "{done}");
    let lab = json!({"name": "jupyter", "port": 8888, "ready": {"http_path": "/api"}, "ready_timeout_secs": 120, "wait_secs": 20,
        "command": "exec /tmp/lab/bin/jupyter lab --ip=0.0.0.0 --port=$PORT --no-browser --ServerApp.token= --ServerApp.password="});
    let made = started(api, path, lab).await;
    let mut url = url::Url::parse(made["url"].as_str().unwrap()).unwrap();
    url.set_path("/api");
    let (status, body) = fetch(api, url.as_str()).await;
    assert!(status == 200 && body.contains("version"), "{status} {body}");

    let line = "mkdir -p web && cd web && npm init -y > /dev/null && npm install express && \
        echo \"require('express')().get('/', (q, r) => r.send('from node')).listen(process.env.PORT)\" > server.js";
    let done = run(api, path, line).await;
    assert_eq!(done["exit_code"], 0, "{done}");
    let node = json!({"name": "node", "command": "exec node server.js", "working_dir": "web", "port": 3000, "wait_secs": 20});
    let made = started(api, path, node).await;
    assert_eq!(fetch(api, made["url"].as_str().unwrap()).await, (200, "from node".to_owned()));
    // Both come back on a new VM, what was installed into the workspace with them.
    api.delete(&format!("{path}/vm")).await;
    while api.get(&format!("{path}/status")).await.expect(200)["vm_status"] != "none" {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    run(api, path, "true").await;
    assert_eq!(run(api, path, "test -f web/server.js").await["exit_code"], 0);
}

async fn plot(api: &Api, path: &str) {
    // The plot is a file of the project: saved, listed, and the same bytes when it is downloaded.
    let file = loop {
        let files = api.get(&format!("{path}/files?prefix=analysis.png")).await.expect(200);
        match files["items"].as_array().unwrap().first() {
            Some(file) => break file["file_id"].as_str().unwrap().to_owned(),
            None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    let got = api.get(&format!("{path}/files/{file}")).await.expect(200);
    let bytes =
        api.http.get(got["download"]["url"].as_str().unwrap()).send().await.unwrap().bytes().await.unwrap();
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 1_000, "{} bytes", bytes.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "heavy: installs large packages from the registries (make test-full)"]
async fn the_seeds_installs_data_work_and_python_api_on_postgresql_work() {
    with_base(async |api: Api, path: String| {
        hold(&api, &path, INSTALLS).await;
        plot(&api, &path).await;
        python_api(&api, &path).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "heavy: installs large packages from the registries (make test-full)"]
async fn jupyter_and_a_node_server_are_services() {
    with_base(async |api: Api, path: String| servers(&api, &path).await).await;
}
