//! Secrets of a project: which host gets which header. The value itself is never in a record.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::ProjectId;
use crate::{Invalid, limits};

/// A reference to a secret: injected at the egress proxy, for its host only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecretRef {
    /// The project.
    pub project_id: ProjectId,
    /// Its name, `[A-Za-z0-9_.-]{1,64}`.
    pub name: String,
    /// The host that gets it, exactly: a name, or `name:port` where it listens on another port than 443.
    pub host: String,
    /// The header that carries it.
    pub header: String,
    /// When it was last set.
    pub updated_at: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}

/// Headers that belong to a connection or to its body: setting one would break every request.
const NOT_SETTABLE: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Checks a secret's name.
///
/// # Errors
/// Says which characters are accepted.
pub fn check_name(name: &str) -> Result<(), Invalid> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let ok = (1..=64).contains(&name.len()) && name.bytes().all(allowed) && !name.bytes().all(|b| b == b'.');
    if ok { Ok(()) } else { Err(Invalid::new("name", "must be 1 to 64 letters, digits or _.-")) }
}

/// A host in its normal form: lower case, without the root's dot, with its port where that is not 443.
///
/// # Errors
/// Says what a host looks like; patterns and URLs are none.
pub fn normal_host(text: &str) -> Result<String, Invalid> {
    let bad = || {
        Err(Invalid::new(
            "host",
            "must be one host name such as `git.example.com`, or `git.example.com:8443` for another port than 443",
        ))
    };
    let (name, port) = match text.trim().rsplit_once(':') {
        None => (text.trim(), 443),
        Some((name, port)) => match port.parse::<u16>() {
            Ok(port) if port > 0 => (name, port),
            _ => return bad(),
        },
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
            && !label.starts_with('-')
    };
    if !(1..=253).contains(&name.len()) || !name.split('.').all(label) {
        return bad();
    }
    Ok(if port == 443 { name } else { format!("{name}:{port}") })
}

/// Name and port of a host in its normal form.
pub fn name_and_port(host: &str) -> (&str, u16) {
    match host.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().unwrap_or(443)),
        None => (host, 443),
    }
}

/// A header's name in its normal form, lower case.
///
/// # Errors
/// It is no header, or one that belongs to the connection.
pub fn normal_header(text: &str) -> Result<String, Invalid> {
    let name = text.trim().to_ascii_lowercase();
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !(1..=128).contains(&name.len()) || !name.bytes().all(token) {
        return Err(Invalid::new("header", "must be the name of a header such as `authorization`"));
    }
    if NOT_SETTABLE.contains(&name.as_str()) {
        return Err(Invalid::new("header", "must not be a header that belongs to the connection"));
    }
    Ok(name)
}

/// Checks a value. The error never shows it.
///
/// # Errors
/// It is empty, too long, or no header could carry it.
pub fn check_value(value: &str) -> Result<(), Invalid> {
    if value.is_empty() || value.len() > limits::SECRET_BYTES {
        return Err(Invalid::new("value", "must have 1 to 8,192 bytes"));
    }
    let visible = value.bytes().all(|b| (0x20..0x7f).contains(&b));
    if !visible || value.trim() != value {
        let reason = "must be visible ASCII without spaces at its ends: it is the whole value of a header, such as `Bearer abc`";
        return Err(Invalid::new("value", reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_name_with_its_port() {
        assert_eq!(normal_host("Git.Example.com.").unwrap(), "git.example.com");
        assert_eq!(normal_host("git.example.com:443").unwrap(), "git.example.com");
        assert_eq!(normal_host("localhost:8443").unwrap(), "localhost:8443");
        assert_eq!(name_and_port("localhost:8443"), ("localhost", 8443));
        assert_eq!(name_and_port("a.example"), ("a.example", 443));
        for bad in
            ["", "*", "*.example.com", "https://a.example", "a.example/x", "a b", "a..b", "a:0", "a:x", "-a"]
        {
            assert_eq!(normal_host(bad).unwrap_err().field, "host", "{bad:?}");
        }
    }

    #[test]
    fn headers_and_values_are_what_a_request_can_carry() {
        assert_eq!(normal_header("Authorization").unwrap(), "authorization");
        for bad in ["", "a b", "Host", "content-length", "x:y"] {
            assert_eq!(normal_header(bad).unwrap_err().field, "header", "{bad:?}");
        }
        assert!(check_value("Bearer abc").is_ok());
        for bad in ["", "a\nb", " a", "a ", "\u{e9}", "a\0"] {
            let error = check_value(bad).unwrap_err();
            assert_eq!(error.field, "value", "{bad:?}");
        }
        assert!(check_value(&"a".repeat(limits::SECRET_BYTES + 1)).is_err());
    }

    #[test]
    fn names_are_file_names_without_tricks() {
        for good in ["GITHUB", "a.b-c_d", "1"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "\u{e9}"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_name(&"a".repeat(65)).is_err());
    }
}
