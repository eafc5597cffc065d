//! Paths as agents write them, made absolute.

use pvm_application::ports_tools::ToolContext;
use pvm_contracts::tools::RunAs;
use pvm_domain::Invalid;
use pvm_domain::file::WORKSPACE;

/// Directories that tools do not write to: they are the kernel's, or the record of what ran.
const NOT_FOR_WRITING: [&str; 4] = ["/proc", "/sys", "/dev", "/var/lib/pvm"];

/// The absolute path that `text` means: relative ones start at the context's directory, `~` is the account's home.
///
/// # Errors
/// Names `field` and the rule.
pub(crate) fn absolute(
    context: &ToolContext,
    user: RunAs,
    field: &str,
    text: &str,
) -> Result<String, Invalid> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Invalid::new(field, "must not be empty"));
    }
    if text.len() > 4096 || text.chars().any(char::is_control) {
        return Err(Invalid::new(field, "must have at most 4,096 bytes and no control characters"));
    }
    let home = match user {
        RunAs::User => "/home/user",
        RunAs::Root => "/root",
    };
    let joined = match text.strip_prefix('~') {
        Some("") => home.to_owned(),
        Some(rest) if rest.starts_with('/') => format!("{home}{rest}"),
        _ if text.starts_with('/') => text.to_owned(),
        _ => format!("{}/{text}", context.working_dir.trim_end_matches('/')),
    };
    Ok(tidy(&joined))
}

/// The same, or the context's directory where there is none.
pub(crate) fn directory(
    context: &ToolContext,
    user: RunAs,
    field: &str,
    text: Option<&str>,
) -> Result<String, Invalid> {
    match text.map(str::trim) {
        None | Some("") => Ok(tidy(&context.working_dir)),
        Some(text) => absolute(context, user, field, text),
    }
}

/// The same for a file that is to be written.
pub(crate) fn writable(
    context: &ToolContext,
    user: RunAs,
    field: &str,
    text: &str,
) -> Result<String, Invalid> {
    if text.trim().ends_with('/') {
        return Err(Invalid::new(field, "must name a file, not a directory"));
    }
    let path = absolute(context, user, field, text)?;
    let inside = |dir: &str| path == dir || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
    let own = tidy(&context.working_dir);
    if own != WORKSPACE && inside(WORKSPACE) && !inside(&own) {
        let rule = format!(
            "must not be in {WORKSPACE}: you work in {own}, your own copy of it, which is merged into it later; give the \
             path relative to your copy"
        );
        return Err(Invalid::new(field, rule));
    }
    match NOT_FOR_WRITING.into_iter().find(|dir| inside(dir)) {
        Some(dir) => Err(Invalid::new(field, format!("must not be in {dir}; write below /workspace"))),
        None => Ok(path),
    }
}

/// The directories on the way to `path`, without the root, which everybody may pass.
pub(crate) fn above(path: &str) -> Vec<String> {
    path.match_indices('/').map(|(at, _)| path[..at].to_owned()).filter(|dir| !dir.is_empty()).collect()
}

/// Where a symbolic link at `link` that holds `target` leads.
pub(crate) fn from(link: &str, target: &str) -> String {
    let dir = link.rsplit_once('/').map_or("", |(dir, _)| dir);
    if target.starts_with('/') { tidy(target) } else { tidy(&format!("{dir}/{target}")) }
}

/// Resolves `.`, `..` and empty names by the text alone, so that what is checked here is what is used.
fn tidy(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
        if name == ".." {
            names.pop();
        } else {
            names.push(name);
        }
    }
    format!("/{}", names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::context;

    #[test]
    fn relative_paths_start_at_the_workspace_and_tilde_at_home() {
        let ctx = context("/workspace");
        let path = |text: &str| absolute(&ctx, RunAs::User, "path", text).unwrap();
        assert_eq!(path("app/main.py"), "/workspace/app/main.py");
        assert_eq!(path("./a//b"), "/workspace/a/b");
        assert_eq!(path("/etc/hosts"), "/etc/hosts");
        assert_eq!(path("~/.bashrc"), "/home/user/.bashrc");
        assert_eq!(path("~x"), "/workspace/~x");
        assert_eq!(absolute(&ctx, RunAs::Root, "path", "~").unwrap(), "/root");
        for bad in ["", "  ", "a\0b", "a\nb"] {
            assert!(absolute(&ctx, RunAs::User, "path", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_way_to_a_file_and_where_a_link_leads() {
        assert_eq!(above("/a/b/c"), ["/a", "/a/b"]);
        assert!(above("/a").is_empty());
        assert_eq!(from("/a/b/link", "../c"), "/a/c");
        assert_eq!(from("/a/link", "/x"), "/x");
    }

    #[test]
    fn a_lane_writes_to_its_own_copy_and_not_around_it() {
        let lane = context("/home/user/.local/state/pvm/lanes/run_1/dev_agent");
        let path = |text: &str| writable(&lane, RunAs::User, "path", text);
        assert!(path("app.py").unwrap().ends_with("/lanes/run_1/dev_agent/app.py"));
        for bad in ["/workspace/app.py", "/workspace", "/tmp/../workspace/x"] {
            let refused = path(bad).unwrap_err();
            assert!(refused.reason.contains("your own copy") && refused.reason.contains("/lanes/run_1/"));
        }
        assert!(path("/tmp/notes").is_ok() && path("/workspaces/x").is_ok());
        assert!(writable(&context("/workspace"), RunAs::User, "path", "/workspace/app.py").is_ok());
    }

    #[test]
    fn the_journal_and_the_kernels_directories_are_not_written() {
        let ctx = context("/workspace");
        for bad in ["/proc/1/mem", "/workspace/../var/lib/pvm/runs/x", "dir/", "/sys"] {
            assert!(writable(&ctx, RunAs::Root, "path", bad).is_err(), "{bad}");
        }
        assert!(writable(&ctx, RunAs::User, "path", "/devices.txt").is_ok());
    }
}
