//! `write_file`: creates, replaces or appends to a file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pvm_contracts::tools::{Encoding, WriteFileArgs, WriteFileOutput};
use pvm_domain::Invalid;

use crate::call::{Answer, Call, Ports};
use crate::catalogue::{Effect, Spec};
use crate::commit_file::{self, Change};
use crate::{paths, schema};

pub(crate) type Args = WriteFileArgs;

pub(crate) const SPEC: Spec = Spec {
    name: "write_file",
    title: "Write a file",
    description: "Create a file in the VM or replace all of its content; parent directories are made. For a small \
        change of an existing file edit_file is better. Replaces at once, so that no program sees half a file, keeps \
        mode and owner of an existing file, and answers the difference to what was there. With if_sha256, the version \
        that read_file answered, it writes only if nobody changed the file since then, and else shows what differs.",
    arguments: schema::of_arguments::<Args>,
    result: schema::of_result::<WriteFileOutput>,
    effect: Effect::Acts,
    destructive: true,
    open_world: false,
    needs_vm: true,
    runs_command: false,
    may_change_files: true,
    long: false,
};

/// The longest content, in bytes: what one request can carry.
const CONTENT_BYTES: usize = 4 * 1024 * 1024;

/// Checks permission bits in octal.
fn mode(text: &str) -> Result<String, Invalid> {
    let digits = text.trim().trim_start_matches("0o");
    let ok =
        (3..=5).contains(&digits.len()) && u32::from_str_radix(digits, 8).is_ok_and(|mode| mode <= 0o7777);
    if ok { Ok(digits.to_owned()) } else { Err(Invalid::new("mode", "must be octal, such as 0644 or 0755")) }
}

/// Checks an owner: a name or number, with a group where wanted.
fn owner(text: &str) -> Result<String, Invalid> {
    let text = text.trim();
    let name = |part: &str| {
        (1..=32).contains(&part.len())
            && !part.starts_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
    };
    if text.splitn(2, ':').all(name) {
        Ok(text.to_owned())
    } else {
        Err(Invalid::new("owner", "must be a user, or user:group"))
    }
}

/// Checks the version that a file must have.
fn version(text: &str) -> Result<String, Invalid> {
    let text = text.trim().to_ascii_lowercase();
    if text == "absent" || ((12..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())) {
        Ok(text)
    } else {
        Err(Invalid::new(
            "if_sha256",
            "must be the version that read_file answered: 12 to 64 hex digits, or `absent`",
        ))
    }
}

fn content(args: &Args) -> Result<String, Invalid> {
    let too_long = "must have at most 4 MiB; upload larger files, or make them with execute_command";
    match args.encoding {
        Encoding::Utf8 if args.content.len() > CONTENT_BYTES => Err(Invalid::new("content", too_long)),
        Encoding::Utf8 => Ok(args.content.clone()),
        Encoding::Base64 => {
            let packed: String = args.content.split_whitespace().collect();
            let bytes = STANDARD.decode(&packed);
            match bytes {
                Ok(bytes) if bytes.len() > CONTENT_BYTES => Err(Invalid::new("content", too_long)),
                Ok(_) => Ok(packed),
                Err(error) => Err(Invalid::new("content", format!("is not base64: {error}"))),
            }
        }
    }
}

pub(crate) async fn drive<P: Ports>(call: &Call<'_, P>, args: Args) -> Answer {
    let path = paths::writable(call.context, args.user, "path", &args.path)?;
    let mode = args.mode.as_deref().map(mode).transpose()?;
    let owner = args.owner.as_deref().map(owner).transpose()?;
    let expected = args.if_sha256.as_deref().map(version).transpose()?;
    let change = Change {
        path: &path,
        content: content(&args)?,
        encoding: args.encoding,
        mode: mode.as_deref(),
        owner: owner.as_deref(),
        append: args.append,
        expected: expected.as_deref(),
        user: args.user,
    };
    Ok(commit_file::done(&commit_file::commit(call, change).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_owners_and_versions_have_a_form() {
        assert_eq!(mode("0755").unwrap(), "0755");
        assert_eq!(mode("644").unwrap(), "644");
        assert_eq!(mode("0o600").unwrap(), "600");
        for bad in ["", "9", "u+x", "77777", "-755"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
        assert!(owner("user:www-data").is_ok() && owner("1000").is_ok());
        assert!(owner("-R").is_err() && owner("a b").is_err() && owner("a:").is_err());
        assert!(version("absent").is_ok() && version(&"A".repeat(64)).is_ok());
        assert!(version("0123456789ab").is_ok() && version("abc").is_err() && version("*").is_err());
    }
}
