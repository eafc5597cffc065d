use jiff::Timestamp;
use pvm_domain::file::{LinkCopy, VmCopy};
use pvm_domain::ids::{FileId, PrefixedId, ProjectId};

use super::*;

const VM: &str = "vm1";

fn file(path: &str, sha256: &str, base: Option<&str>) -> ProjectFile {
    let now = Timestamp::UNIX_EPOCH;
    let place = path.bytes().fold(0u128, |sum, byte| sum * 31 + u128::from(byte));
    ProjectFile {
        project_id: ProjectId::from_parts(1, 1),
        file_id: FileId::from_parts(1, place),
        path: WorkspacePath::parse("path", path).unwrap(),
        size: 1,
        sha256: Some(sha256.to_owned()),
        mode: 0o644,
        object_version: 1,
        restored_from: None,
        uploads: Vec::new(),
        sync_status: SyncStatus::Synced,
        sync_error: None,
        vm_copy: base.map(|base| VmCopy { vm_id: VM.to_owned(), sha256: base.to_owned(), mode: Some(0o644) }),
        created_at: now,
        updated_at: now,
        owner: None,
        counted: pvm_domain::fair_use::Counted::default(),
        version: 1,
    }
}

fn entry(path: &str, kind: EntryKind, sha256: Option<&str>, mode: u32) -> VmEntry {
    VmEntry {
        path: path.to_owned(),
        name: String::new(),
        kind,
        size: 1,
        mode,
        owner: String::new(),
        group: String::new(),
        modified_ns: 0,
        sha256: sha256.map(str::to_owned),
        symlink_target: (kind == EntryKind::Symlink).then(|| "there".to_owned()),
    }
}

fn planned(files: Vec<ProjectFile>, entries: Vec<VmEntry>) -> Plan {
    plan(files, Vec::new(), Seen::of(entries), VM)
}

#[test]
fn a_file_that_moved_keeps_its_record() {
    let files = vec![file("a", "1", Some("1")), file("b", "2", Some("2"))];
    let entries = vec![
        entry("sub/a", EntryKind::File, Some("1"), 0o644),
        entry("new", EntryKind::File, Some("3"), 0o644),
    ];
    let plan = planned(files, entries);
    let moved = plan.from_vm.iter().find_map(|work| match work {
        FromVm::Moved { file, to, .. } => Some((file.path.as_str(), to.as_str())),
        _ => None,
    });
    assert_eq!(moved, Some(("a", "sub/a")));
    assert!(
        plan.from_vm.iter().any(|work| matches!(work, FromVm::New { path, .. } if path.as_str() == "new"))
    );
    assert!(
        plan.from_vm.iter().any(|work| matches!(work, FromVm::Gone { file } if file.path.as_str() == "b"))
    );
    assert_eq!(plan.from_vm.len(), 3);
}

#[test]
fn of_equal_files_the_one_of_the_same_name_moved() {
    let files = vec![file("x/one", "1", Some("1")), file("x/two", "1", Some("1"))];
    let entries = vec![
        entry("y/two", EntryKind::File, Some("1"), 0o644),
        entry("y/one", EntryKind::File, Some("1"), 0o644),
    ];
    for work in planned(files, entries).from_vm {
        let FromVm::Moved { file, to, .. } = work else { panic!("{work:?}") };
        assert_eq!(file.path.as_str().rsplit('/').next(), to.as_str().rsplit('/').next());
    }
}

#[test]
fn permission_bits_follow_whoever_changed_them() {
    let by_vm = planned(vec![file("a", "1", Some("1"))], vec![entry("a", EntryKind::File, Some("1"), 0o755)]);
    assert!(matches!(by_vm.from_vm[..], [FromVm::Mode { mode: 0o755, .. }]));
    let mut changed = file("a", "1", Some("1"));
    changed.mode = 0o600;
    let by_store = planned(vec![changed], vec![entry("a", EntryKind::File, Some("1"), 0o644)]);
    assert!(matches!(by_store.to_vm[..], [ToVm::Mode(_)]) && by_store.from_vm.is_empty());
    let equal =
        planned(vec![file("a", "1", Some("1"))], vec![entry("a", EntryKind::File, Some("1"), 0o100_644)]);
    assert!(equal.from_vm.is_empty() && equal.to_vm.is_empty());
}

#[test]
fn nothing_is_written_through_a_link_and_nothing_is_decided_without_a_hash() {
    let below = planned(vec![file("d/a", "1", None)], vec![entry("d", EntryKind::Symlink, None, 0o777)]);
    assert_eq!(below.blocked.len(), 1);
    assert!(below.to_vm.is_empty());
    let torn = planned(vec![file("a", "1", Some("1"))], vec![entry("a", EntryKind::File, None, 0o644)]);
    assert!(torn.from_vm.is_empty() && torn.to_vm.is_empty() && torn.conflicts.is_empty());
}

#[test]
fn links_are_saved_restored_and_forgotten() {
    let link = |base: Option<&str>| WorkspaceLink {
        project_id: ProjectId::from_parts(1, 1),
        path: WorkspacePath::parse("path", "l").unwrap(),
        target: "there".to_owned(),
        vm_copy: base.map(|target| LinkCopy { vm_id: VM.to_owned(), target: target.to_owned() }),
        updated_at: Timestamp::UNIX_EPOCH,
        version: 1,
    };
    let seen = || Seen::of(vec![entry("l", EntryKind::Symlink, None, 0o777)]);
    let empty = || Seen::of(Vec::new());
    assert!(matches!(plan(vec![], vec![], seen(), VM).from_vm[..], [FromVm::Link { known: None, .. }]));
    assert!(matches!(plan(vec![], vec![link(None)], empty(), VM).to_vm[..], [ToVm::Link(_)]));
    assert!(matches!(
        plan(vec![], vec![link(Some("there"))], empty(), VM).from_vm[..],
        [FromVm::LinkGone { .. }]
    ));
    let equal = plan(vec![], vec![link(Some("there"))], seen(), VM);
    assert!(equal.from_vm.is_empty() && equal.to_vm.is_empty());
    assert!(matches!(
        plan(vec![], vec![link(None)], seen(), VM).from_vm[..],
        [FromVm::Link { known: Some(_), .. }]
    ));
}
