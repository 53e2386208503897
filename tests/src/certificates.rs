//! The cluster's own certificate authority.

use std::{fs, path::Path};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Signs certificates and writes them, as `NAME.crt` and `NAME.key`.
pub struct Authority<'a> {
    folder: &'a Path,
    servers: Vec<String>,
    issuer: Issuer<'static, KeyPair>,
}

impl<'a> Authority<'a> {
    /// A new one; its certificate is `ca.crt`; `sa.key` and `sa.pub` are for service-account tokens. Servers
    /// may have these addresses, beside those on loopback.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn new(folder: &'a Path, addresses: &[String]) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = named("quorate-test-ca", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        fs::write(folder.join("ca.crt"), params.self_signed(&key)?.pem())?;
        fs::write(folder.join("ca.key"), key.serialize_pem())?;
        let tokens = KeyPair::generate()?;
        fs::write(folder.join("sa.key"), tokens.serialize_pem())?;
        // kube-apiserver reads a public key from PKCS #8 only when it is by itself.
        fs::write(folder.join("sa.pub"), tokens.public_key_pem())?;
        let own = ["127.0.0.1", "10.0.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
        Ok(Self { folder, servers: [&own[..], addresses].concat(), issuer: Issuer::new(params, key) })
    }

    /// A certificate for a user, or for a server.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn issue(&self, file: &str, user: &str, group: Option<&str>) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = named(user, group);
        params.subject_alt_names = CertificateParams::new(self.servers.clone())?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        fs::write(self.folder.join(format!("{file}.crt")), params.signed_by(&key, &self.issuer)?.pem())?;
        fs::write(self.folder.join(format!("{file}.key")), key.serialize_pem())?;
        Ok(())
    }
}

fn named(user: &str, group: Option<&str>) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user);
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params
}
