//! `create_development_environment`: a directory ready to work in. Everything that is there already is left as it is, so
//! that a repeated call only adds what is missing.

use pvm_application::ports::{RunReport, RunState};
use pvm_application::ports_tools::ToolContext;
use pvm_contracts::tools::{
    CreateEnvironmentArgs, CreateEnvironmentOutput, EnvironmentKind, RunAs, ToolVersion,
};
use pvm_domain::{Invalid, limits};

use crate::call::{Answer, Call, Ports, result};
use crate::catalogue::{Effect, Spec};
use crate::install_package::packages;
use crate::shell::{quote, quote_all};
use crate::{output, paths, recipe, schema};

pub(crate) type Args = CreateEnvironmentArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "create_development_environment",
    title: "Set up a development environment",
    description: "Make a directory ready to develop in: python (virtual environment), node (package.json), fullstack \
        (Python backend with Flask and a Node front end with Vite), data-science (virtual environment with numpy, \
        pandas, matplotlib, scikit-learn and JupyterLab) or rust (cargo package). Installs the language if it is \
        missing, keeps everything that is there, and answers what it made and how to use it. May be repeated.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<CreateEnvironmentOutput>,
    effect: Effect::Converges,
    destructive: false,
    open_world: true,
    needs_vm: true,
    runs_command: true,
    may_change_files: true,
    long: true,
};

/// Seconds that the set-up may take unless asked otherwise: the data libraries are large.
const TIMEOUT_SECS: u64 = 1_800;
/// Bytes of output in a result of a set-up that failed.
const FAILED_OUTPUT_BYTES: usize = 12 * 1024;

/// Functions of every script. Programs write to standard error; standard output has only the lines that are read here.
const PRELUDE: &str = include_str!("scripts/environment.sh");

const PYTHON: &str = include_str!("scripts/environment_python.sh");

const NODE: &str = include_str!("scripts/environment_node.sh");

const FULLSTACK: &str = include_str!("scripts/environment_fullstack.sh");

const DATA_SCIENCE: &str = include_str!("scripts/environment_data_science.sh");

const RUST: &str = include_str!("scripts/environment_rust.sh");

fn body(kind: EnvironmentKind) -> &'static str {
    match kind {
        EnvironmentKind::Python => PYTHON,
        EnvironmentKind::Node => NODE,
        EnvironmentKind::Fullstack => FULLSTACK,
        EnvironmentKind::DataScience => DATA_SCIENCE,
        EnvironmentKind::Rust => RUST,
    }
}

/// How to use an environment at `path`.
pub fn how_to_use(kind: EnvironmentKind, path: &str) -> Vec<String> {
    let lines: &[&str] = match kind {
        EnvironmentKind::Python => &[
            "cd {p}",
            "source .venv/bin/activate",
            "python --version  # the environment's own; so for a file of yours: python FILE",
            "pip list  # more with install_package, which finds this environment",
        ],
        EnvironmentKind::Node => &[
            "cd {p}",
            "node --version  # for a file of yours: node FILE",
            "npm ls  # more with install_package",
        ],
        EnvironmentKind::Fullstack => &[
            "cd {p}/backend && .venv/bin/python app.py  # as a service with port 5000",
            "cd {p}/frontend && npm run dev  # as a service with port 5173; it passes /api to the backend",
            "cd {p}/frontend && npm run build",
        ],
        EnvironmentKind::DataScience => &[
            "cd {p}",
            "source .venv/bin/activate",
            "python -c 'import pandas; print(pandas.__version__)'",
            "{p}/.venv/bin/jupyter lab --no-browser --ip=0.0.0.0 --port=8888  # as a service with port 8888",
        ],
        EnvironmentKind::Rust => &["cd {p}", "cargo run", "cargo test"],
    };
    lines.iter().map(|line| line.replace("{p}", path)).collect()
}

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, args: Args) -> Answer {
    let path = paths::directory(call.context, RunAs::User, "path", args.path.as_deref())?;
    let more = match args.packages.as_deref().map(str::trim) {
        None | Some("") => Vec::new(),
        Some(text) => packages("packages", text)?,
    };
    let timeout = args.timeout_secs.unwrap_or(TIMEOUT_SECS);
    if !(1..=limits::COMMAND_TIMEOUT_MAX_SECS).contains(&timeout) {
        return Err(Invalid::new("timeout_secs", "must be 1 to 86400").into());
    }
    let script = format!(
        "{PRELUDE}\nset -- {}\nmkdir -p {1} && cd {1} || fail 'the directory cannot be made'\n{2}\nexit 0",
        quote_all(&more),
        quote(&path),
        body(args.kind)
    );
    let mut run = call.run_of(script, RunAs::User, timeout);
    "/".clone_into(&mut run.working_dir);
    let report = call.run(&run).await?;
    let said = output::said(call, &run.run_id, &report, FAILED_OUTPUT_BYTES).await?;
    let out = read_report(&report, said, args.kind, &path, &run.run_id);
    if out.success {
        recipe::record(call, &run).await;
    }
    let mut done = result(!out.success, text_of(&out, &report), &out);
    done.output_path = out.output_path;
    Ok(done)
}

