//! What all requests share: settings, defaults set by `/init`, and the tables of running things.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use jiff::Timestamp;
use pvm_e2b_wire::HEADER_ACCESS_TOKEN;
use pvm_e2b_wire::connect::{Code, ConnectError};
use pvm_e2b_wire::envd_http::InitRequest;
use pvm_e2b_wire::secret::Secret;
use tokio::time::Instant;

use crate::accounts::{self, Account};
use crate::control::Deadline;
use crate::filesystem::polling::Watchers;
use crate::http::request::{Buffers, header};
use crate::journal::Journal;
use crate::metrics::Sampler;
use crate::process::table::Processes;
use crate::reaper::Reaper;
use crate::workspace::Scanner;

/// `PATH` of processes when this daemon was started without one, as PID 1 is.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is fixed at start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether this is PID 1 of a sandbox, so that its files are ours to change.
    pub in_sandbox: bool,
    /// Identity of this start of the sandbox.
    pub boot_id: String,
    /// Folder of the run journal.
    pub journal: PathBuf,
    /// Variables below those of `/init`, not shown by `/envs`.
    pub environment: BTreeMap<String, String>,
    /// CPUs of the sandbox, when limited.
    pub cpu_count: Option<u32>,
    /// Bytes of memory of the sandbox, when limited.
    pub memory_bytes: Option<u64>,
    /// Bytes of disk of the sandbox, when limited.
    pub disk_bytes: Option<u64>,
    /// User of requests that name none, until `/init` sets another.
    pub default_user: String,
    /// Working directory of requests that name none, until `/init` sets another.
    pub default_workdir: Option<String>,
}

/// What `/init` may change.
#[derive(Debug, Clone)]
struct Defaults {
    user: String,
    workdir: Option<String>,
    environment: BTreeMap<String, String>,
    token: Option<Secret>,
    last_init: Option<Timestamp>,
}

/// See the module.
#[derive(Debug)]
pub struct Daemon {
    /// What is fixed at start.
    pub settings: Settings,
    /// When this daemon was started.
    pub started: Instant,
    /// Collects children.
    pub reaper: Reaper,
    /// Processes of `process.Process`.
    pub processes: Processes,
    /// Watchers that are polled.
    pub watchers: Watchers,
    /// Runs.
    pub journal: Arc<Journal>,
    /// Hashes of the workspace.
    pub scanner: Scanner,
    /// Use of resources.
    pub metrics: Sampler,
    /// When this daemon ends itself.
    pub deadline: Deadline,
    /// Memory for request bodies.
    pub buffers: Buffers,
    defaults: Mutex<Defaults>,
}

/// Why `/init` is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    /// A token is set, and another was sent.
    #[error("access token cannot be changed once it is set")]
    TokenDiffers,
}

impl Daemon {
    /// Makes the shared state. Must be called on the runtime.
    ///
    /// # Errors
    /// When the signal handler of the reaper cannot be installed or the journal's folder not be made.
    pub fn new(settings: Settings) -> std::io::Result<Arc<Self>> {
        let journal = Journal::open(settings.journal.clone(), settings.boot_id.clone())?;
        Ok(Arc::new(Self {
            started: Instant::now(),
            reaper: Reaper::start()?,
            processes: Processes::default(),
            watchers: Watchers::default(),
            journal: Arc::new(journal),
            scanner: Scanner::default(),
            metrics: Sampler::default(),
            deadline: Deadline::default(),
            buffers: Buffers::default(),
            defaults: Mutex::new(Defaults {
                user: settings.default_user.clone(),
                workdir: settings.default_workdir.clone(),
                environment: BTreeMap::new(),
                token: None,
                last_init: None,
            }),
            settings,
        }))
    }

