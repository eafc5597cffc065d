//! The steps of a build.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, header};
use pvm_e2b_wire::HEADER_ACCESS_TOKEN;
use pvm_e2b_wire::journal::{ReadRun, RunState, StartRun};
use pvm_e2b_wire::process::ProcessConfig;

use super::{BuildRequest, Settings, Step};
use crate::body;
use crate::engine::create::new_id;
use crate::engine::runs::{POLL, run_call, shell};
use crate::engine::{Engine, Sandbox};

/// How long one step may take.
const STEP_TIMEOUT: Duration = Duration::from_hours(1);
/// User that a build's commands run as until a step says otherwise.
const BUILD_USER: &str = "root";

impl Engine {
    /// Takes one step in the build's sandbox.
    pub(super) async fn take_step(
        &self,
        sandbox: &Arc<Sandbox>,
        request: &BuildRequest,
        number: usize,
        step: &Step,
        settings: &mut Settings,
    ) -> Result<(), String> {
        let say = |text: &str| self.builds.log(&request.build_id, "info", Some(number), text);
        match step {
            Step::Env(variables) => {
                say(&format!(
                    "ENV {}",
                    variables.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
                ));
                settings.env.extend(variables.iter().cloned());
                Ok(())
            }
            Step::Workdir(path) => {
                say(&format!("WORKDIR {path}"));
                let user = settings
                    .user
                    .clone()
                    .unwrap_or_else(|| sandbox.with(|record| record.origin.user.clone()));
                let script = format!("mkdir -p -- {0} && chown {1} -- {0}", quoted(path), quoted(&user));
                self.run_step(sandbox, request, number, BUILD_USER, &script, settings).await?;
                settings.workdir = Some(path.clone());
                Ok(())
            }
            Step::User(user) => {
                say(&format!("USER {user}"));
                self.run_step(
                    sandbox,
                    request,
                    number,
                    BUILD_USER,
                    &format!("id -- {}", quoted(user)),
                    settings,
                )
                .await?;
                settings.user = Some(user.clone());
                Ok(())
            }
            Step::Run { command, user } => {
                say(&format!("RUN {command}"));
                let user = user.clone().or_else(|| settings.user.clone());
                let user = user.unwrap_or_else(|| sandbox.with(|record| record.origin.user.clone()));
                self.run_step(sandbox, request, number, &user, command, settings).await
            }
            Step::Copy { archive, source, target, user, mode } => {
                say(&format!("COPY {source} {target}"));
                self.upload(sandbox, archive, &format!("/tmp/.pvm-copy-{number}")).await?;
                let owner = user.clone().or_else(|| settings.user.clone());
                let owner = owner.unwrap_or_else(|| sandbox.with(|record| record.origin.user.clone()));
                let script = copy_script(number, source, target, &owner, mode.as_deref());
                self.run_step(sandbox, request, number, BUILD_USER, &script, settings).await
            }
        }
    }

    /// Runs a command of a step to its end, with its output in the build's log.
    async fn run_step(
        &self,
        sandbox: &Arc<Sandbox>,
        request: &BuildRequest,
        number: usize,
        user: &str,
        script: &str,
        settings: &Settings,
    ) -> Result<(), String> {
        let start = StartRun {
            // Unique for each command of a step: user changes and the like have one as well.
            run_id: format!("build-{number}-{}", new_id()),
            process: ProcessConfig {
                envs: settings.env.clone(),
                cwd: settings.workdir.clone(),
                ..shell(script)
            },
            timeout_ms: u64::try_from(STEP_TIMEOUT.as_millis()).ok(),
            wait_ms: u64::try_from(POLL.as_millis()).ok(),
            ..StartRun::default()
        };
        let mut report =
            run_call(sandbox, "Start", &start, Some(user)).await.map_err(|error| error.to_string())?;
        let (mut stdout, mut stderr) = (0, 0);
        loop {
            for (chunk, level) in [(&report.stdout, "info"), (&report.stderr, "info")] {
                self.builds.log(
                    &request.build_id,
                    level,
                    Some(number),
                    &String::from_utf8_lossy(&chunk.data),
                );
            }
            let done = report.stdout.next >= report.stdout.total && report.stderr.next >= report.stderr.total;
            if report.state.is_final() && done {
                break;
            }
            (stdout, stderr) = (report.stdout.next.max(stdout), report.stderr.next.max(stderr));
            let read = ReadRun {
                run_id: start.run_id.clone(),
                stdout_offset: stdout,
                stderr_offset: stderr,
                wait_ms: start.wait_ms,
                ..ReadRun::default()
            };
            report = run_call(sandbox, "Read", &read, Some(user)).await.map_err(|error| error.to_string())?;
        }
        match (report.state, report.exit_code) {
            (RunState::Exited, Some(0)) => Ok(()),
            (RunState::Exited, Some(code)) => Err(format!("the command exited with status {code}")),
            (state, _) => Err(format!(
                "the command ended as {} ({})",
                state.as_str(),
                report.reason.or(report.signal).unwrap_or_default()
            )),
        }
    }

