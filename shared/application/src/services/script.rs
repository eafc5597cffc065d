//! The shell programs that supervise a service and watch for it to get ready, inside the VM.

use std::collections::BTreeMap;
use std::time::Duration;

use pvm_domain::service::{Ready, Restart, Service};

use crate::ports::RunSpec;

/// Starts in a row that fail before the supervisor gives up.
const STARTS: u32 = 5;
/// A start that lived this long, in seconds, is not counted as one of them.
const STEADY_SECS: u32 = 30;

/// The supervisor: runs the command in the foreground and starts it again by policy, with a pause that doubles. The
/// command comes in as a variable, so that no quoting of ours can change it.
pub(super) fn supervisor(service: &Service) -> RunSpec {
    let again = match service.restart {
        Restart::No => "exit $rc",
        Restart::OnFailure => "[ $rc -eq 0 ] && exit 0",
        Restart::Always => ":",
    };
    let command = format!(
        r#"line=$PVM_SERVICE_COMMAND; unset PVM_SERVICE_COMMAND; failed=0
while :; do
  began=$SECONDS
  bash -c "$line"; rc=$?
  {again}
  [ $((SECONDS - began)) -ge {STEADY_SECS} ] && failed=0
  failed=$((failed + 1))
  if [ $failed -ge {STARTS} ]; then echo "pvm: it ended $failed times in a row (last exit status $rc); giving up" >&2; exit $((rc ? rc : 1)); fi
  pause=$((1 << (failed - 1)))
  echo "pvm: it ended with exit status $rc; starting it again in $pause s" >&2
  sleep $pause
done"#
    );
    let mut env = service.env.clone();
    env.insert("PVM_SERVICE_COMMAND".to_owned(), service.command.clone());
    if let Some(port) = service.port {
        env.entry("PORT".to_owned()).or_insert_with(|| port.to_string());
    }
    RunSpec {
        run_id: service.journal_id(),
        command,
        working_dir: service.working_dir.clone(),
        env,
        stdin: None,
        user: service.user.clone(),
        timeout_secs: None,
    }
}

/// The watcher: ends with 0 when the service is ready, with 1 when its time is over. `None` for a service with nothing
/// to watch.
pub(super) fn watcher(service: &Service) -> Option<RunSpec> {
    let ready = service.ready.clone().or_else(|| service.port.map(|_| Ready::Port))?;
    let port = service.port.unwrap_or_default();
    let mut env = BTreeMap::from([("WATCH_PORT".to_owned(), port.to_string())]);
    let test = match &ready {
        Ready::Port => "(exec 3<>/dev/tcp/127.0.0.1/$WATCH_PORT) 2>/dev/null",
        Ready::HttpPath(path) => {
            env.insert("WATCH_PATH".to_owned(), path.clone());
            r#"(exec 3<>/dev/tcp/127.0.0.1/$WATCH_PORT && printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$WATCH_PATH" >&3 && read -r -t 5 _ code _ <&3 && [ "${code:-999}" -lt 500 ]) 2>/dev/null"#
        }
        Ready::LogLine(text) => {
            env.insert("WATCH_TEXT".to_owned(), text.clone());
            env.insert("WATCH_RUN".to_owned(), service.journal_id());
            r#"grep -qF -- "$WATCH_TEXT" "/var/lib/pvm/runs/$WATCH_RUN/stdout" "/var/lib/pvm/runs/$WATCH_RUN/stderr" 2>/dev/null"#
        }
    };
    let command = format!(
        "end=$((SECONDS + {secs})); while ! {test}; do [ $SECONDS -ge $end ] && exit 1; sleep 0.05; done",
        secs = service.ready_timeout_secs
    );
    Some(RunSpec {
        run_id: format!("{}-ready", service.journal_id()),
        command,
        working_dir: "/".to_owned(),
        env,
        stdin: None,
        // The journal's files are root's.
        user: "root".to_owned(),
        timeout_secs: Some(service.ready_timeout_secs + Duration::from_secs(30).as_secs()),
    })
}
