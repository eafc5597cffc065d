//! `get_system_info`: what the VM is, what runs in it, and what is installed.

use std::collections::BTreeMap;

use pvm_contracts::tools::{
    DiskInfo, PortInfo, ProcessInfo, RunAs, SystemInfoArgs, SystemInfoOutput, ToolVersion,
};
use pvm_domain::Invalid;

use crate::call::{Answer, Call, Ports, Stop, result};
use crate::catalogue::{Effect, Spec};
use crate::{output, schema};

pub(crate) type Args = SystemInfoArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "get_system_info",
    title: "Look at the VM",
    description: "Facts of the VM: operating system, processors, memory, disks, load, the largest processes, ports that \
        something listens on, and the languages and tools that are installed with their versions.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<SystemInfoOutput>,
    effect: Effect::Reads,
    destructive: false,
    open_world: false,
    needs_vm: true,
    runs_command: true,
    may_change_files: false,
    long: false,
};

/// Seconds that looking may take.
const TIMEOUT_SECS: u64 = 30;
/// Characters of a command line that are shown.
const COMMAND_CHARS: usize = 160;

/// Prints sections, each after a line `@@name`. A limit of the VM's control group is smaller than what the kernel says
/// of the whole machine.
const SCRIPT: &str = include_str!("scripts/system_info.sh");

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, args: Args) -> Answer {
    let most = args.processes.unwrap_or(15);
    if most > 100 {
        return Err(Invalid::new("processes", "must be 0 to 100").into());
    }
    let mut run = call.run_of(SCRIPT.to_owned(), RunAs::User, TIMEOUT_SECS);
    "/".clone_into(&mut run.working_dir);
    let report = call.run(&run).await?;
    if report.exit_code != Some(0) {
        let said = output::plain(&report.stderr.data);
        return Err(Stop::error(format!("The VM could not be looked at: {}", said.trim())));
    }
    let out = read(&String::from_utf8_lossy(&report.stdout.data), most);
    Ok(result(false, text_of(&out), &out))
}

fn sections(text: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut name = "";
    for line in text.lines() {
        if let Some(next) = line.strip_prefix("@@") {
            name = next;
        } else if !line.trim().is_empty() {
            all.entry(name).or_default().push(line);
        }
    }
    all
}

fn read(text: &str, most: usize) -> SystemInfoOutput {
    let all = sections(text);
    let lines = |name: &str| all.get(name).cloned().unwrap_or_default();
    let first = |name: &str| lines(name).first().map(|line| line.trim().to_owned()).unwrap_or_default();
    let mib = |bytes: u64| bytes / (1024 * 1024);
    let bytes = |name: &str| lines(name).first().and_then(|line| line.trim().parse::<u64>().ok());
    let known = |key: &str| {
        let line = lines("memory").into_iter().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib / 1024)
    };
    let (mut total, mut available) = (known("MemTotal").unwrap_or(0), known("MemAvailable").unwrap_or(0));
    if let Some(limit) = bytes("memory_limit").map(mib).filter(|limit| *limit < total) {
        total = limit;
        available = available.min(limit.saturating_sub(bytes("memory_used").map_or(0, mib)));
    }
    let mut processes = lines("processes");
    // The look itself is not what is asked for.
    processes.retain(|line| !line.contains("ps -eo pid="));
    SystemInfoOutput {
        os: first("os"),
        kernel: first("kernel"),
        architecture: first("architecture"),
        hostname: first("hostname"),
        user: first("user"),
        cpus: cpus(first("cpus").parse().unwrap_or(1), &first("cpu_limit")),
        load: first("load").split_whitespace().map(str::to_owned).collect(),
        memory_total_mib: total,
        memory_available_mib: available,
        uptime_secs: uptime(&lines("uptime")),
        disks: disks(&lines("disks")),
        process_count: processes.len() as u64,
        processes: processes.iter().filter_map(|line| process(line)).take(most).collect(),
        ports: ports(&lines("ports")),
        toolchains: lines("tools").iter().filter_map(|line| tool(line)).collect(),
    }
}

/// The kernel's processors, or fewer where the control group allows fewer.
fn cpus(kernel: u64, limit: &str) -> u64 {
    let numbers: Vec<i64> = limit.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers.as_slice() {
        [quota, period] if *quota > 0 && *period > 0 => {
            kernel.min(u64::try_from((quota + period - 1) / period).unwrap_or(kernel)).max(1)
        }
        _ => kernel,
    }
}

/// The age of process 1 is the VM's; the kernel's uptime is the host's where the kernel is shared.
fn uptime(lines: &[&str]) -> u64 {
    let seconds = |line: &&str| line.trim().split('.').next().and_then(|whole| whole.parse::<u64>().ok());
    lines.iter().filter_map(seconds).min().unwrap_or(0)
}

fn disks(lines: &[&str]) -> Vec<DiskInfo> {
    let read = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let mount = fields.get(5..)?.join(" ");
        let shown =
            mount.starts_with('/') && !["/proc", "/sys", "/dev"].iter().any(|dir| mount.starts_with(dir));
        shown.then(|| {
            Some(DiskInfo { total_mib: fields[1].parse().ok()?, free_mib: fields[3].parse().ok()?, mount })
        })?
    };
    let mut found: Vec<DiskInfo> = lines.iter().filter_map(read).filter(|disk| disk.total_mib > 0).collect();
    found.truncate(20);
    found
}

