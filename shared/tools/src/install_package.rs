//! `install_package`: packages of any manager, with the versions that came of it, noted for the next VM.

use pvm_application::ports::{RunReport, RunState};
use pvm_application::ports_tools::ToolContext;
use pvm_contracts::tools::{
    InstallPackageArgs, InstallPackageOutput, InstalledPackage, PackageManager, RunAs,
};
use pvm_domain::{Invalid, limits};

use crate::call::{Answer, Call, Ports, result};
use crate::catalogue::{Effect, Spec};
use crate::shell::{operand, quote, quote_all};
use crate::{output, paths, recipe, schema};

pub(crate) type Args = InstallPackageArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "install_package",
    title: "Install packages",
    description: "Install one or several packages with apt, pip, npm, yarn or cargo and answer the versions that are \
        installed now. Needs no sudo and no apt-get update. pip uses the virtual environment of the directory, if \
        there is one. What was installed is remembered and comes back when the VM is rebuilt, which is not so for \
        installs by execute_command.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<InstallPackageOutput>,
    effect: Effect::Converges,
    destructive: false,
    open_world: true,
    needs_vm: true,
    runs_command: true,
    may_change_files: true,
    long: true,
};

/// Seconds that an installation may take unless asked otherwise: compiling a crate takes minutes.
const TIMEOUT_SECS: u64 = 900;
/// The most packages of one call; more make a command line that nobody reads.
const PACKAGES_MAX: usize = 100;
/// Bytes of the manager's output in a result: little when all went well.
const OUTPUT_BYTES: usize = 2 * 1024;
/// The same where something failed.
const FAILED_OUTPUT_BYTES: usize = 12 * 1024;
/// Separates the manager's versions from what the script prints before.
const VERSIONS: &str = "@@versions";

/// Everything but the versions goes to standard error, so that standard output is ours to read.
const PRELUDE: &str = "exec 3>&1 1>&2\nexport DEBIAN_FRONTEND=noninteractive PIP_NO_INPUT=1 NO_COLOR=1\n";

/// The packages of one call, split and checked.
pub(crate) fn packages(field: &str, text: &str) -> Result<Vec<String>, Invalid> {
    let words: Vec<String> = text
        .split_whitespace()
        .map(|word| operand(field, word).map(str::to_owned))
        .collect::<Result<_, _>>()?;
    match words.len() {
        0 => Err(Invalid::new(field, "must name at least one package")),
        1..=PACKAGES_MAX => Ok(words),
        _ => Err(Invalid::new(field, "must name at most 100 packages")),
    }
}

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, args: Args) -> Answer {
    let packages = packages("package", &args.package)?;
    let dir = paths::directory(call.context, RunAs::User, "working_dir", args.working_dir.as_deref())?;
    let venv = match &args.virtual_env {
        Some(_) if args.manager != PackageManager::Pip => {
            return Err(Invalid::new("virtual_env", "is only for pip").into());
        }
        Some(path) => Some(paths::writable(call.context, RunAs::User, "virtual_env", path)?),
        None => None,
    };
    let timeout = args.timeout_secs.unwrap_or(TIMEOUT_SECS);
    if !(1..=limits::COMMAND_TIMEOUT_MAX_SECS).contains(&timeout) {
        return Err(Invalid::new("timeout_secs", "must be 1 to 86400").into());
    }
    let (script, user) = script(&args, &packages, &dir, venv.as_deref());
    let mut run = call.run_of(format!("{PRELUDE}{script}"), user, timeout);
    "/".clone_into(&mut run.working_dir);
    let report = call.run(&run).await?;
    let said = output::said(call, &run.run_id, &report, FAILED_OUTPUT_BYTES).await?;
    let out = read_report(&report, said, &args, &packages, &run.run_id);
    if out.success {
        recipe::record(call, &run).await;
    }
    let mut done = result(!out.success, text_of(&out, &report), &out);
    done.output_path = out.output_path;
    Ok(done)
}

/// What is known of an installation that still runs.
pub(crate) fn running(context: &ToolContext, args: Args, output: String) -> InstallPackageOutput {
    InstallPackageOutput {
        success: false,
        manager: args.manager,
        installed: Vec::new(),
        location: String::new(),
        exit_code: None,
        output,
        output_path: None,
        command_id: context.call_id.clone(),
        duration_ms: 0,
    }
}

