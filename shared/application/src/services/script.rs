//! The shell programs that supervise a service and watch for it to get ready, inside the VM. They work without anybody
//! outside: a service that needs others waits for them there.

use std::collections::BTreeMap;
use std::time::Duration;

use pvm_domain::service::{Ready, Restart, Service};

use crate::ports::RunSpec;

/// Starts in a row that fail before the supervisor gives up.
const STARTS: u32 = 5;
/// A start that lived this long, in seconds, is not counted as one of them.
const STEADY_SECS: u32 = 30;
/// Where supervisors and watchers leave word, by the start's id in the journal: begun, ready, failed. A start's time to
/// get ready counts from when it has begun. Gone with the boot, as the processes are.
const WORD: &str = "/run/pvm-services";
/// The longest that a service waits for those it needs, in seconds: as long as they may take to get ready.
const NEEDS_SECS: u64 = 600;
/// Exit status of a supervisor whose port is another program's.
const PORT_TAKEN: u32 = 98;

/// The supervisor: waits for the services it needs, runs the command in the foreground and starts it again by policy,
/// with a pause that doubles. The command comes in as a variable, so that no quoting of ours can change it.
pub(super) fn supervisor(service: &Service) -> RunSpec {
    let again = match service.restart {
        Restart::No => "exit $rc",
        Restart::OnFailure => "[ $rc -eq 0 ] && exit 0",
        Restart::Always => ":",
    };
    let command = format!(
        r#"line=$PVM_SERVICE_COMMAND; needs=$PVM_SERVICE_NEEDS; port=$PVM_SERVICE_PORT; begun=$PVM_SERVICE_BEGUN; failed=0
unset PVM_SERVICE_COMMAND PVM_SERVICE_NEEDS PVM_SERVICE_PORT PVM_SERVICE_BEGUN
for need in $needs; do
  until [ -e {WORD}/${{need#*=}}.ready ]; do
    if [ -e {WORD}/${{need#*=}}.failed ] || [ $SECONDS -ge {NEEDS_SECS} ]; then
      echo "pvm: the service ${{need%%=*}}, which this one depends on, did not get ready" >&2; exit 1
    fi
    sleep 0.05
  done
done
if [ -n "$port" ] && (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
  echo "pvm: port $port is taken by another program; stop that one or choose another port" >&2; exit {PORT_TAKEN}
fi
if [ -n "$begun" ]; then until : >"$begun"; do sleep 0.02; done 2>/dev/null; fi
while :; do
  began=$SECONDS
  bash -c "$line"; rc=$?
  {again}
  [ $((SECONDS - began)) -ge {STEADY_SECS} ] && failed=0
  failed=$((failed + 1))
  if [ $failed -ge {STARTS} ]; then echo "pvm: it ended $failed times in a row (last exit status $rc); giving up" >&2; exit $((rc ? rc : 1)); fi
  pause=$((1 << (failed - 1)))
  echo "pvm: it ended with exit status $rc; starting it again in $pause s ($failed of {STARTS})" >&2
  sleep $pause
  echo "pvm: started again" >&2
done"#
    );
    let mut env = service.env.clone();
    env.insert("PVM_SERVICE_COMMAND".to_owned(), service.command.clone());
    env.insert("PVM_SERVICE_NEEDS".to_owned(), needs(service));
    if readiness(service).is_some() {
        env.insert("PVM_SERVICE_BEGUN".to_owned(), format!("{WORD}/{}.begun", service.journal_id()));
    }
    if let Some(port) = service.port {
        env.entry("PORT".to_owned()).or_insert_with(|| port.to_string());
        env.insert("PVM_SERVICE_PORT".to_owned(), port.to_string());
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

/// What the supervisor has said last, where its program has ended and is not started again yet: how often it ended in a
/// row, and the words for a user.
pub(super) fn between_starts(stderr: &[u8]) -> Option<(u32, String)> {
    let text = String::from_utf8_lossy(stderr);
    let last = text.trim_end().lines().last()?.strip_prefix("pvm: it ended ")?;
    let (_, counted) = last.strip_suffix(')')?.rsplit_once('(')?;
    let (failures, of) = counted.split_once(" of ")?;
    (of == STARTS.to_string())
        .then(|| failures.parse().ok())?
        .map(|failures| (failures, format!("It ended {last}.")))
}

/// `name=start` of each service that must be ready first. Neither has a space.
fn needs(service: &Service) -> String {
    let each = service.needs.iter().map(|(name, start)| format!("{name}={start}"));
    each.collect::<Vec<_>>().join(" ")
}

/// How to tell that a service is ready; `None` where there is nothing to watch.
pub(super) fn readiness(service: &Service) -> Option<Ready> {
    service.ready.clone().or_else(|| service.port.map(|_| Ready::Port))
}

/// The watcher: ends with 0 when the service is ready, and with 1 when its time is over, its program ended, or one that
/// it needs failed. `None` for a service with nothing to watch.
pub(super) fn watcher(service: &Service) -> Option<RunSpec> {
    let ready = readiness(service)?;
    let port = service.port.unwrap_or_default();
    let mut env = BTreeMap::from([
        ("WATCH_PORT".to_owned(), port.to_string()),
        ("WATCH_RUN".to_owned(), service.journal_id()),
    ]);
    let test = match &ready {
        Ready::Port => r#"(exec 3<>"/dev/tcp/127.0.0.1/$WATCH_PORT") 2>/dev/null"#,
        Ready::HttpPath(path) => {
            env.insert("WATCH_PATH".to_owned(), path.clone());
            r#"(exec 3<>"/dev/tcp/127.0.0.1/$WATCH_PORT" && printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$WATCH_PATH" >&3 && read -r -t 5 _ code _ <&3 && [ "${code:-999}" -lt 500 ]) 2>/dev/null"#
        }
        Ready::LogLine(text) => {
            env.insert("WATCH_TEXT".to_owned(), text.clone());
            r#"grep -qF -- "$WATCH_TEXT" "$run/stdout" "$run/stderr" 2>/dev/null"#
        }
    };
    let command = format!(
        r#"run=/var/lib/pvm/runs/$WATCH_RUN; word={WORD}/$WATCH_RUN; mkdir -p {WORD}; chmod 1777 {WORD}
over() {{ touch "$word.failed"; exit 1; }}
dead() {{ [ -e "$run/exit.json" ] || [ -e "$run/exit" ]; }}
until [ -e "$word.begun" ]; do dead && over; sleep 0.05; done
end=$((SECONDS + {secs}))
while ! {test}; do
  dead && over
  [ $SECONDS -ge $end ] && over
  sleep 0.05
done
touch "$word.ready""#,
        secs = service.ready_timeout_secs
    );
    let waits = if service.needs.is_empty() { 0 } else { NEEDS_SECS };
    Some(RunSpec {
        run_id: format!("{}-ready", service.journal_id()),
        command,
        working_dir: "/".to_owned(),
        env,
        stdin: None,
        // The journal's files are root's.
        user: "root".to_owned(),
        timeout_secs: Some(service.ready_timeout_secs + waits + Duration::from_secs(30).as_secs()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_that_waits_before_the_next_start_is_told_from_one_whose_program_runs() {
        let said = "oops\npvm: it ended with exit status 3; starting it again in 2 s (2 of 5)\n";
        let (failures, reason) = between_starts(said.as_bytes()).unwrap();
        assert_eq!(failures, 2);
        assert!(reason.contains("exit status 3; starting it again in 2 s"), "{reason}");
        for runs in ["", "oops\n", &format!("{said}pvm: started again\n"), &format!("{said}hello")] {
            assert_eq!(between_starts(runs.as_bytes()), None, "{runs}");
        }
    }
}
