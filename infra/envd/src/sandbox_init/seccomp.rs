//! The system call filter: a deny list like a container engine's, written as classic BPF.
//!
//! The kernel remembers which calls a filter always allows, so the list costs ordinary programs nothing.
#![expect(unsafe_code, reason = "the seccomp system call has no safe wrapper")]

use std::io;

use super::EnterError;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64

/// Offsets in `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
/// Low half of the first argument (both supported machines are little endian).
const OFFSET_FIRST_ARGUMENT: u32 = 16;

#[cfg(target_arch = "x86_64")]
const OFFSET_SECOND_ARGUMENT: u32 = 24;
const OFFSET_THIRD_ARGUMENT: u32 = 32;

/// Calls from x86-64's other ABI (x32) have this bit set in their number.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;

/// `CLONE_NEW*` except time: namespaces nobody may make inside.
const NAMESPACE_FLAGS: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET)
    .cast_unsigned();

/// Socket families that work; the kernel would load a module for many others, and some (vsock) know no
/// namespaces.
const SOCKET_FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Execution domains that may be set: Linux as it is or with the version number of old (`UNAME26`, 0x20000), for
/// programs of 32 bits (8) or not. The last one asks which is set. All others switch protections off, such as the random
/// layout of memory.
const PERSONALITIES: [libc::c_int; 5] = [0, 8, 0x0002_0000, 0x0002_0008, -1];

/// Refused with EPERM. Grouped by what they would touch.
const DENIED: &[libc::c_long] = &[
    // Kernel keyrings know no user namespaces of this depth.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    // Large kernel surfaces that had many escapes.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    // Reaches files past every mount.
    libc::SYS_open_by_handle_at,
    // Tells where the kernel keeps its objects.
    libc::SYS_kcmp,
    // Which of the host's memory banks pages are on. Looking (get_mempolicy) is harmless, and libraries do it.
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    libc::SYS_set_mempolicy_home_node,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // The mount tree and namespaces belong to the daemon's set-up.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // The machine as a whole.
    libc::SYS_acct,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_settimeofday,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
];

/// Refused as well; these exist on x86-64 alone.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[libc::c_long] = &[
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
    libc::SYS_kexec_file_load,
];
#[cfg(target_arch = "aarch64")]
const DENIED_HERE: &[libc::c_long] = &[];

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

const fn refuse(errno: libc::c_int) -> u32 {
    libc::SECCOMP_RET_ERRNO | (errno as u32 & libc::SECCOMP_RET_DATA)
}

/// A filter under construction. Every rule is a test followed by its own return, so that no jump has to be
/// computed over the whole program.
#[derive(Debug, Default)]
struct Program(Vec<libc::sock_filter>);

impl Program {
    fn push(&mut self, code: u32, if_true: u8, if_false: u8, value: u32) {
        self.0.push(libc::sock_filter { code: code as u16, jt: if_true, jf: if_false, k: value });
    }

    fn load(&mut self, offset: u32) {
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    }

    fn answer(&mut self, action: u32) {
        self.push(libc::BPF_RET | libc::BPF_K, 0, 0, action);
    }

