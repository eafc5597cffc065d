//! Scans of the workspace: the same by envd and by script.

use std::time::Duration;

use pvm_application::ports::{EntryKind, RunCommands as _, RunSpec, VmFiles as _};

use crate::bench::with_bench;
use crate::runs::spec;

const WAIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_see_the_same_entries_with_the_same_hashes() {
    with_bench(|bench| async move {
        let vm = bench.vm("p1").await;
        let make = "mkdir -p /workspace && chown user /workspace && cd /workspace && mkdir -p a/b node_modules/x build src/build 'sp ace'
            echo one > a/b/one; echo two > 'sp ace/zw ei'; printf '' > empty; ln -s a/b/one link; echo x > node_modules/x/y
            echo o > build/out; echo o > src/build/out; echo l > note.log; echo k > keep.log; mkfifo pipe; chmod 750 a/b/one
            printf 'build/\\n*.log\\n!keep.log\\n' > .pvmignore; printf '!build/\\n' > src/.pvmignore; echo n > 'new
line'";
        let make = RunSpec { user: "root".to_owned(), ..spec("cmd_make", make) };
        let made = bench.client.start_run(&vm, &make, WAIT).await.unwrap();
        assert_eq!(made.exit_code, Some(0), "{made:?}");
        let by_envd = bench.client.scan_workspace(&vm).await.unwrap();
        let by_script = bench.scripted.scan_workspace(&vm).await.unwrap();
        assert_eq!(by_envd, by_script);
        let paths: Vec<_> = by_envd.iter().map(|entry| entry.path.as_str()).collect();
        let wanted = [
            ".pvmignore", "a", "a/b", "a/b/one", "empty", "keep.log", "link", "new\nline", "sp ace", "sp ace/zw ei", "src",
            "src/.pvmignore", "src/build", "src/build/out",
        ];
        assert_eq!(paths, wanted);
        let one = &by_envd[3];
        assert_eq!((one.kind, one.size, one.mode), (EntryKind::File, 4, 0o750));
        assert_eq!(one.sha256.as_deref(), Some("2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806"));
        // Known hashes are used, changed files are seen.
        let change = RunSpec { user: "root".to_owned(), ..spec("cmd_change", "printf 'ONE\\n' > /workspace/a/b/one") };
        bench.client.start_run(&vm, &change, WAIT).await.unwrap();
        let (envd, script) = (bench.client.scan_workspace(&vm).await.unwrap(), bench.scripted.scan_workspace(&vm).await.unwrap());
        assert_eq!(envd, script);
        assert_ne!(envd[3].sha256, by_envd[3].sha256);
    })
    .await;
}
