//! Connections to the outside: names resolved, addresses judged, and then connected to that very address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Egress;
use super::addresses::forbidden;
use super::gate::{Gate, Passage};
use super::policy::{Policy, Target, normal_name};
use super::settings::UpstreamProxy;
use super::socks::SocksProxy;

/// How long one address may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;
/// Longest answer of an outer proxy to CONNECT.
const MAX_PROXY_ANSWER: usize = 16 * 1024;

/// Why nothing was connected.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// Not allowed, and why.
    #[error("{0}")]
    Denied(String),
    /// Too many are open.
    #[error("this sandbox has too many open connections")]
    TooMany,
    /// The other side cannot be reached.
    #[error("{0}")]
    Unreachable(String),
}

/// A connection, with what it leads to.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) stream: TcpStream,
    pub(super) passage: Passage,
    /// It leads to an outer proxy that expects requests in the form for proxies.
    pub(super) through_proxy: bool,
    /// It does not leave this machine.
    pub(super) is_loopback: bool,
}

/// What the connection will carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Requests in clear text.
    PlainHttp,
    /// Anything.
    Tunnel,
}

impl Egress {
    /// Connects to `host:port` for a sandbox.
    pub(super) async fn connect(
        &self,
        gate: &Arc<Gate>,
        host: &str,
        port: u16,
        purpose: Use,
    ) -> Result<Connected, Refusal> {
        let host = normal_name(host);
        let policy = gate.policy();
        if let Some(socks) = policy.socks() {
            return self.connect_by_socks(socks, gate, &policy, host, port).await;
        }
        if let Some(proxy) = self.settings.proxy_for(&host, purpose == Use::PlainHttp) {
            return self.connect_through(proxy, gate, &policy, host, port, purpose).await;
        }
        let addresses = resolve(&host, port)
            .await
            .map_err(|error| Refusal::Unreachable(format!("{host} cannot be resolved: {error}")))?;
        let mut last = Refusal::Unreachable(format!("{host} has no address"));
        for address in addresses.into_iter().take(MAX_ADDRESSES) {
            let target = Target { host: host.clone(), port, address: Some(address.ip()) };
            if let Err(denied) = self.judge(&policy, &target) {
                last = denied;
                continue;
            }
            // Noted before connecting, so that attempts count as well.
            let passage = gate.enter(target, self.settings.connections).ok_or(Refusal::TooMany)?;
            match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).ok();
                    let is_loopback = address.ip().to_canonical().is_loopback();
                    return Ok(Connected { stream, passage, through_proxy: false, is_loopback });
                }
                Ok(Err(error)) => last = Refusal::Unreachable(format!("{host}:{port}: {error}")),
                Err(_) => last = Refusal::Unreachable(format!("{host}:{port} does not answer")),
            }
        }
        Err(last)
    }

    fn judge(&self, policy: &Policy, target: &Target) -> Result<(), Refusal> {
        if let Some(address) = target.address
            && let Some(why) = forbidden(address, &self.settings.allow_cidrs)
        {
            return Err(Refusal::Denied(format!(
                "{} ({address}) cannot be reached from a sandbox: {}",
                target.host,
                why.reason()
            )));
        }
        if !policy.allows(target) {
            return Err(Refusal::Denied(format!(
                "{} is not allowed by this sandbox's network rules",
                target.host
            )));
        }
        Ok(())
    }

    /// By way of the machine's own proxy, which resolves the name again: what this machine resolves it to is
    /// judged if it can be known, and names that mean a local network are refused.
    async fn connect_through(
        &self,
        proxy: &UpstreamProxy,
        gate: &Arc<Gate>,
        policy: &Policy,
        host: String,
        port: u16,
        purpose: Use,
    ) -> Result<Connected, Refusal> {
        if is_local_name(&host) {
            return Err(Refusal::Denied(format!("{host} names something on the local network")));
        }
        let known = resolve(&host, port).await.unwrap_or_default();
        for address in &known {
            let target = Target { host: host.clone(), port, address: Some(address.ip()) };
            self.judge(policy, &target)?;
        }
        let target = Target { host: host.clone(), port, address: known.first().map(SocketAddr::ip) };
        self.judge(policy, &target)?;
        let passage = gate.enter(target, self.settings.connections).ok_or(Refusal::TooMany)?;
        let connecting = TcpStream::connect((proxy.host.as_str(), proxy.port));
        let unreachable = |problem: String| {
            Refusal::Unreachable(format!(
                "the proxy of this machine ({}:{}): {problem}",
                proxy.host, proxy.port
            ))
        };
        let mut stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| unreachable("no answer".into()))?
            .map_err(|error| unreachable(error.to_string()))?;
        stream.set_nodelay(true).ok();
        let plain = purpose == Use::PlainHttp;
        if !plain {
            let opening = open_tunnel(&mut stream, proxy, &host, port);
            tokio::time::timeout(CONNECT_TIMEOUT, opening)
                .await
                .map_err(|_| unreachable("no answer".into()))?
                .map_err(|error| unreachable(error.to_string()))?;
        }
        Ok(Connected { stream, passage, through_proxy: plain, is_loopback: false })
    }

    /// By way of the proxy that the sandbox's rules name. The destination is judged as far as this machine can know
    /// it, and so is the proxy's own address: rules must not open what no rule can open.
    async fn connect_by_socks(
        &self,
        socks: &SocksProxy,
        gate: &Arc<Gate>,
        policy: &Policy,
        host: String,
        port: u16,
    ) -> Result<Connected, Refusal> {
        let known = resolve(&host, port).await.unwrap_or_default();
        for address in &known {
            self.judge(policy, &Target { host: host.clone(), port, address: Some(address.ip()) })?;
        }
        let target = Target { host: host.clone(), port, address: known.first().map(SocketAddr::ip) };
        self.judge(policy, &target)?;
        let unreachable = |problem: String| {
            Refusal::Unreachable(format!("the egress proxy ({}:{}): {problem}", socks.host, socks.port))
        };
        let proxies =
            resolve(&socks.host, socks.port).await.map_err(|error| unreachable(error.to_string()))?;
        let proxy = proxies.first().copied().ok_or_else(|| unreachable("it has no address".into()))?;
        if let Some(why) = forbidden(proxy.ip(), &self.settings.allow_cidrs) {
            return Err(Refusal::Denied(format!("the egress proxy's address {proxy}: {}", why.reason())));
        }
        let passage = gate.enter(target, self.settings.connections).ok_or(Refusal::TooMany)?;
        let opening = async {
            let mut stream = TcpStream::connect(proxy).await?;
            stream.set_nodelay(true).ok();
            socks.open(&mut stream, &host, port).await?;
            Ok::<_, io::Error>(stream)
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, opening)
            .await
            .map_err(|_| unreachable("no answer".into()))?
            .map_err(|error| unreachable(error.to_string()))?;
        Ok(Connected { stream, passage, through_proxy: false, is_loopback: false })
    }

    /// What an outer proxy wants to see on plain requests.
    pub(super) fn proxy_authorization(&self, host: &str) -> Option<&str> {
        self.settings.proxy_for(host, true)?.authorization.as_deref()
    }
}

