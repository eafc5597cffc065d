//! Giving up what the sandbox must not have: identity first, privileges last.
#![expect(
    unsafe_code,
    reason = "prctl, capset, setgroups and rlimits of the calling thread have no safe wrapper here"
)]

use std::io;

use pvm_e2b_wire::launch::LaunchLimits;

use super::{EnterError, seccomp};

/// Open files per process. As high as server software wants, low enough that a flood of one sandbox stays far
/// below the host's file table.
const OPEN_FILES: libc::rlim_t = 65_536;

/// Capabilities that processes of the sandbox can have at all, over its own ids and namespaces: a container
/// engine's default set without raw sockets and device nodes, with tracing of its own processes.
const KEPT_CAPABILITIES: [u32; 13] = [
    0,  // CHOWN
    1,  // DAC_OVERRIDE
    3,  // FOWNER
    4,  // FSETID
    5,  // KILL
    6,  // SETGID
    7,  // SETUID
    8,  // SETPCAP
    10, // NET_BIND_SERVICE
    18, // SYS_CHROOT
    19, // SYS_PTRACE
    29, // AUDIT_WRITE
    31, // SETFCAP
];
/// Highest number that is tried when dropping; the kernel says when there are no more.
const LAST_CAPABILITY: u32 = 63;
/// `_LINUX_CAPABILITY_VERSION_3`: two 32-bit words per set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

fn checked(step: &str, answer: libc::c_int) -> Result<(), EnterError> {
    if answer < 0 { Err(EnterError::new(step, io::Error::last_os_error())) } else { Ok(()) }
}

/// Becomes uid and gid 0 of the sandbox, sheds the server's groups and signal state, and starts a cgroup
/// namespace where the server has put this process by now.
///
/// With a single id the kernel lets nobody change groups, and the server's stay: they mean nothing inside.
pub(super) fn become_namespace_root(single_id: bool) -> Result<(), EnterError> {
    // SAFETY: all of these change only the state of this single-threaded process; the pointers are to locals.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        // The server started us with all signals blocked, so that none arrived in the shared address space.
        checked(
            "unblocking signals",
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()),
        )?;
        if !single_id {
            checked("dropping groups", libc::setgroups(0, std::ptr::null()))?;
        }
        checked("becoming group 0", libc::setresgid(0, 0, 0))?;
        checked("becoming user 0", libc::setresuid(0, 0, 0))?;
        // Going over the disk quota then fails a write instead of ending the writer, children included.
        if libc::signal(libc::SIGXFSZ, libc::SIG_IGN) == libc::SIG_ERR {
            return Err(EnterError::new("ignoring SIGXFSZ", io::Error::last_os_error()));
        }
        checked("starting a cgroup namespace", libc::unshare(libc::CLONE_NEWCGROUP))
    }
}

pub(super) fn set_hostname(name: &str) -> Result<(), EnterError> {
    rustix::system::sethostname(name.as_bytes())
        .map_err(|error| EnterError::new("setting the host name", error))
}

/// Limits that every process inherits; the totals are bounded by the control groups.
pub(super) fn set_limits(limits: &LaunchLimits, bound_processes: bool) -> Result<(), EnterError> {
    set_limit(libc::RLIMIT_NOFILE, OPEN_FILES)?;
    // A core file could fill the disk, and a host's core handler would run outside the sandbox.
    set_limit(libc::RLIMIT_CORE, 0)?;
    set_limit(libc::RLIMIT_FSIZE, limits.disk_mb.saturating_mul(1024 * 1024))?;
    // Given back to the default where the server's own environment was stricter.
    set_limit(libc::RLIMIT_NPROC, if bound_processes { limits.pids } else { libc::RLIM_INFINITY })
}

/// Sets soft and hard limit, within what the server itself was allowed.
fn set_limit(resource: libc::__rlimit_resource_t, value: libc::rlim_t) -> Result<(), EnterError> {
    // SAFETY: the pointers are to a local `rlimit` that outlives both calls.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        checked("reading a limit", libc::getrlimit(resource, &raw mut limit))?;
        let value = value.min(limit.rlim_max);
        limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        checked("setting a limit", libc::setrlimit(resource, &raw const limit))
    }
}

/// The last step. The order inside matters: the filter is installed while `CAP_SYS_ADMIN` is still held, because
/// the other way, `no_new_privs`, would break sudo for everything in the sandbox.
pub(super) fn give_up_privileges(single_id: bool) -> Result<(), EnterError> {
    // Kept from being raised again by dropping CAP_SYS_RESOURCE; the filter refuses nested ones as well.
    std::fs::write("/proc/sys/user/max_user_namespaces", "0").ok();
    drop_bounding_set()?;
    seccomp::install(single_id)?;
    set_capabilities()?;
    // Nothing in the sandbox may read the daemon's memory, descriptors or environment by way of /proc/1.
    // SAFETY: changes a flag of this process.
    unsafe { checked("hiding the daemon's memory", libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0)) }
}

fn drop_bounding_set() -> Result<(), EnterError> {
    for capability in 0..=LAST_CAPABILITY {
        if KEPT_CAPABILITIES.contains(&capability) {
            continue;
        }
        // SAFETY: changes only this thread's bounding set.
        let answer = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
        if answer < 0 {
            let error = io::Error::last_os_error();
            // EINVAL: the kernel knows no capability of this number, nor any above.
            if error.raw_os_error() == Some(libc::EINVAL) {
                return Ok(());
            }
            return Err(EnterError::new("dropping capabilities", error));
        }
    }
    Ok(())
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn set_capabilities() -> Result<(), EnterError> {
    let kept = KEPT_CAPABILITIES.iter().fold(0_u64, |set, capability| set | (1 << capability));
    let word = |bits: u64| CapabilityWord { effective: bits as u32, permitted: bits as u32, inheritable: 0 };
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let words = [word(kept & 0xffff_ffff), word(kept >> 32)];
    // SAFETY: both pointers are to locals in the kernel's layout for version 3 (two words), alive during the call.
    let answer = unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) };
    checked("setting capabilities", answer as libc::c_int)
}
