//! The client's side of SOCKS5 (RFC 1928, with user name and password of RFC 1929): a sandbox's connections go through
//! the proxy that its network rules name.

use std::io;
use std::net::IpAddr;

use pvm_e2b_wire::network::EgressProxy;
use pvm_e2b_wire::secret::Secret;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const VERSION: u8 = 5;
const WITHOUT_PASSWORD: u8 = 0;
const WITH_PASSWORD: u8 = 2;
const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;
/// Longest user name, password or host name: each has one byte for its length.
const MAX_TEXT: usize = 255;

/// A proxy as the rules name it, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SocksProxy {
    pub(super) host: String,
    pub(super) port: u16,
    credentials: Option<(String, Secret)>,
}

impl SocksProxy {
    /// Checks what a request says.
    pub(super) fn parse(proxy: &EgressProxy) -> Result<Self, String> {
        let address = &proxy.address;
        let (host, port) = address.rsplit_once(':').ok_or_else(|| format!("{address:?} is not host:port"))?;
        let port = port.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| format!("{address:?} has no valid port"))?;
        if host.is_empty() || host.len() > MAX_TEXT {
            return Err(format!("{address:?} has no host"));
        }
        let credentials = match (&proxy.username, &proxy.password) {
            (None, None) => None,
            (Some(user), password) => {
                let password = password.clone().unwrap_or_default();
                let fits = |text: &str| !text.is_empty() && text.len() <= MAX_TEXT;
                if !fits(user) || (!password.expose().is_empty() && !fits(password.expose())) {
                    return Err(format!("username and password have 1 to {MAX_TEXT} bytes"));
                }
                Some((user.clone(), password))
            }
            (None, Some(_)) => return Err("a password needs a username".into()),
        };
        Ok(Self { host: host.to_owned(), port, credentials })
    }

    /// Asks the proxy at the other end of `stream` for a connection to `host:port`. Names are resolved there.
    pub(super) async fn open<S>(&self, stream: &mut S, host: &str, port: u16) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let method = if self.credentials.is_some() { WITH_PASSWORD } else { WITHOUT_PASSWORD };
        stream.write_all(&[VERSION, 1, method]).await?;
        let mut chosen = [0; 2];
        stream.read_exact(&mut chosen).await?;
        if chosen != [VERSION, method] {
            return Err(io::Error::other("it does not take this way to log in"));
        }
        if let Some((user, password)) = &self.credentials {
            let mut message = vec![PASSWORD_VERSION, user.len() as u8];
            message.extend_from_slice(user.as_bytes());
            message.push(password.expose().len() as u8);
            message.extend_from_slice(password.expose().as_bytes());
            stream.write_all(&message).await?;
            let mut verdict = [0; 2];
            stream.read_exact(&mut verdict).await?;
            if verdict[1] != 0 {
                return Err(io::Error::other("it refuses the user name or the password"));
            }
        }
        let mut message = vec![VERSION, CONNECT, 0];
        message.extend_from_slice(&address(host)?);
        message.extend_from_slice(&port.to_be_bytes());
        stream.write_all(&message).await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        if answer[1] != 0 {
            return Err(io::Error::other(format!("it cannot connect to {host}:{port} (code {})", answer[1])));
        }
        // Where it connects from, which nobody here needs to know.
        let length = match answer[3] {
            1 => 4,
            4 => 16,
            3 => usize::from(stream.read_u8().await?),
            other => return Err(io::Error::other(format!("it answers with an address of kind {other}"))),
        };
        let mut bound = vec![0; length + 2];
        stream.read_exact(&mut bound).await.map(|_| ())
    }
}

/// An address or a name as it stands in a request.
fn address(host: &str) -> io::Result<Vec<u8>> {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    Ok(match literal.parse() {
        Ok(IpAddr::V4(address)) => [&[1][..], &address.octets()].concat(),
        Ok(IpAddr::V6(address)) => [&[4][..], &address.octets()].concat(),
        Err(_) if host.len() <= MAX_TEXT => [&[3, host.len() as u8][..], host.as_bytes()].concat(),
        Err(_) => return Err(io::ErrorKind::InvalidInput.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(address: &str, user: Option<&str>, password: Option<&str>) -> Result<SocksProxy, String> {
        SocksProxy::parse(&EgressProxy {
            address: address.into(),
            username: user.map(Into::into),
            password: password.map(Secret::new),
        })
    }

    #[test]
    fn what_is_no_proxy_is_refused() {
        assert_eq!(proxy("proxy.example:1080", None, None).unwrap().port, 1080);
        let long = "x".repeat(256);
        for (address, user, password) in [
            ("proxy.example", None, None),
            ("proxy.example:0", None, None),
            (":1080", None, None),
            ("proxy.example:1080", None, Some("p")),
            ("proxy.example:1080", Some(""), None),
            ("proxy.example:1080", Some("u"), Some(long.as_str())),
        ] {
            assert!(proxy(address, user, password).is_err(), "{address} {user:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_asked_for_with_name_and_password() {
        let (mut ours, mut theirs) = tokio::io::duplex(1024);
        let server = tokio::spawn(async move {
            let mut seen = [0; 3];
            theirs.read_exact(&mut seen).await.unwrap();
            assert_eq!(seen, [5, 1, 2]);
            theirs.write_all(&[5, 2]).await.unwrap();
            let mut login = [0; 5];
            theirs.read_exact(&mut login).await.unwrap();
            assert_eq!(&login, b"\x01\x01u\x01p");
            theirs.write_all(&[1, 0]).await.unwrap();
            let mut request = [0; 10];
            theirs.read_exact(&mut request).await.unwrap();
            assert_eq!(&request, b"\x05\x01\x00\x03\x03a.b\x01\xbb");
            theirs.write_all(&[5, 0, 0, 1, 1, 2, 3, 4, 0, 80]).await.unwrap();
            theirs.write_all(b"rest").await.unwrap();
        });
        proxy("p:1", Some("u"), Some("p")).unwrap().open(&mut ours, "a.b", 443).await.unwrap();
        let mut rest = [0; 4];
        ours.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"rest");
        server.await.unwrap();
    }
}
