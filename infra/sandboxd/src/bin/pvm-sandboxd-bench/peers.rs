//! What other tools of this machine need for the same, measured in the same run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::Failure;
use super::samples::Samples;

/// Rounds of each; they are slow.
const ROUNDS: usize = 10;
/// The image for Docker: nothing is pulled for a comparison.
const IMAGE: &str = "pvm-bench-true:latest";
/// Makes it: this machine's own `true` and `sleep`, with what they need to run.
const MAKE_IMAGE: &str = "files=$(ldd /bin/true /bin/sleep | grep -o '/[^ :]*' | sed 's,^/,,' | sort -u); \
                          tar --create --dereference --directory / $files | \
                          docker import - pvm-bench-true:latest";

/// Prints each tool's median beside ours: `create` from nothing to a finished `true`, `exec` in what runs already.
pub(super) fn compare(create: f64, exec: f64) -> Result<(), Failure> {
    println!("for comparison, run in the same minute:");
    let folder = std::env::temp_dir().join(format!("pvm-bench-peers-{}", std::process::id()));
    let report = |name: &str, median: Option<f64>, ours: f64| match median {
        Some(median) => println!("  {name:<40} {median:9.2}   {:.1} times ours", median / ours),
        None => println!("  {name:<40}         -   not here"),
    };
    report("bwrap, true", bwrap().and_then(|command| time(&command)), create);
    report("unshare -Urpfnm, true", unshare().and_then(|command| time(&command)), create);
    let bundle = runc_bundle(&folder)?;
    report("runc run, true", bundle.as_deref().and_then(runc_run), create);
    report("runc exec, true", bundle.as_deref().and_then(runc_exec), exec);
    let has_docker = docker_image();
    report("docker run --rm, true", has_docker.then(docker_run).flatten(), create);
    report("docker exec, true", has_docker.then(docker_exec).flatten(), exec);
    if has_docker {
        run(&["docker", "image", "rm", "--force", IMAGE]);
    }
    std::fs::remove_dir_all(&folder).ok();
    Ok(())
}

fn run(command: &[&str]) -> bool {
    Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Median of a command's time; nothing when it fails.
fn time(command: &[&str]) -> Option<f64> {
    if !run(command) {
        return None;
    }
    let mut samples = Samples::default();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        if !run(command) {
            return None;
        }
        samples.add(start.elapsed());
    }
    Some(samples.median())
}

fn installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

fn bwrap() -> Option<Vec<&'static str>> {
    installed("bwrap").then(|| {
        vec!["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "/bin/true"]
    })
}

fn unshare() -> Option<Vec<&'static str>> {
    installed("unshare").then(|| vec!["unshare", "-U", "-r", "-p", "-f", "-n", "-m", "/bin/true"])
}

/// A bundle whose root shows the host's programs, so that no image is needed.
fn runc_bundle(folder: &Path) -> Result<Option<PathBuf>, Failure> {
    if !installed("runc") {
        return Ok(None);
    }
    std::fs::create_dir_all(folder.join("rootfs"))?;
    let made = Command::new("runc").arg("spec").current_dir(folder).status()?;
    if !made.success() {
        return Ok(None);
    }
    let file = folder.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/true"]);
    config["root"]["readonly"] = false.into();
    let shown = ["/usr", "/bin", "/lib", "/lib64"].into_iter().filter(|path| Path::new(path).exists());
    let mounts: Vec<_> = shown
        .map(|path| {
            serde_json::json!({"destination": path, "source": path, "type": "bind", "options": ["rbind", "ro"]})
        })
        .collect();
    if let Some(list) = config["mounts"].as_array_mut() {
        list.extend(mounts);
    }
    std::fs::write(file, serde_json::to_vec(&config)?)?;
    Ok(Some(folder.to_owned()))
}

fn runc_name() -> String {
    format!("pvm-bench-{}", std::process::id())
}

fn runc_run(bundle: &Path) -> Option<f64> {
    time(&["runc", "run", "--bundle", bundle.to_str()?, &runc_name()])
}

fn runc_exec(bundle: &Path) -> Option<f64> {
    let file = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
    config["process"]["args"] = serde_json::json!(["/bin/sleep", "600"]);
    std::fs::write(&file, serde_json::to_vec(&config).ok()?).ok()?;
    let name = runc_name();
    let started = run(&["runc", "run", "--detach", "--bundle", bundle.to_str()?, &name]);
    let median = started.then(|| time(&["runc", "exec", &name, "/bin/true"])).flatten();
    run(&["runc", "delete", "--force", &name]);
    median
}

fn docker_run() -> Option<f64> {
    time(&["docker", "run", "--rm", "--network", "none", IMAGE, "/bin/true"])
}

fn docker_exec() -> Option<f64> {
    let name = runc_name();
    let started = run(&[
        "docker",
        "run",
        "--rm",
        "-d",
        "--network",
        "none",
        "--name",
        &name,
        IMAGE,
        "/bin/sleep",
        "600",
    ]);
    let median = started.then(|| time(&["docker", "exec", &name, "/bin/true"])).flatten();
    run(&["docker", "rm", "--force", &name]);
    median
}

/// Makes the image; only with an engine that runs.
fn docker_image() -> bool {
    installed("docker")
        && Path::new("/var/run/docker.sock").exists()
        && run(&["sh", "-c", MAKE_IMAGE])
        && run(&["docker", "image", "inspect", IMAGE])
}
