//! Ids: a prefix that names the kind, `_`, and 26 characters (48 bits of milliseconds, 80 random bits, Crockford
//! base 32, lower case), so that ids of one kind sort by the time they were made. Parsing checks the prefix.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters after the prefix.
const BODY: usize = 26;

/// Text that is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id of this kind: it has the form {prefix}_ followed by 26 characters")]
pub struct BadId {
    /// The prefix that was wanted.
    pub prefix: &'static str,
}

/// An id with a prefix. Made only by parsing or through the `NewId` port.
pub trait PrefixedId: Sized + fmt::Display + FromStr<Err = BadId> {
    /// The kind's prefix, without the underscore.
    const PREFIX: &'static str;
    /// Builds the id from its two parts: milliseconds since 1970 (48 bits) and 80 random bits.
    fn from_parts(millis: u64, random: u128) -> Self;
    /// The two parts it was built from.
    fn to_parts(&self) -> (u64, u128);
}

fn encode(millis: u64, random: u128) -> String {
    let value = (u128::from(millis) << 80) | (random & ((1 << 80) - 1));
    (0..BODY).rev().map(|i| char::from(ALPHABET[((value >> (5 * i)) & 31) as usize])).collect()
}

fn decode(body: &str) -> (u64, u128) {
    let place = |b: u8| ALPHABET.iter().position(|known| *known == b).unwrap_or(0) as u128;
    let value = body.bytes().fold(0u128, |value, b| (value << 5) | place(b));
    ((value >> 80) as u64, value & ((1 << 80) - 1))
}

fn is_body(text: &str) -> bool {
    text.len() == BODY && text.bytes().all(|b| ALPHABET.contains(&b))
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl PrefixedId for $name {
            const PREFIX: &'static str = $prefix;
            fn from_parts(millis: u64, random: u128) -> Self {
                Self(format!("{}_{}", $prefix, encode(millis, random)))
            }
            fn to_parts(&self) -> (u64, u128) {
                decode(&self.0[concat!($prefix, "_").len()..])
            }
        }
        impl $name {
            /// The id's text.
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                match text.strip_prefix(concat!($prefix, "_")) {
                    Some(body) if is_body(body) => Ok(Self(text.to_owned())),
                    _ => Err(BadId { prefix: $prefix }),
                }
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> { text.parse() }
        }
        impl From<$name> for String {
            fn from(id: $name) -> Self { id.0 }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> { stringify!($name).into() }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "pattern": concat!("^", $prefix, "_[0-9a-hjkmnp-tv-z]{26}$")})
            }
        }
    )*};
}

ids! {
    /// A project.
    ProjectId "prj";
    /// A file of a project.
    FileId "file";
    /// A service of a project.
    ServiceId "svc";
    /// A command run in a project's VM.
    CommandId "cmd";
    /// A conversation.
    ConversationId "conv";
    /// One user message being worked off.
    RunId "run";
    /// A message of a conversation.
    MessageId "msg";
    /// A tool call of an agent; also the id of the command it runs in the VM's journal.
    ToolCallId "call";
    /// An API key.
    KeyId "key";
    /// An approval that a tool call waits for.
    ApprovalId "apr";
    /// An archive of a project's files.
    ArchiveId "arc";
    /// An operation on a VM's lifecycle (one execution of `vm-lifecycle`).
    OperationId "op";
}

/// Who owns things: the subject of a token, or `local` for the first key of an embedded install.
/// 1 to 128 characters of letters, digits, and `-_.@|:`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct OwnerId(String);

impl OwnerId {
    /// Checks and wraps a principal's name.
    ///
    /// # Errors
    /// When it is empty, longer than 128 characters, or has a character that could forge a storage key.
    pub fn parse(text: &str) -> Result<Self, crate::Invalid> {
        let ok = (1..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@|:".contains(&b));
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(crate::Invalid::new("owner", "1 to 128 letters, digits or -_.@|: are accepted"))
        }
    }

    /// The principal's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_survive_a_round_trip() {
        let early = ProjectId::from_parts(1, u128::MAX);
        let late = ProjectId::from_parts(2, 0);
        assert!(early < late);
        assert_eq!(early.to_string().parse::<ProjectId>().unwrap(), early);
        assert_eq!(early.as_str().len(), 30);
        assert_eq!(early.to_parts(), (1, u128::MAX >> 48));
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let file = FileId::from_parts(1, 1).to_string();
        assert!(file.parse::<ProjectId>().is_err());
        assert!("prj_short".parse::<ProjectId>().is_err());
        assert!("prj_UPPERCASE0000000000000000".parse::<ProjectId>().is_err());
    }

    #[test]
    fn an_owner_cannot_carry_a_key_separator() {
        assert!(OwnerId::parse("auth0|abc").is_ok());
        assert!(OwnerId::parse("a#b").is_err());
        assert!(OwnerId::parse("").is_err());
    }
}