    /// Puts an archive in place as it is read: it may be larger than memory.
    async fn upload(&self, sandbox: &Sandbox, archive: &Path, path: &str) -> Result<(), String> {
        let reading = |error: std::io::Error| format!("the uploaded files: {error}");
        let file = tokio::fs::File::open(archive).await.map_err(reading)?;
        let length = file.metadata().await.map_err(reading)?.len();
        let runtime = sandbox.running().ok_or("the build's sandbox has ended")?;
        let token = sandbox.with(|record| record.envd_token.clone()).unwrap_or_default();
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/files?path={path}&username=root"))
            .header(header::HOST, "envd")
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, length)
            .header(HEADER_ACCESS_TOKEN, token.expose())
            .body(body::file(file))
            .map_err(|error| error.to_string())?;
        runtime
            .envd
            .control_request(request, STEP_TIMEOUT)
            .await
            .map(|_| ())
            .map_err(|error| error.to_string())
    }
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Unpacks the archive of a COPY step and puts what it names in place, as `cp` in a Dockerfile would.
fn copy_script(number: usize, source: &str, target: &str, owner: &str, mode: Option<&str>) -> String {
    let archive = format!("/tmp/.pvm-copy-{number}");
    let chmod = mode
        .filter(|mode| !mode.is_empty())
        .map_or(String::new(), |mode| format!("chmod -R {} -- \"$staged\"/*\n", quoted(mode)));
    // The source may contain wildcards: it is expanded, each word by itself.
    let pattern: String = source
        .trim_start_matches('/')
        .chars()
        .flat_map(|character| {
            let plain = character.is_alphanumeric() || "*?[]./_-".contains(character);
            if plain { vec![character] } else { vec!['\\', character] }
        })
        .collect();
    format!(
        "set -e\nunpacked=$(mktemp -d)\nstaged=$(mktemp -d)\ntrap 'rm -rf \"$unpacked\" \"$staged\" {archive}' EXIT\n\
         tar -xf {archive} -C \"$unpacked\"\ncd \"$unpacked\"\nshopt -s dotglob nullglob\n\
         target={target}\nitems=( {pattern} )\n\
         if [ ${{#items[@]}} -eq 0 ]; then echo 'nothing matches the source of COPY' >&2; exit 1; fi\n\
         single=\nif [ ${{#items[@]}} -eq 1 ] && [ ! -d \"${{items[0]}}\" ]; then single=1; fi\n\
         for item in \"${{items[@]}}\"; do\n\
           if [ -d \"$item\" ]; then cp -a -- \"$item\"/. \"$staged\"/; else cp -a -- \"$item\" \"$staged\"/; fi\ndone\n\
         chown -R {owner} -- \"$staged\"\n{chmod}\
         case $target in */) is_folder=1 ;; *) is_folder= ;; esac\n\
         if [ -n \"$single\" ] && [ -z \"$is_folder\" ] && [ ! -d \"$target\" ]; then\n\
           mkdir -p -- \"$(dirname -- \"$target\")\"\n  for item in \"$staged\"/*; do cp -a -- \"$item\" \"$target\"; done\n\
         else\n  [ -d \"$target\" ] || {{ mkdir -p -- \"$target\"; chown {owner} -- \"$target\"; }}\n\
           for item in \"$staged\"/*; do cp -a -- \"$item\" \"$target\"/; done\nfi\n",
        target = quoted(target),
        owner = quoted(owner),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quoted("a'b"), "'a'\\''b'");
    }

    #[test]
    fn a_copy_script_is_valid_shell() {
        let script = copy_script(1, "dir name/*.txt", "/app/'x'/", "user", Some("644"));
        let status = std::process::Command::new("bash").arg("-n").arg("-c").arg(&script).status().unwrap();
        assert!(status.success(), "{script}");
        assert!(script.contains("items=( dir\\ name/*.txt )"));
    }
}
