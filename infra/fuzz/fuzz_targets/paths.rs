//! Paths of requests: what is resolved is absolute, and what is relative to a home has no way up left in it.
#![no_main]

use std::path::Component;

use libfuzzer_sys::fuzz_target;
use pvm_envd::accounts::Account;
use pvm_envd::paths::{name_of, resolve};

fuzz_target!(|input: (String, Option<String>)| {
    let (path, workdir) = input;
    let account =
        Account { name: "user".into(), uid: 1, gid: 1, groups: vec![1], home: "/home/user".into() };
    let workdir = workdir.filter(|folder| folder.starts_with('/'));
    let Ok(resolved) = resolve(&path, &account, workdir.as_deref()) else { return };
    assert!(resolved.is_absolute(), "{resolved:?}");
    assert!(!resolved.as_os_str().is_empty());
    if !path.is_empty() && !path.starts_with('/') {
        let climbs = resolved.components().any(|part| matches!(part, Component::ParentDir | Component::CurDir));
        assert!(!climbs, "{resolved:?}");
    }
    let text = resolved.to_str().expect("made of text");
    assert!(!text.contains('\0'));
    assert_eq!(resolve(text, &account, None).as_ref(), Ok(&resolved), "resolving again changes nothing");
    name_of(&resolved);
});