fn process(line: &str) -> Option<ProcessInfo> {
    let mut fields = line.split_whitespace();
    let (pid, user, cpu, rss) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let command: Vec<&str> = fields.collect();
    Some(ProcessInfo {
        pid: pid.parse().ok()?,
        user: user.to_owned(),
        cpu_percent: cpu.parse::<f64>().ok()?.round() as u64,
        memory_mib: rss.parse::<u64>().ok()? / 1024,
        command: command.join(" ").chars().take(COMMAND_CHARS).collect(),
    })
}

/// Reads `address:port` in the kernel's hex form.
fn ports(lines: &[&str]) -> Vec<PortInfo> {
    let read = |line: &&str| {
        let (address, port) = line.trim().split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let address = match (address.len(), address.trim_start_matches('0').is_empty()) {
            (8, true) => "0.0.0.0".to_owned(),
            (8, false) => {
                let number = u32::from_str_radix(address, 16).ok()?;
                std::net::Ipv4Addr::from(number.to_le_bytes()).to_string()
            }
            (_, true) => "::".to_owned(),
            (_, false) if address == "00000000000000000000000001000000" => "::1".to_owned(),
            (_, false) => address.to_owned(),
        };
        Some(PortInfo { port, address })
    };
    let mut found: Vec<PortInfo> = lines.iter().filter_map(read).collect();
    found.sort_by(|a, b| (a.port, &a.address).cmp(&(b.port, &b.address)));
    found.dedup();
    found
}

/// The version in what a program says of itself: the first word that has a digit and a dot.
fn tool(line: &str) -> Option<ToolVersion> {
    let (name, said) = line.split_once('\t')?;
    let word = said.split([' ', ',', '(', ')']).find(|word| {
        let word = word.trim_start_matches(['v', 'g', 'o']);
        word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.')
    })?;
    let version = word.trim_start_matches("go").trim_start_matches('v').to_owned();
    Some(ToolVersion { name: name.to_owned(), version })
}

fn text_of(out: &SystemInfoOutput) -> String {
    let mut lines = vec![
        format!(
            "{} on {} ({}), kernel {}, user {}",
            out.os, out.hostname, out.architecture, out.kernel, out.user
        ),
        format!(
            "CPUs {}, load {}, memory {} of {} MiB free, up {} s",
            out.cpus,
            out.load.join(" "),
            out.memory_available_mib,
            out.memory_total_mib,
            out.uptime_secs
        ),
    ];
    for disk in &out.disks {
        lines.push(format!("Disk {}: {} of {} MiB free", disk.mount, disk.free_mib, disk.total_mib));
    }
    let ports: Vec<String> = out.ports.iter().map(|port| format!("{}:{}", port.address, port.port)).collect();
    lines.push(format!(
        "Listening: {}",
        if ports.is_empty() { "nothing".to_owned() } else { ports.join(", ") }
    ));
    let tools: Vec<String> =
        out.toolchains.iter().map(|tool| format!("{} {}", tool.name, tool.version)).collect();
    lines.push(format!("Installed: {}", tools.join(", ")));
    lines.push(format!("Processes ({}), the largest:", out.process_count));
    for p in &out.processes {
        lines.push(format!(
            "{:>7} {:<8} {:>3}% {:>6} MiB {}",
            p.pid, p.user, p.cpu_percent, p.memory_mib, p.command
        ));
    }
    output::fit(&lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_become_facts() {
        let text = "@@os\nDebian GNU/Linux 12\n@@cpus\n8\n@@cpu_limit\n200000 100000\n@@memory\nMemTotal:       8388608 kB\n\
            MemAvailable:   4194304 kB\n@@memory_limit\n2147483648\n@@memory_used\n1073741824\n@@uptime\n90.5\n30\n\
            @@disks\noverlay 100 40 60 40% /\ntmpfs 1 0 1 0% /dev/shm\n@@processes\n 1 root 0.6 2048 /sbin/init -x\n\
            @@ports\n00000000:1388\n0100007F:0050\n@@tools\npython3\tPython 3.11.2\ngo\tgo version go1.22.1 linux/amd64\n";
        let out = read(text, 5);
        assert_eq!((out.cpus, out.memory_total_mib, out.memory_available_mib), (2, 2048, 1024));
        assert_eq!(out.uptime_secs, 30);
        assert_eq!(out.disks, [DiskInfo { mount: "/".into(), total_mib: 100, free_mib: 60 }]);
        assert_eq!(out.processes[0].command, "/sbin/init -x");
        assert_eq!(out.processes[0].cpu_percent, 1);
        assert_eq!(out.ports[0], PortInfo { port: 80, address: "127.0.0.1".into() });
        assert_eq!(out.ports[1], PortInfo { port: 5000, address: "0.0.0.0".into() });
        let versions: Vec<&str> = out.toolchains.iter().map(|tool| tool.version.as_str()).collect();
        assert_eq!(versions, ["3.11.2", "1.22.1"]);
    }

    #[test]
    fn a_limit_of_the_group_is_not_taken_for_more_than_there_is() {
        assert_eq!(cpus(2, "max 100000"), 2);
        assert_eq!(cpus(2, "800000 100000"), 2);
        assert_eq!(cpus(2, "-1 100000"), 2);
        assert_eq!(cpus(4, "50000 100000"), 1);
    }
}