    /// Skips the next `skip` instructions unless the loaded value is `value`.
    fn unless_equal_skip(&mut self, value: u32, skip: u8) {
        self.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, value);
    }

    /// Answers `action` when the call's number is `number`.
    fn when_number(&mut self, number: libc::c_long, action: u32) {
        self.unless_equal_skip(number as u32, 1);
        self.answer(action);
    }

    /// Refuses the call `number` when any of `flags` is set in its first argument, and allows it otherwise.
    fn when_flags(&mut self, number: libc::c_long, flags: u32) {
        self.unless_equal_skip(number as u32, 4);
        self.load(OFFSET_FIRST_ARGUMENT);
        self.push(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, flags);
        self.answer(refuse(libc::EPERM));
        self.answer(ALLOW);
    }

    /// Answers the call `number` with success, undone, when the mode at `offset` is a device's; pipes and sockets are
    /// made.
    fn pretend_device(&mut self, number: libc::c_long, offset: u32) {
        self.unless_equal_skip(number as u32, 7);
        self.load(offset);
        self.push(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, libc::S_IFMT);
        self.unless_equal_skip(libc::S_IFCHR, 1);
        self.answer(refuse(0));
        self.unless_equal_skip(libc::S_IFBLK, 1);
        self.answer(refuse(0));
        self.answer(ALLOW);
    }

    /// Allows the call `number` only with one of `values` as its first argument.
    fn only_with(&mut self, number: libc::c_long, values: &[libc::c_int], otherwise: u32) {
        self.unless_equal_skip(number as u32, (2 * values.len() + 2) as u8);
        self.load(OFFSET_FIRST_ARGUMENT);
        for value in values {
            self.unless_equal_skip(value.cast_unsigned(), 1);
            self.answer(ALLOW);
        }
        self.answer(otherwise);
    }
}

/// Answered with success and not done where there is a single id: package tools give files to users that cannot be.
const PRETENDED: &[libc::c_long] = &[
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
];
#[cfg(target_arch = "x86_64")]
const PRETENDED_HERE: &[libc::c_long] = &[libc::SYS_chown, libc::SYS_lchown];
#[cfg(target_arch = "aarch64")]
const PRETENDED_HERE: &[libc::c_long] = &[];

fn program(single_id: bool) -> Vec<libc::sock_filter> {
    let mut program = Program::default();
    program.load(OFFSET_ARCHITECTURE);
    // 32-bit programs would come in by other numbers; they do not run here.
    program.push(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, ARCHITECTURE);
    program.answer(refuse(libc::ENOSYS));
    program.load(OFFSET_NUMBER);
    #[cfg(target_arch = "x86_64")]
    {
        program.push(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32_BIT);
        program.answer(refuse(libc::ENOSYS));
    }
    // Its flags stand in memory where no filter can read them; ENOSYS makes libraries fall back to clone.
    program.when_number(libc::SYS_clone3, refuse(libc::ENOSYS));
    program.when_flags(libc::SYS_clone, NAMESPACE_FLAGS);
    program.when_flags(libc::SYS_unshare, NAMESPACE_FLAGS);
    program.only_with(libc::SYS_socket, &SOCKET_FAMILIES, refuse(libc::EAFNOSUPPORT));
    program.only_with(libc::SYS_personality, &PERSONALITIES, refuse(libc::EPERM));
    for number in DENIED.iter().chain(DENIED_HERE) {
        program.when_number(*number, refuse(libc::EPERM));
    }
    if single_id {
        for number in PRETENDED.iter().chain(PRETENDED_HERE) {
            program.when_number(*number, refuse(0));
        }
        program.pretend_device(libc::SYS_mknodat, OFFSET_THIRD_ARGUMENT);
        #[cfg(target_arch = "x86_64")]
        program.pretend_device(libc::SYS_mknod, OFFSET_SECOND_ARGUMENT);
    }
    program.answer(ALLOW);
    program.0
}