/// What is known of a set-up that still runs.
pub(crate) fn running(context: &ToolContext, args: Args, output: String) -> CreateEnvironmentOutput {
    let path = paths::directory(context, RunAs::User, "path", args.path.as_deref()).unwrap_or_default();
    CreateEnvironmentOutput {
        success: false,
        kind: args.kind,
        how_to_use: how_to_use(args.kind, &path),
        path,
        created: Vec::new(),
        already_there: Vec::new(),
        versions: Vec::new(),
        output,
        output_path: None,
        command_id: context.call_id.clone(),
        duration_ms: 0,
    }
}

fn read_report(
    report: &RunReport,
    (said, output_path): (String, Option<String>),
    kind: EnvironmentKind,
    path: &str,
    run_id: &str,
) -> CreateEnvironmentOutput {
    let success = report.state == RunState::Exited && report.exit_code == Some(0);
    let mut out = CreateEnvironmentOutput {
        success,
        kind,
        path: path.to_owned(),
        created: Vec::new(),
        already_there: Vec::new(),
        versions: Vec::new(),
        how_to_use: how_to_use(kind, path),
        output: if success { String::new() } else { said },
        output_path: output_path.filter(|_| !success),
        command_id: run_id.to_owned(),
        duration_ms: report.duration_ms,
    };
    for line in String::from_utf8_lossy(&report.stdout.data).lines() {
        match line.split('\t').collect::<Vec<_>>().as_slice() {
            ["made", what] => out.created.push((*what).to_owned()),
            ["had", what] => out.already_there.push((*what).to_owned()),
            ["version", name, version] if !version.is_empty() => {
                out.versions.push(ToolVersion { name: (*name).to_owned(), version: (*version).to_owned() });
            }
            _ => {}
        }
    }
    out
}

fn text_of(out: &CreateEnvironmentOutput, report: &RunReport) -> String {
    let list = |what: &str, items: &[String]| {
        if items.is_empty() { String::new() } else { format!("{what}: {}.\n", items.join(", ")) }
    };
    let versions: Vec<String> = out.versions.iter().map(|v| format!("{} {}", v.name, v.version)).collect();
    let facts = list("Made", &out.created)
        + &list("Already there", &out.already_there)
        + &list("Versions", &versions);
    let kind = out.kind.as_str();
    let text = if out.success {
        format!(
            "The {kind} environment in {} is ready.\n{facts}How to use it:\n{}",
            out.path,
            out.how_to_use.join("\n")
        )
    } else {
        let why = match report.state {
            RunState::TimedOut => "it took too long and was stopped; call it again, it goes on where it was",
            RunState::Lost => "the VM went away; call it again",
            _ => "the set-up failed; after correcting the cause call it again",
        };
        let whole = out.output_path.as_deref().map(|path| format!("\n{}", output::whole_in(path)));
        let whole = whole.unwrap_or_default();
        format!(
            "The {kind} environment in {} is not complete: {why}.\n{facts}{}{whole}",
            out.path, out.output
        )
    };
    output::fit(&text)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pvm_application::ports::Chunk;

    use super::*;

    #[test]
    fn the_report_tells_what_was_made_and_what_was_there() {
        let stdout = "made\t.venv\nhad\t.gitignore\nversion\tpython\t3.11.2\nversion\tx\t\nnoise\n";
        let report = RunReport {
            state: RunState::Exited,
            exit_code: Some(0),
            signal: None,
            duration_ms: 1,
            stdout: Chunk { data: Bytes::from_static(stdout.as_bytes()), ..Chunk::default() },
            stderr: Chunk::default(),
        };
        let out =
            read_report(&report, (String::new(), None), EnvironmentKind::Python, "/workspace/a", "call_1");
        assert_eq!(
            (out.created.as_slice(), out.already_there.as_slice()),
            (&[".venv".to_owned()][..], &[".gitignore".to_owned()][..])
        );
        assert_eq!(out.versions.len(), 1);
        let text = text_of(&out, &report);
        assert!(text.contains("is ready") && text.contains("cd /workspace/a"), "{text}");
    }

    #[test]
    fn every_kind_says_how_to_use_it() {
        for kind in EnvironmentKind::ALL {
            assert!(!how_to_use(kind, "/workspace").is_empty());
            assert!(body(kind).len() > 100);
        }
    }
}
