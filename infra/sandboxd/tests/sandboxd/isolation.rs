//! Trying to get out: each test asserts that the attempt failed and that nothing outside noticed.

use serde_json::json;

use crate::lab::{Lab, echo_server};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_host_is_visible() {
    let lab = Lab::start().await;
    let secret = lab.state().join("host-secret");
    std::fs::write(&secret, "secret").unwrap();
    let sandbox = lab.create().await;
    let script = format!(
        "ls {0} 2>&1 | grep -c 'No such file'; ls -A /home; ls /root/.cargo /root/.ssh 2>/dev/null | wc -l; \
         grep -c secret {0} /proc/1/root{0} /proc/self/root{0} 2>/dev/null | wc -l",
        secret.display()
    );
    let seen = lab.sh_as(&sandbox, "root", &script).await;
    assert_eq!(seen.stdout, "1\nuser\n0\n0\n", "{}", seen.stderr);
    let shadow = lab.sh_as(&sandbox, "root", "cut -d: -f2 /etc/shadow | grep -c '[$]'").await;
    assert_eq!(shadow.stdout, "0\n");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_the_host_cannot_be_seen_or_signalled() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let ours = std::process::id();
    let seen = lab.sh_as(&sandbox, "root", &format!("cat /proc/1/comm; ls -d /proc/{ours} 2>/dev/null; kill -9 {ours} 2>/dev/null; kill -9 -1 2>/dev/null; true")).await;
    assert!(!seen.stdout.contains(&ours.to_string()));
    // The kill of everything reached the sandbox's own processes at most.
    assert_eq!(lab.sh(&sandbox, "echo alive").await.ok(), "alive");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_cannot_be_read_or_replaced_from_inside() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    let script = "for f in environ mem maps fd root cwd exe; do (cat /proc/1/$f || ls /proc/1/$f/) >/dev/null 2>&1 && echo open $f; done; \
                  (echo x > /proc/1/exe) 2>/dev/null && echo written; kill -9 1; kill -STOP 1; sleep 0.1; echo done";
    let seen = lab.sh(&sandbox, script).await;
    assert_eq!(seen.stdout, "done\n");
    let seen = lab.sh_as(&sandbox, "root", "kill -9 1; echo still here").await;
    assert_eq!(seen.stdout, "still here\n");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_way_out_leads_to_a_network() {
    let lab = Lab::start().await;
    let server = echo_server().await;
    let sandbox = lab.create().await;
    let script = format!(
        "exec 2>/dev/null; \
         curl -s -m 3 --noproxy '*' http://{server}/ && echo host-loopback; \
         curl -s -m 3 --noproxy '*' http://169.254.169.254/ && echo metadata; \
         curl -s -m 3 --noproxy '*' http://1.1.1.1/ && echo direct; \
         curl -s -m 3 -o /dev/null -w '%{{http_code}}\\n' -x http://127.0.0.1:3128 --noproxy '' http://{server}/; \
         curl -s -m 3 -o /dev/null -w '%{{http_code}}\\n' --noproxy '' http://169.254.169.254/latest/meta-data/; \
         curl -s -m 3 -o /dev/null -w '%{{http_code}}\\n' --noproxy '' http://[::ffff:127.0.0.1]:{port}/; \
         curl -s -m 3 -o /dev/null -w '%{{http_code}}\\n' --noproxy '' http://0x7f000001:{port}/; \
         ls /sys/class/net",
        port = server.port()
    );
    let seen = lab.sh(&sandbox, &script).await;
    let lines: Vec<_> = seen.stdout.lines().collect();
    assert_eq!(lines[0], "403", "{seen:?}");
    assert_eq!(lines[1..3], ["403", "403"], "{seen:?}");
    assert!(lines[3] == "403" || lines[3] == "502", "{seen:?}");
    assert_eq!(lines[4..], ["lo"], "{seen:?}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_do_not_see_each_other() {
    let lab = Lab::start().await;
    let (one, other) = (lab.create().await, lab.create().await);
    lab.sh(&one, "echo private > /tmp/mine; cd /tmp && (python3 -m http.server 7777 --bind 127.0.0.1 >/dev/null 2>&1 &)").await.ok();
    let seen = lab.sh_as(&other, "root", "ls /tmp/mine 2>/dev/null; curl -s -m 2 --noproxy '*' http://127.0.0.1:7777/mine; ipcs -m | grep -c 0x").await;
    assert_eq!(seen.stdout, "0\n", "{seen:?}");
    // Their ids on the host differ as well.
    let map = "cut -d' ' -f1-20 /proc/self/uid_map | tr -s ' '";
    assert_ne!(lab.sh(&one, map).await.stdout, lab.sh(&other, map).await.stdout);
    // One's token opens nothing of the other.
    let mut mixed = other.clone();
    mixed.envd_access_token = one.envd_access_token.clone();
    let answer = lab.envd(&mixed, http::Method::GET, "/envs", "").await;
    assert_eq!(answer.status, 401);
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_calls_are_refused_to_root_inside() {
    let lab = Lab::start().await;
    let sandbox = lab.create().await;
    // Number and arguments of calls, and the error each must give; ENOSYS for what libraries fall back from.
    let script = r"
import ctypes, errno, os, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
calls = {'unshare newuser': (272, 0x10000000), 'unshare newns': (272, 0x20000), 'mount': (165, 0, 0, 0, 0, 0), 'umount2': (166, b'/proc', 2),
  'pivot_root': (155, b'.', b'.'), 'setns': (308, 0, 0), 'bpf': (321, 0, 0, 0), 'perf_event_open': (298, 0, 0, 0, 0, 0),
  'io_uring_setup': (425, 1, 0), 'userfaultfd': (323, 0), 'keyctl': (250, 0, 0), 'add_key': (248, 0, 0, 0, 0, 0), 'request_key': (249, 0, 0, 0, 0),
  'open_by_handle_at': (304, 0, 0, 0), 'init_module': (175, 0, 0, 0), 'finit_module': (313, 0, 0, 0), 'kexec_load': (246, 0, 0, 0, 0), 'reboot': (169, 0, 0, 0, 0),
  'swapon': (167, 0, 0), 'settimeofday': (164, 0, 0), 'fsopen': (430, 0, 0), 'open_tree': (428, 0, 0, 0), 'mount_setattr': (442, 0, 0, 0, 0, 0),
  'iopl': (172, 3), 'syslog': (103, 2, 0, 0), 'clone newuser': (56, 0x10000011, 0, 0, 0, 0),
  'kcmp': (312, 1, 1, 0, 0, 0), 'mbind': (237, 0, 0, 0, 0, 0, 0), 'set_mempolicy': (238, 0, 0, 0), 'move_pages': (279, 0, 0, 0, 0, 0, 0),
  'migrate_pages': (256, 0, 0, 0, 0), 'personality': (135, 0x40000)}
for name, call in calls.items():
    ctypes.set_errno(0)
    answer = libc.syscall(*call)
    if answer != -1 or ctypes.get_errno() != errno.EPERM: print(name, answer, errno.errorcode.get(ctypes.get_errno()))
ctypes.set_errno(0); libc.syscall(435, 0, 0)
if ctypes.get_errno() != errno.ENOSYS: print('clone3', ctypes.get_errno())
for family in (socket.AF_VSOCK, 38, socket.AF_PACKET):
    try: socket.socket(family, socket.SOCK_STREAM); print('socket', family)
    except OSError: pass
for path in ('/dev/mem', '/dev/kmsg', '/dev/vda', '/dev/kvm', '/dev/fuse', '/dev/net/tun'):
    if os.path.exists(path): print('device', path)
for path in ('/proc/sysrq-trigger', '/proc/sys/kernel/panic', '/proc/sys/kernel/core_pattern', '/sys/kernel/uevent_helper', '/proc/sys/user/max_user_namespaces'):
    try: open(path, 'w').write('1'); print('written', path)
    except OSError: pass
try: os.mknod('/tmp/disk', 0o60600, os.makedev(8, 0)); print('mknod')
except OSError: pass
print('checked')
";
    std::fs::write(lab.state().join("probe.py"), script).unwrap();
    let mut request =
        Lab::request(&sandbox, 49983, http::Method::POST, "/files?path=/tmp/probe.py&username=root", script);
    request.headers_mut().insert("content-type", "application/octet-stream".parse().unwrap());
    assert_eq!(lab.send(request).await.status, 200);
    let seen = lab.sh_as(&sandbox, "root", "/usr/bin/python3 /tmp/probe.py").await;
    assert_eq!(seen.stdout, "checked\n", "{seen:?}");
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_template_cannot_be_changed() {
    let lab = Lab::start().await;
    let (one, other) = (lab.create().await, lab.create().await);
    lab.sh_as(
        &one,
        "root",
        "rm -f /usr/bin/env; echo x > /etc/marker; mv /usr/share/doc /usr/share/doc2 2>/dev/null; true",
    )
    .await
    .ok();
    assert!(std::path::Path::new("/usr/bin/env").exists());
    assert_eq!(
        lab.sh(&other, "ls /usr/bin/env; ls /etc/marker 2>/dev/null; true").await.ok(),
        "/usr/bin/env"
    );
    lab.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_without_internet_reaches_nothing() {
    let lab = Lab::with(Lab::open_loopback).await;
    let server = echo_server().await;
    let sandbox = lab.create_with(json!({"allow_internet_access": false})).await;
    let seen = lab.sh(&sandbox, &format!("curl -s -o /dev/null -w '%{{http_code}}' -x http://127.0.0.1:3128 --noproxy '' http://{server}/")).await;
    assert_eq!(seen.stdout, "403");
    lab.finish().await;
}