    fn defaults(&self) -> MutexGuard<'_, Defaults> {
        self.defaults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies `/init`. A request older than the last one changes nothing: calls may overtake each other.
    ///
    /// # Errors
    /// [`InitError::TokenDiffers`] unless `trusted`, which the sandbox server is: it hands out the tokens.
    pub fn init(&self, request: InitRequest, trusted: bool) -> Result<(), InitError> {
        let mut defaults = self.defaults();
        if let (Some(current), false) = (&defaults.token, trusted) {
            let same = request.access_token.as_ref().is_some_and(|token| current.matches(token.expose()));
            if !same {
                return Err(InitError::TokenDiffers);
            }
        }
        if let (Some(last), Some(this)) = (defaults.last_init, request.timestamp)
            && this < last
        {
            return Ok(());
        }
        defaults.last_init = request.timestamp.or(defaults.last_init);
        if let Some(token) = request.access_token.filter(|token| !token.is_empty()) {
            defaults.token = Some(token);
        }
        if let Some(user) = request.default_user.filter(|user| !user.is_empty()) {
            defaults.user = user;
        }
        if let Some(workdir) = request.default_workdir.filter(|workdir| !workdir.is_empty()) {
            defaults.workdir = Some(workdir);
        }
        defaults.environment.extend(request.env_vars);
        Ok(())
    }

    /// Whether the request may do what needs the token: it carries the token, or none is asked for.
    pub fn has_token(&self, headers: &HeaderMap) -> bool {
        let sent = header(headers, HEADER_ACCESS_TOKEN).unwrap_or_default();
        self.defaults().token.as_ref().is_none_or(|token| token.matches(sent))
    }

    /// The token that is asked for.
    pub fn token(&self) -> Option<Secret> {
        self.defaults().token.clone()
    }

    /// Working directory of requests that name none.
    pub fn default_workdir(&self) -> Option<String> {
        self.defaults().workdir.clone()
    }

    /// User of requests that name none.
    pub fn default_user(&self) -> String {
        self.defaults().user.clone()
    }

    /// Variables set by `/init`.
    pub fn variables(&self) -> BTreeMap<String, String> {
        self.defaults().environment.clone()
    }

    /// The user a call is made for: of the `Authorization: Basic` header, else the default. There is no
    /// password; who may call at all may call as anybody. Any other `Authorization` is for somebody else, such as a
    /// proxy on the way, and says nothing here.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`] when there is no such user.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Account, ConnectError> {
        let named = headers.get(AUTHORIZATION).and_then(|value| basic_user(value.to_str().ok()?));
        let name = named.filter(|name| !name.is_empty()).unwrap_or_else(|| self.default_user());
        match accounts::find(&name) {
            Ok(Some(account)) => Ok(account),
            Ok(None) => Err(ConnectError::new(Code::Unauthenticated, format!("invalid username: '{name}'"))),
            Err(error) => Err(ConnectError::new(Code::Internal, format!("reading the users: {error}"))),
        }
    }

    /// The environment of a process of this user; what comes later in the list wins.
    pub fn environment(
        &self,
        account: &Account,
        requested: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let path = std::env::var("PATH").ok().filter(|path| !path.is_empty());
        let mut environment = BTreeMap::from([
            ("PATH".to_owned(), path.unwrap_or_else(|| DEFAULT_PATH.to_owned())),
            ("HOME".to_owned(), account.home.to_string_lossy().into_owned()),
            ("USER".to_owned(), account.name.clone()),
            ("LOGNAME".to_owned(), account.name.clone()),
        ]);
        let own = self.settings.environment.clone();
        let sets = [own, self.variables(), requested.clone()];
        // A name that is empty or has `=` cannot be passed on at all.
        environment
            .extend(sets.into_iter().flatten().filter(|(name, _)| !name.is_empty() && !name.contains('=')));
        environment
    }
}

/// The user of `Basic <base64 of user:password>`; nothing for anything else.
fn basic_user(value: &str) -> Option<String> {
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    decoded.split_once(':').map(|(user, _)| user.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_read_out_of_basic_authorization() {
        assert_eq!(basic_user("Basic dXNlcjo=").as_deref(), Some("user"));
        assert_eq!(basic_user("basic cm9vdDpwdw==").as_deref(), Some("root"));
        assert_eq!(basic_user("Bearer dXNlcjo="), None);
        assert_eq!(basic_user("Basic !!!"), None);
        assert_eq!(basic_user("Basic dXNlcg=="), None, "no colon");
    }
}
