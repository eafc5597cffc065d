//! Starts an empty shell of a sandbox: a process in new namespaces that runs envd and waits to be told what to
//! become.
#![expect(
    unsafe_code,
    reason = "a process is started in new namespaces, which the standard library cannot do"
)]

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Namespaces of a sandbox. The cgroup namespace is missing: envd makes it once the server has put it into its
/// group, so that the group is the namespace's root.
const NAMESPACES: c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET;

/// Stack of the child until it executes envd; what it does there needs far less.
const STACK_BYTES: usize = 64 * 1024;
/// Descriptor at which envd finds its configuration socket.
const CONFIG_FD: RawFd = 3;
/// Lowest number of the descriptors that the child arranges, above every number it arranges them at.
const FIRST_FREE_FD: RawFd = 16;
/// Highest capability number that is tried; the kernel refuses the ones it does not know.
const LAST_CAPABILITY: libc::c_ulong = 63;
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// A sandbox's process before it has become one.
#[derive(Debug)]
pub(crate) struct Shell {
    /// Its process id in the server's namespace.
    pub(crate) pid: u32,
    /// The same as a descriptor, which no reuse of ids can redirect.
    pub(crate) pidfd: OwnedFd,
    /// Where envd waits for the launch message. Closing it ends the process.
    pub(crate) socket: UnixStream,
}

/// Makes shells. Belongs to one thread, which is stopped while a child has not executed envd yet: both share
/// their memory until then, so that starting costs the same however large the server is.
#[derive(Debug)]
pub(crate) struct Cloner {
    image: OwnedFd,
    null: OwnedFd,
    log: OwnedFd,
    stack: Vec<u8>,
}

/// What the child reads and writes; it lives in the parent's frame, which waits.
struct Order {
    image: RawFd,
    null: RawFd,
    log: RawFd,
    socket: RawFd,
    arguments: [*const libc::c_char; 5],
    environment: [*const libc::c_char; 2],
    /// Set by the child when it could not execute envd.
    error: c_int,
}

const ARGUMENTS: [&CStr; 4] = [c"envd", c"--init", c"--config-fd", c"3"];
const ENVIRONMENT: [&CStr; 1] = [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];

impl Cloner {
    /// `image` is the sealed envd, `log` receives its standard error.
    pub(crate) fn new(image: &OwnedFd, log: Option<&OwnedFd>) -> io::Result<Self> {
        let null = rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        // Above the numbers that the child writes to, so that no move overwrites a source.
        let high = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, FIRST_FREE_FD);
        Ok(Self {
            image: high(image)?,
            log: high(log.unwrap_or(&null))?,
            null: high(&null)?,
            stack: vec![0; STACK_BYTES],
        })
    }

    /// Starts one shell.
    pub(crate) fn spawn(&mut self) -> io::Result<Shell> {
        let (ours, theirs) = UnixStream::pair()?;
        let theirs = rustix::io::fcntl_dupfd_cloexec(&theirs, FIRST_FREE_FD)?;
        let mut order = Order {
            image: self.image.as_raw_fd(),
            null: self.null.as_raw_fd(),
            log: self.log.as_raw_fd(),
            socket: theirs.as_raw_fd(),
            arguments: [std::ptr::null(); 5],
            environment: [std::ptr::null(); 2],
            error: 0,
        };
        for (slot, text) in order.arguments.iter_mut().zip(ARGUMENTS) {
            *slot = text.as_ptr();
        }
        for (slot, text) in order.environment.iter_mut().zip(ENVIRONMENT) {
            *slot = text.as_ptr();
        }
        let mut pidfd: c_int = -1;
        // No exit signal: a host program's own SIGCHLD handling never sees sandboxes.
        let flags = NAMESPACES | libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;
        // SAFETY: the stack is ours alone and large enough, its top aligned; `order` and `pidfd` outlive the
        // call because CLONE_VFORK suspends this thread until the child has executed envd or exited. The child
        // runs `become_envd` only, which makes system calls and touches nothing but `order`. Signals are
        // blocked in this thread (see `spawner`), so no handler runs in the shared memory.
        let pid = unsafe {
            let top = self.stack.as_mut_ptr().add(STACK_BYTES);
            let top = top.sub(top as usize % 16);
            libc::clone(
                become_envd,
                top.cast::<c_void>(),
                flags,
                (&raw mut order).cast::<c_void>(),
                &raw mut pidfd,
            )
        };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel stored a fresh descriptor here, owned by nobody else.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        // SAFETY: plain read of a field the child wrote before it exited, in this very memory; volatile, since
        // the compiler cannot see that write.
        let error = unsafe { std::ptr::read_volatile(&raw const order.error) };
        if error != 0 {
            super::process::reap(&pidfd);
            return Err(io::Error::from_raw_os_error(error));
        }
        Ok(Shell { pid: pid.cast_unsigned(), pidfd, socket: ours })
    }
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Runs in the child, in the parent's memory, until envd replaces it: system calls only.
extern "C" fn become_envd(order: *mut c_void) -> c_int {
    let order = order.cast::<Order>();
    // SAFETY: `order` points to the suspended parent's local. Everything called is a plain system call wrapper.
    unsafe {
        // Out of the server's session: a Ctrl-C at its terminal is not for the sandboxes.
        libc::setsid();
        // The id map is written only after this process has executed envd, because the writer is suspended till
        // then. Executing a file as an unmapped user would lose all capabilities; ambient ones stay.
        let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
        let all = || CapabilityWord { effective: u32::MAX, permitted: u32::MAX, inheritable: u32::MAX };
        let mut words = [all(), all()];
        libc::syscall(libc::SYS_capget, &raw const header, words.as_mut_ptr());
        for word in &mut words {
            word.inheritable = word.permitted;
        }
        libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr());
        for capability in 0..=LAST_CAPABILITY {
            if libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) < 0 {
                break;
            }
        }
        libc::dup2((*order).null, 0);
        libc::dup2((*order).null, 1);
        libc::dup2((*order).log, 2);
        libc::dup2((*order).socket, CONFIG_FD);
        // Whatever a library of the host program left open without close-on-exec stays outside.
        libc::syscall(libc::SYS_close_range, CONFIG_FD + 1, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        libc::syscall(
            libc::SYS_execveat,
            (*order).image,
            c"".as_ptr(),
            (*order).arguments.as_ptr(),
            (*order).environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        (*order).error = *libc::__errno_location();
        libc::_exit(127)
    }
}