async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = literal.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, port)))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(found.collect())
}

fn is_local_name(host: &str) -> bool {
    let is_address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let local_suffix = ["localhost", "local", "internal", "intranet", "lan", "home.arpa"]
        .iter()
        .any(|suffix| host == *suffix || host.strip_suffix(suffix).is_some_and(|front| front.ends_with('.')));
    !is_address && (local_suffix || !host.contains('.'))
}

async fn open_tunnel(stream: &mut TcpStream, proxy: &UpstreamProxy, host: &str, port: u16) -> io::Result<()> {
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request.push_str("Proxy-Authorization: ");
        request.push_str(authorization);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    // Byte by byte up to the empty line: what follows belongs to the tunnel.
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == MAX_PROXY_ANSWER {
            return Err(io::Error::other("its answer is too long"));
        }
        answer.push(stream.read_u8().await?);
    }
    let status = answer.get(9..12).unwrap_or_default();
    if status == b"200" {
        Ok(())
    } else {
        Err(io::Error::other(format!("it answered {}", String::from_utf8_lossy(status))))
    }
}

/// A TLS client that trusts what the host trusts, and the authorities of a file besides.
pub(super) fn tls_client(more: Option<&std::path::Path>) -> io::Result<Arc<rustls::ClientConfig>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if let Some(path) = more {
        let unusable = |why: String| io::Error::other(format!("{}: {why}", path.display()));
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_local_network_are_recognised() {
        for name in ["localhost", "a.localhost", "printer", "db.internal", "x.local"] {
            assert!(is_local_name(name), "{name}");
        }
        for name in ["example.com", "1.1.1.1", "[::1]", "localhost.example.com"] {
            assert!(!is_local_name(name), "{name}");
        }
    }
}
