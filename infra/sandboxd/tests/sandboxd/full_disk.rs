//! A machine whose disk fills up while no server is there to bound its sandboxes.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::killed::{Program, WITH_THIS_TEST, end};
use crate::lab::{Lab, eventually, folder};
use crate::leftovers::is_running;

/// A small disk, mounted in a mount namespace of its own for as long as this lives.
struct SmallDisk {
    holder: Child,
    place: PathBuf,
}

impl SmallDisk {
    fn make(folder: &Path, mebibytes: u64) -> Self {
        let (image, place) = (folder.join("image"), folder.join("disk"));
        std::fs::create_dir(&place).unwrap();
        std::fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image).status().unwrap();
        assert!(made.success(), "mkfs.ext4 failed");
        let script = "mount -o loop \"$1\" \"$2\" && echo mounted && exec sleep 600";
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .args(WITH_THIS_TEST)
            .args(["sh", "-c", script, "sh"])
            .args([&image, &place])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n", "this test needs a loop device");
        Self { holder, place }
    }

    /// Starts the program with its state on the disk.
    fn start(&self) -> Program {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.holder.id());
        let before = ["nsenter", namespace.as_str()];
        Program::start_as(&[before.as_slice(), &WITH_THIS_TEST].concat(), &self.place.join("state"), |_| {})
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "heavy: fills a disk of its own, needs a loop device"]
async fn without_a_server_the_daemon_itself_ends_whoever_fills_the_machines_disk() {
    let folder = folder().await;
    let disk = SmallDisk::make(folder.path(), 700);
    let mut program = disk.start();
    let lab = Lab::at(program.address);
    let sandbox = lab.create().await;
    let bystander = format!("sleep 62{}", std::process::id());
    let kept = lab.spawn(&sandbox, "user", &format!("exec {bystander}")).await;
    // Slow enough that the disk is not full between two looks, and late enough that no server is there any more.
    let fill = "sleep 5; i=0; while :; do i=$((i+1)); dd if=/dev/zero of=/tmp/f$i bs=1M count=8 status=none || exit 3; sleep 0.1; done";
    let writer = format!("{fill} # {}", std::process::id());
    let pid = lab.spawn(&sandbox, "user", &writer).await;
    program.kill();
    let shell = || any_command_line_has(&writer);
    assert!(shell());
    eventually("the writer is ended", async || !shell()).await;
    assert!(is_running(&bystander), "who writes nothing goes on");

    let program = disk.start();
    let lab = Lab::at(program.address);
    let output = lab.connect_process(&sandbox, pid).await;
    assert_eq!(output.exit, Some(-1), "it was ended by a signal, not by a full disk: {output:?}");
    let free: u64 = lab.sh(&sandbox, "df --output=avail -B1M / | tail -1").await.ok().trim().parse().unwrap();
    assert!((1..256).contains(&free), "{free} MiB are free");
    lab.sh(&sandbox, &format!("rm -f /tmp/f*; kill -0 {kept} && echo alive")).await.ok();
    lab.kill(&sandbox).await;
    end(program);
}

fn any_command_line_has(text: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        std::fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(text))
    })
}