/// Installs the filter for this process and all that come after it. Needs `CAP_SYS_ADMIN` in the user namespace.
pub(super) fn install(single_id: bool) -> Result<(), EnterError> {
    let mut filter = program(single_id);
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program points to a vector that outlives the call and has the length given.
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_usize, &raw const program)
    };
    if answer != 0 {
        return Err(EnterError::new("installing the system call filter", io::Error::last_os_error()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel would.
    fn verdict(number: libc::c_long, first_argument: u32, architecture: u32) -> u32 {
        run(&program(false), number, first_argument, architecture)
    }

    /// The same for any filter; every argument has the same value.
    fn run(filter: &[libc::sock_filter], number: libc::c_long, argument: u32, architecture: u32) -> u32 {
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let step = filter[at];
            at += 1;
            let code = u32::from(step.code);
            if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS {
                accumulator = match step.k {
                    OFFSET_NUMBER => number as u32,
                    OFFSET_ARCHITECTURE => architecture,
                    _ => argument,
                };
            } else if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K {
                accumulator &= step.k;
            } else if code == libc::BPF_RET | libc::BPF_K {
                return step.k;
            } else {
                let holds = if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K {
                    accumulator == step.k
                } else if code == libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K {
                    accumulator & step.k != 0
                } else {
                    accumulator >= step.k
                };
                at += usize::from(if holds { step.jt } else { step.jf });
            }
        }
    }

    fn here(number: libc::c_long, first_argument: u32) -> u32 {
        verdict(number, first_argument, ARCHITECTURE)
    }

    #[test]
    fn ordinary_calls_are_allowed() {
        for number in [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_futex]
        {
            assert_eq!(here(number, 0), ALLOW);
        }
        assert_eq!(here(libc::SYS_clone, libc::SIGCHLD.cast_unsigned()), ALLOW);
    }

    #[test]
    fn every_listed_call_is_refused() {
        for number in DENIED.iter().chain(DENIED_HERE) {
            assert_eq!(here(*number, 0), refuse(libc::EPERM), "{number}");
        }
    }

    #[test]
    fn nested_namespaces_are_refused_by_any_way() {
        assert_eq!(here(libc::SYS_clone, libc::CLONE_NEWUSER.cast_unsigned()), refuse(libc::EPERM));
        assert_eq!(here(libc::SYS_unshare, libc::CLONE_NEWNS.cast_unsigned()), refuse(libc::EPERM));
        assert_eq!(here(libc::SYS_clone3, 0), refuse(libc::ENOSYS));
    }

    #[test]
    fn only_known_socket_families_work() {
        assert_eq!(here(libc::SYS_socket, libc::AF_INET.cast_unsigned()), ALLOW);
        assert_eq!(here(libc::SYS_socket, libc::AF_VSOCK.cast_unsigned()), refuse(libc::EAFNOSUPPORT));
        assert_eq!(here(libc::SYS_socket, libc::AF_ALG.cast_unsigned()), refuse(libc::EAFNOSUPPORT));
    }

    #[test]
    fn protections_cannot_be_switched_off() {
        for personality in [0, 8, 0x0002_0000, 0x0002_0008, u32::MAX] {
            assert_eq!(here(libc::SYS_personality, personality), ALLOW, "{personality:#x}");
        }
        // ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, MMAP_PAGE_ZERO.
        for flag in [0x0004_0000, 0x0040_0000, 0x0010_0000] {
            assert_eq!(here(libc::SYS_personality, flag), refuse(libc::EPERM), "{flag:#x}");
        }
    }

    #[test]
    fn with_a_single_id_changes_of_owner_succeed_without_being_done() {
        let filter = program(true);
        let verdict = |number, argument| run(&filter, number, argument, ARCHITECTURE);
        for number in PRETENDED.iter().chain(PRETENDED_HERE) {
            assert_eq!(verdict(*number, 5), refuse(0), "{number}");
        }
        assert_eq!(verdict(libc::SYS_mknodat, libc::S_IFBLK | 0o600), refuse(0));
        assert_eq!(verdict(libc::SYS_mknodat, libc::S_IFIFO | 0o600), ALLOW);
        assert_eq!(verdict(libc::SYS_bpf, 0), refuse(libc::EPERM));
        assert_eq!(verdict(libc::SYS_read, 0), ALLOW);
        assert_eq!(here(libc::SYS_fchown, 5), ALLOW, "with many ids they are done");
    }

    #[test]
    fn other_architectures_are_refused() {
        assert_eq!(verdict(libc::SYS_read, 0, 0x4000_0003), refuse(libc::ENOSYS));
    }
}
