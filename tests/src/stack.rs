//! A stack of its own for a test: everything in this process, in a temporary folder, gone afterwards whatever happens.

use std::path::Path;
use std::time::Duration;

use pvm_entry::Settings;
use pvm_local::{Stack, StackConfig};
use pvm_sandboxd::{EgressSettings, Shutdown};

use crate::api::Api;

/// Settings of a stack in `home`, on free ports.
pub fn settings(home: &Path) -> Settings {
    let mut settings = Settings::from_lookup(|_| None).expect("the defaults are good");
    settings.home = home.join("state");
    for addr in [&mut settings.http_addr, &mut settings.e2b_addr, &mut settings.s3_addr] {
        addr.set_port(0);
    }
    settings
}

/// Starts a stack in `home`. Clean-up runs rarely, so that no test depends on when it does.
pub async fn start(home: &Path) -> Stack {
    Stack::start(config(home)).await.expect("the stack starts")
}

/// How [`start`] starts a stack.
pub fn config(home: &Path) -> StackConfig {
    let mut config = StackConfig::new(settings(home));
    config.build_base = false;
    config.egress = Some(open_loopback());
    config.sweep_every = Duration::from_hours(1);
    config
}

/// Lets sandboxes reach this machine's loopback, where tests have their servers, besides what the environment lets them.
pub fn open_loopback() -> EgressSettings {
    let mut egress = EgressSettings::from_environment();
    egress.allow_cidrs.push("127.0.0.0/8".parse().expect("a range"));
    egress.no_proxy.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
    egress
}

/// A client of the stack with its first key.
pub fn client(stack: &Stack) -> Api {
    Api::new(&format!("http://{}", stack.http_addr), &stack.api_key)
}

/// Runs `test` against a stack of its own, which ends with all its VMs even where the test fails.
pub async fn with_stack<F>(test: impl FnOnce(Api) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    with_stack_of(|_| {}, test).await;
}

/// The same with settings of one's own.
pub async fn with_stack_of<F>(change: impl FnOnce(&mut Settings), test: impl FnOnce(Api) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let home = tempfile::tempdir().expect("a temporary folder");
    let mut config = config(home.path());
    change(&mut config.settings);
    let stack = Stack::start(config).await.expect("the stack starts");
    let result = tokio::spawn(test(client(&stack))).await;
    stack.shutdown(Shutdown::KillAll).await.expect("the stack ends");
    if let Err(failed) = result {
        std::panic::resume_unwind(failed.into_panic());
    }
}
