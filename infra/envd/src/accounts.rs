//! Users and groups, read from `/etc/passwd` and `/etc/group` of the sandbox at every use.
//!
//! The C library's lookups are not used: they load plug-ins at run time, which a static binary cannot, and they
//! would cache what `useradd` has just changed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::{fs, io};

/// A user that processes and files can belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Main group id.
    pub gid: u32,
    /// Every group id, the main one first.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: PathBuf,
}

/// Looks a user up by name; `root` is known even without an entry.
///
/// # Errors
/// When the files are there but cannot be read.
pub fn find(name: &str) -> io::Result<Option<Account>> {
    let passwd = read("/etc/passwd")?;
    let found = passwd.lines().filter_map(parse_user).find(|(account, _)| account.name == name);
    let Some((mut account, gid)) = found.or_else(|| (name == "root").then(root)) else { return Ok(None) };
    account.groups = groups_of(name, gid, &read("/etc/group")?);
    Ok(Some(account))
}

/// Names of user and group ids, for listings.
#[derive(Debug, Default)]
pub struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    /// Reads both files once. Unreadable files give numbers instead of names.
    pub fn load() -> Self {
        let passwd = read("/etc/passwd").unwrap_or_default();
        let group = read("/etc/group").unwrap_or_default();
        let mut names = Self::default();
        for (account, _) in passwd.lines().filter_map(parse_user) {
            names.users.entry(account.uid).or_insert(account.name);
        }
        for (name, gid, _) in group.lines().filter_map(parse_group) {
            names.groups.entry(gid).or_insert_with(|| name.to_owned());
        }
        names
    }

    /// The user's name, or its number as text.
    pub fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    /// The group's name, or its number as text.
    pub fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_else(|| gid.to_string())
    }
}

fn read(path: &str) -> io::Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

fn root() -> (Account, u32) {
    let account =
        Account { name: "root".into(), uid: 0, gid: 0, groups: Vec::new(), home: PathBuf::from("/root") };
    (account, 0)
}

fn parse_user(line: &str) -> Option<(Account, u32)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
    let home = fields.nth(1).filter(|home| home.starts_with('/')).unwrap_or("/");
    let account = Account { name: name.into(), uid, gid, groups: Vec::new(), home: PathBuf::from(home) };
    Some((account, gid))
}

fn parse_group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let gid = fields.nth(1)?.parse().ok()?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

fn groups_of(user: &str, main: u32, group_file: &str) -> Vec<u32> {
    let mut groups = vec![main];
    for (_, gid, members) in group_file.lines().filter_map(parse_group) {
        if !groups.contains(&gid) && members.split(',').any(|member| member.trim() == user) {
            groups.push(gid);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_line_gives_ids_and_home() {
        let (account, gid) = parse_user("user:x:1000:1001:A User,,,:/home/user:/bin/bash").unwrap();
        assert_eq!((account.name.as_str(), account.uid, gid), ("user", 1000, 1001));
        assert_eq!(account.home, PathBuf::from("/home/user"));
    }

    #[test]
    fn broken_lines_are_passed_over() {
        for line in ["", "#comment", "user:x:abc:1:::", ":x:1:1::/:/bin/sh", "+::::::"] {
            assert!(parse_user(line).is_none(), "{line:?}");
        }
    }

    #[test]
    fn supplementary_groups_are_collected_once() {
        let file = "root:x:0:\nsudo:x:27:other,user\nuser:x:1001:user\nx:x:27:user\n";
        assert_eq!(groups_of("user", 1001, file), [1001, 27]);
    }

    #[test]
    fn root_is_always_known() {
        assert_eq!(find("root").unwrap().unwrap().uid, 0);
    }

    #[test]
    fn unknown_users_are_none() {
        assert_eq!(find("no-such-user-here").unwrap(), None);
    }
}