/// The name in a package's specification, as the manager lists it.
pub(crate) fn name_of(manager: PackageManager, package: &str) -> String {
    let cut = |text: &str, at: &[char]| text.split(at).next().unwrap_or(text).to_owned();
    match manager {
        PackageManager::Apt => cut(package, &['=', '/', ':']),
        PackageManager::Pip => cut(package, &['=', '<', '>', '!', '~', '[', ';', '@'])
            .to_ascii_lowercase()
            .replace(['_', '.'], "-"),
        PackageManager::Npm | PackageManager::Yarn => match package.strip_prefix('@') {
            Some(scoped) => format!("@{}", cut(scoped, &['@'])),
            None => cut(package, &['@']),
        },
        PackageManager::Cargo => cut(package, &['@']),
    }
}

fn script(args: &Args, packages: &[String], dir: &str, venv: Option<&str>) -> (String, RunAs) {
    let words = quote_all(packages);
    let cd = format!("mkdir -p {0} && cd {0} || exit 1\n", quote(dir));
    match args.manager {
        PackageManager::Apt => (apt(&words, packages), RunAs::Root),
        PackageManager::Pip => (format!("{cd}{}", pip(&words, venv)), RunAs::User),
        PackageManager::Npm | PackageManager::Yarn if args.global => (npm_global(&words), RunAs::Root),
        PackageManager::Npm => (format!("{cd}{}", npm(&words, args.dev)), RunAs::User),
        PackageManager::Yarn => (format!("{cd}{}", yarn(&words, packages, args.dev)), RunAs::User),
        PackageManager::Cargo => (format!("{cd}{}", cargo(&words, args)), RunAs::User),
    }
}

/// The lists are fetched when there are none of the last day, and again when a package is not in them.
fn apt(words: &str, packages: &[String]) -> String {
    let names: Vec<String> = packages.iter().map(|package| name_of(PackageManager::Apt, package)).collect();
    format!(
        "opts='-q -y -o DPkg::Lock::Timeout=300 -o APT::Install-Recommends=false'\n\
         [ -n \"$(find /var/lib/apt/lists -maxdepth 1 -name '*Packages*' -mmin -1440 -print -quit 2>/dev/null)\" ] \
         || apt-get $opts update\n\
         apt-get $opts install {words} || {{ apt-get $opts update && apt-get $opts install {words}; }} || exit $?\n\
         echo {VERSIONS} >&3\n\
         echo '@system' >&3\n\
         dpkg-query -W -f='${{Package}}\\t${{Version}}\\n' {} >&3 2>/dev/null || true",
        quote_all(&names)
    )
}

fn pip(words: &str, venv: Option<&str>) -> String {
    let choose = match venv {
        Some(venv) => format!(
            "v={}; [ -x \"$v/bin/python\" ] || python3 -m venv \"$v\" || exit $?; py=\"$v/bin/python\"; where=$v\n",
            quote(venv)
        ),
        None => "v=\n\
                 for d in \"${VIRTUAL_ENV:-}\" \"$PWD/.venv\" \"$PWD/venv\"; do [ -n \"$d\" ] && \
                 [ -x \"$d/bin/python\" ] && { v=$d; break; }; done\n\
                 if [ -n \"$v\" ]; then py=\"$v/bin/python\"; where=$v; else py=$(command -v python3) || \
                 { echo 'python3 is not installed; install it with apt'; exit 127; }; where=system; \
                 export PIP_BREAK_SYSTEM_PACKAGES=1; fi\n"
            .to_owned(),
    };
    format!(
        "{choose}\
         \"$py\" -m pip install --disable-pip-version-check --no-input --progress-bar off {words} || exit $?\n\
         echo {VERSIONS} >&3\n\
         echo \"@$where\" >&3\n\
         \"$py\" -m pip list --disable-pip-version-check --format=freeze 2>/dev/null | sed 's/==/\\t/' >&3"
    )
}

const NEEDS_NODE: &str = "command -v npm >/dev/null || { echo 'npm is not installed; call create_development_environment \
                          with kind node, or install nodejs and npm with apt'; exit 127; }\n";

/// Without a package.json npm would install into the next directory above that has one.
fn npm(words: &str, dev: bool) -> String {
    format!(
        "{NEEDS_NODE}[ -f package.json ] || npm init -y >/dev/null || exit $?\n\
         npm install --no-fund --no-audit --no-progress {}{words} || exit $?\n\
         echo {VERSIONS} >&3\n\
         echo \"@$PWD\" >&3\n\
         npm ls --depth=0 --json >&3 2>/dev/null || true",
        if dev { "--save-dev " } else { "" }
    )
}

