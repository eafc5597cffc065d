//! Certificates for intercepted hosts, by an authority that one sandbox trusts and nobody else.

use std::io;
use std::sync::{Arc, PoisonError};

use pvm_e2b_wire::secret::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::Egress;
use crate::engine::Sandbox;
use crate::store::Authority;

/// Identities of one server that are kept; beyond it all are made anew.
const MAX_IDENTITIES: usize = 4096;

/// Makes the authority of a sandbox.
pub(crate) fn new_authority(sandbox_id: &str) -> io::Result<Authority> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let certificate = authority_parameters(sandbox_id).self_signed(&key).map_err(io::Error::other)?;
    Ok(Authority { certificate: certificate.pem(), key: Secret::new(key.serialize_pem()) })
}

/// The authority's certificate apart from its key: always the same for a sandbox, so that only the key is stored.
fn authority_parameters(sandbox_id: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("pvm egress of sandbox {sandbox_id}"));
    parameters.distinguished_name = name;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

impl Egress {
    /// What the proxy shows to the sandbox's TLS clients as `host`.
    pub(super) fn identity(&self, sandbox: &Sandbox, host: &str) -> io::Result<Arc<rustls::ServerConfig>> {
        let name = (sandbox.id().to_owned(), host.to_owned());
        let known = || self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = known().get(&name) {
            return Ok(Arc::clone(identity));
        }
        let authority = sandbox
            .with(|record| record.authority.clone())
            .ok_or_else(|| io::Error::other("the sandbox has no certificate authority"))?;
        let identity = Arc::new(make_identity(sandbox.id(), &authority, host)?);
        let mut identities = known();
        if identities.len() >= MAX_IDENTITIES {
            identities.clear();
        }
        identities.insert(name, Arc::clone(&identity));
        Ok(identity)
    }
}

fn make_identity(sandbox_id: &str, authority: &Authority, host: &str) -> io::Result<rustls::ServerConfig> {
    let authority_key = KeyPair::from_pem(authority.key.expose()).map_err(io::Error::other)?;
    let issuer = Issuer::new(authority_parameters(sandbox_id), authority_key);
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let mut parameters = CertificateParams::new(vec![host.to_owned()]).map_err(io::Error::other)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    let certificate = parameters.signed_by(&key, &issuer).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(certificate.der().to_vec())],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
