//! The authority: makes itself, signs certificates for servers and clients, and signs the revocation list. It owns what
//! stands in a certificate and for how long; it refuses to know files.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, anyhow, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams,
    SerialNumber,
};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

use crate::ops::certs::store::{Entry, Use};

/// An authority is good for ten years.
const CA_DAYS: i64 = 3_650;
/// A certificate is good for as long as browsers allow.
const CERTIFICATE_DAYS: i64 = 397;
/// A revocation list is good for a month; an old one fails closed.
const CRL_DAYS: i64 = 30;
/// Clocks of other machines may be behind ours by this much.
const CLOCK_SLACK: Duration = Duration::minutes(5);

/// The one who signs.
pub(crate) struct Authority(Issuer<'static, KeyPair>);

/// A certificate that was signed.
pub(crate) struct Signed {
    /// The certificate.
    pub(crate) pem: String,
    /// What the register keeps of it.
    pub(crate) entry: Entry,
}

/// What a certificate file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The serial number, in hexadecimal.
    pub(crate) serial: String,
    /// Its first moment, as Unix seconds.
    pub(crate) not_before: i64,
    /// Its last moment, as Unix seconds.
    pub(crate) not_after: i64,
    /// The names and addresses it is for.
    pub(crate) names: BTreeSet<String>,
    /// The public key, to compare with a key pair.
    pub(crate) public_key: Vec<u8>,
    /// The issuer's subject, to compare with an authority's.
    pub(crate) issuer: Vec<u8>,
    /// Its own subject.
    pub(crate) subject: Vec<u8>,
}

impl Authority {
    /// A certificate for the authority itself, over this key.
    pub(crate) fn certify(key: &KeyPair, host: &str, now: OffsetDateTime) -> anyhow::Result<String> {
        let mut params = CertificateParams::default();
        // A name of its own for each authority, so that a client holding two of them can tell them apart.
        let number = &new_serial()[..8];
        params.distinguished_name = subject(&format!("sanctum-mlx authority {host} {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial_number(&new_serial())?);
        params.not_before = now - CLOCK_SLACK;
        params.not_after = now + Duration::days(CA_DAYS);
        Ok(params.self_signed(key)?.pem())
    }

    /// The authority of a certificate and its key.
    pub(crate) fn load(certificate: &str, key: &str) -> anyhow::Result<Self> {
        let key = KeyPair::from_pem(key).context("the authority's key cannot be read")?;
        let facts = facts(certificate)?;
        ensure!(facts.public_key == key.public_key_raw(), "ca.crt and ca.key do not belong together");
        Ok(Self(Issuer::from_ca_cert_pem(certificate, key).context("the authority's certificate cannot be read")?))
    }

    /// A certificate for a server with these names and addresses.
    pub(crate) fn sign_server(
        &self,
        names: &BTreeSet<String>,
        key: &KeyPair,
        now: OffsetDateTime,
    ) -> anyhow::Result<Signed> {
        let names: Vec<String> = names.iter().cloned().collect();
        let mut params = CertificateParams::new(names).context("a name of the server certificate is no host name")?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, "server", Use::Server, key, now)
    }

    /// A certificate for the client of this name.
    pub(crate) fn sign_client(&self, name: &str, key: &KeyPair, now: OffsetDateTime) -> anyhow::Result<Signed> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, name, Use::Client, key, now)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        name: &str,
        r#use: Use,
        key: &KeyPair,
        now: OffsetDateTime,
    ) -> anyhow::Result<Signed> {
        let (serial, not_after) = (new_serial(), now + Duration::days(CERTIFICATE_DAYS));
        params.distinguished_name = subject(name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial_number(&serial)?);
        params.not_before = now - CLOCK_SLACK;
        params.not_after = not_after;
        let pem = params.signed_by(key, &self.0)?.pem();
        let not_after = not_after.unix_timestamp();
        Ok(Signed { pem, entry: Entry { name: name.to_owned(), r#use, serial, not_after, revoked: None } })
    }

    /// The list of what is revoked and not yet expired.
    pub(crate) fn sign_revocations(
        &self,
        entries: &[Entry],
        number: u64,
        now: OffsetDateTime,
    ) -> anyhow::Result<String> {
        let mut revoked_certs = Vec::new();
        for entry in entries.iter().filter(|entry| entry.not_after > now.unix_timestamp()) {
            let Some(revoked) = entry.revoked else { continue };
            revoked_certs.push(RevokedCertParams {
                serial_number: serial_number(&entry.serial)?,
                revocation_time: OffsetDateTime::from_unix_timestamp(revoked)?,
                reason_code: Some(RevocationReason::Unspecified),
                invalidity_date: None,
            });
        }
        let params = CertificateRevocationListParams {
            this_update: now - CLOCK_SLACK,
            next_update: now + Duration::days(CRL_DAYS),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.0)?.pem()?)
    }
}

/// What a certificate in PEM says.
pub(crate) fn facts(pem: &str) -> anyhow::Result<Facts> {
    let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|_| anyhow!("holds no certificate in PEM"))?;
    let certificate = block.parse_x509().map_err(|error| anyhow!("holds a damaged certificate ({error})"))?;
    let names = certificate.subject_alternative_name().ok().flatten().map(|names| names.value.general_names.clone());
    let names = names.iter().flatten().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    });
    Ok(Facts {
        serial: hex(certificate.raw_serial()),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        names: names.collect(),
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
        issuer: certificate.issuer().as_raw().to_vec(),
        subject: certificate.subject().as_raw().to_vec(),
    })
}

/// When a revocation list was signed and when it stops being good, as Unix seconds.
pub(crate) fn revocations_window(pem: &str) -> anyhow::Result<(i64, i64)> {
    let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|_| anyhow!("holds no revocation list in PEM"))?;
    let parsed = x509_parser::parse_x509_crl(&block.contents);
    let (_, list) = parsed.map_err(|error| anyhow!("holds a damaged revocation list ({error})"))?;
    let next = list.next_update().context("the revocation list has no end")?;
    Ok((list.last_update().timestamp(), next.timestamp()))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn subject(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "sanctum-mlx");
    name.push(DnType::CommonName, common_name);
    name
}

/// 120 random bits in hexadecimal, the first one clear and the first byte not zero, so that every encoding of the number
/// has the same bytes.
fn new_serial() -> String {
    let mut bytes = uuid::Uuid::new_v4().into_bytes();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    hex(&bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn serial_number(serial: &str) -> anyhow::Result<SerialNumber> {
    let pairs = serial.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    let bytes: Option<Vec<u8>> = pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect();
    Ok(SerialNumber::from(bytes.with_context(|| format!("{serial} is no serial number"))?))
}