fn npm_global(words: &str) -> String {
    format!(
        "{NEEDS_NODE}npm install --global --no-fund --no-audit --no-progress {words} || exit $?\n\
         echo {VERSIONS} >&3\n\
         echo '@system' >&3\n\
         npm ls --global --depth=0 --json >&3 2>/dev/null || true"
    )
}

/// Yarn has a registry of its own; the one that npm is set up for is used, and modules go where Node finds them.
fn yarn(words: &str, packages: &[String], dev: bool) -> String {
    let names: Vec<String> = packages.iter().map(|package| name_of(PackageManager::Yarn, package)).collect();
    format!(
        "{NEEDS_NODE}command -v yarn >/dev/null || sudo -n npm install --global --no-fund --no-audit yarn@1 \
         || npm install --global --no-fund --no-audit yarn@1 || exit $?\n\
         r=$(npm config get registry)\n\
         export YARN_REGISTRY=\"$r\" YARN_NPM_REGISTRY_SERVER=\"$r\" YARN_NODE_LINKER=node-modules\n\
         [ -f package.json ] || npm init -y >/dev/null || exit $?\n\
         yarn add {}{words} || exit $?\n\
         echo {VERSIONS} >&3\n\
         echo \"@$PWD\" >&3\n\
         for n in {}; do v=$(node -p \"require('$PWD/node_modules/'+process.argv[1]+'/package.json').version\" \"$n\" \
         2>/dev/null) && printf '%s\\t%s\\n' \"$n\" \"$v\" >&3; done; true",
        if dev { "--dev " } else { "" },
        quote_all(&names)
    )
}

/// A directory with a Cargo.toml gets a dependency, any other place a program.
fn cargo(words: &str, args: &Args) -> String {
    let head = "[ -f \"$HOME/.cargo/env\" ] && . \"$HOME/.cargo/env\"\n\
                command -v cargo >/dev/null || { echo 'cargo is not installed; call create_development_environment \
                with kind rust'; exit 127; }\n";
    let program = format!(
        "cargo install {words} || exit $?\n\
         echo {VERSIONS} >&3\n\
         echo '@system' >&3\n\
         cargo install --list 2>/dev/null | sed -n 's/^\\([^ ]*\\) v\\([^ :]*\\).*/\\1\\t\\2/p' >&3"
    );
    if args.global {
        return format!("{head}{program}");
    }
    let dev = if args.dev { "--dev " } else { "" };
    format!(
        "{head}if [ -f Cargo.toml ]; then\n\
         cargo add {dev}{words} || exit $?\n\
         echo {VERSIONS} >&3\n\
         echo \"@$PWD\" >&3\n\
         cargo tree --depth 1 --prefix none 2>/dev/null | sed -n 's/^\\([^ ]*\\) v\\([^ ]*\\).*/\\1\\t\\2/p' >&3\n\
         else\n{program}\nfi"
    )
}

fn read_report(
    report: &RunReport,
    (said, path): (String, Option<String>),
    args: &Args,
    packages: &[String],
    run_id: &str,
) -> InstallPackageOutput {
    let ours = String::from_utf8_lossy(&report.stdout.data).into_owned();
    let success = report.state == RunState::Exited && report.exit_code == Some(0);
    let listed = ours.split_once(VERSIONS).map_or("", |(_, rest)| rest).trim_start();
    let (place, listed) = listed.split_once('\n').unwrap_or((listed, ""));
    let known = if listed.trim_start().starts_with('{') { of_npm(listed) } else { of_table(listed) };
    let mut installed = Vec::new();
    if success {
        for package in packages {
            let wanted = name_of(args.manager, package);
            let same = |found: &&InstalledPackage| name_of(args.manager, &found.name) == wanted;
            installed.extend(known.iter().find(same).cloned());
        }
        if installed.len() < packages.len() && args.manager == PackageManager::Pip {
            // Addresses and directories have no name of their own; pip says what came of them.
            installed.extend(
                said_by_pip(&said).into_iter().filter(|new| !installed.contains(new)).collect::<Vec<_>>(),
            );
        }
    }
    let is_cut = path.is_some() || (success && said.len() > OUTPUT_BYTES);
    InstallPackageOutput {
        success,
        manager: args.manager,
        installed,
        location: place.strip_prefix('@').unwrap_or_default().to_owned(),
        exit_code: report.exit_code,
        output: if success { output::end(&said, OUTPUT_BYTES) } else { said },
        output_path: is_cut.then(|| output::path_of(run_id, "stderr")),
        command_id: run_id.to_owned(),
        duration_ms: report.duration_ms,
    }
}

fn of_table(listed: &str) -> Vec<InstalledPackage> {
    let read = |line: &str| {
        let (name, version) = line.split_once('\t')?;
        Some(InstalledPackage { name: name.trim().to_owned(), version: version.trim().to_owned() })
    };
    listed.lines().filter_map(read).filter(|found| !found.version.is_empty()).collect()
}

fn of_npm(listed: &str) -> Vec<InstalledPackage> {
    let tree: serde_json::Value = serde_json::from_str(listed).unwrap_or_default();
    let read = |(name, facts): (&String, &serde_json::Value)| {
        let version = facts["version"].as_str()?;
        Some(InstalledPackage { name: name.clone(), version: version.to_owned() })
    };
    tree["dependencies"].as_object().into_iter().flatten().filter_map(read).collect()
}

/// Reads `Successfully installed a-1.0 b-2.0`.
fn said_by_pip(said: &str) -> Vec<InstalledPackage> {
    let line = said.lines().rev().find_map(|line| line.trim().strip_prefix("Successfully installed "));
    let read = |word: &str| {
        let (name, version) = word.rsplit_once('-')?;
        Some(InstalledPackage { name: name.to_owned(), version: version.to_owned() })
    };
    line.into_iter().flat_map(str::split_whitespace).filter_map(read).collect()
}

fn text_of(out: &InstallPackageOutput, report: &RunReport) -> String {
    let text = if out.success {
        let what: Vec<String> =
            out.installed.iter().map(|package| format!("{} {}", package.name, package.version)).collect();
        let place = if out.location == "system" { "the VM".to_owned() } else { out.location.clone() };
        let what = if what.is_empty() { "everything asked for".to_owned() } else { what.join(", ") };
        format!("Installed with {} in {place}: {what}.", out.manager.as_str())
    } else {
        let why = match (report.state, out.exit_code) {
            (RunState::TimedOut, _) => {
                "it took too long and was stopped; give a larger timeout_secs".to_owned()
            }
            (RunState::Lost, _) => "the VM went away; call it again".to_owned(),
            (RunState::Killed, _) => "it was killed".to_owned(),
            (_, Some(code)) => format!("exit code {code}"),
            (_, None) => "it did not end by itself".to_owned(),
        };
        let whole = out.output_path.as_deref().map(|path| format!("\n{}", output::whole_in(path)));
        let whole = whole.unwrap_or_default();
        format!("{} could not install this: {why}.\n{}{whole}", out.manager.as_str(), out.output)
    };
    output::fit(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_out_of_specifications() {
        use PackageManager::{Apt, Cargo, Npm, Pip};
        for (manager, package, name) in [
            (Apt, "nginx=1.22", "nginx"),
            (Apt, "libc6:amd64", "libc6"),
            (Pip, "Flask-SQLAlchemy>=3,<4", "flask-sqlalchemy"),
            (Pip, "uvicorn[standard]==0.30", "uvicorn"),
            (Pip, "typing_extensions", "typing-extensions"),
            (Npm, "@types/node@20", "@types/node"),
            (Npm, "express@^4", "express"),
            (Cargo, "ripgrep@14", "ripgrep"),
        ] {
            assert_eq!(name_of(manager, package), name, "{package}");
        }
    }

    #[test]
    fn packages_cannot_smuggle_options() {
        assert!(packages("package", "flask --index-url=http://x").is_err());
        assert!(packages("package", "  ").is_err());
        assert_eq!(packages("package", "a  b").unwrap(), ["a", "b"]);
    }

    #[test]
    fn versions_are_read_from_each_form() {
        assert_eq!(of_table("flask\t3.0.3\nnoise\n")[0].version, "3.0.3");
        let npm = of_npm(r#"{"name":"x","dependencies":{"express":{"version":"4.19.2"},"broken":{}}}"#);
        assert_eq!((npm.len(), npm[0].name.as_str()), (1, "express"));
        let pip = said_by_pip("Collecting\nSuccessfully installed my-tool-1.2 x-0.1\n");
        assert_eq!((pip[0].name.as_str(), pip[0].version.as_str(), pip.len()), ("my-tool", "1.2", 2));
    }
}
