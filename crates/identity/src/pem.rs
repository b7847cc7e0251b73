//! PEM files, read strictly: what a lenient reader would skip in silence is an error here.

use std::fs;
use std::path::Path;

use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::ConfigError;

/// The certificates of a file, at least one, in their order.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let text = read(file)?;
    let entry = |entry, problem| ConfigError::Entry { file: file.into(), entry, problem };
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&text) {
        match section {
            Ok((SectionKind::Certificate, der)) => found.push(CertificateDer::from(der)),
            Ok(_) => return Err(entry(found.len() + 1, "is not a certificate")),
            Err(_) => return Err(entry(found.len() + 1, "is not well-formed PEM")),
        }
    }
    if markers(&text) != (found.len(), found.len()) {
        return Err(entry(first_skipped(&text), "is not well-formed PEM, or not a certificate"));
    }
    if found.is_empty() {
        return Err(ConfigError::NoCertificate { file: file.into() });
    }
    Ok(found)
}

/// The one private key of a file.
pub(crate) fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let text = read(file)?;
    let wrong = || ConfigError::PrivateKey { file: file.into() };
    let mut keys = PrivateKeyDer::pem_slice_iter(&text);
    match (keys.next(), keys.next()) {
        (Some(Ok(key)), None) if markers(&text) == (1, 1) => Ok(key),
        _ => Err(wrong()),
    }
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    fs::read(file).map(Zeroizing::new).map_err(|source| ConfigError::Read { file: file.into(), source })
}

/// How often a section begins and ends, counting also what the reader takes for a comment: an unknown
/// label, a dash too few.
fn markers(text: &[u8]) -> (usize, usize) {
    let count = |marker: &[u8]| text.windows(marker.len()).filter(|window| *window == marker).count();
    (count(b"-BEGIN "), count(b"-END "))
}

/// Which entry was skipped, counted from 1: the first whose beginning is not that of a certificate.
fn first_skipped(text: &[u8]) -> usize {
    let begins = |line: &&[u8]| line.windows(7).any(|window| window == b"-BEGIN ");
    let well_formed = |line: &[u8]| line.trim_ascii_end() == b"-----BEGIN CERTIFICATE-----";
    let mut entries = text.split(|byte| matches!(byte, b'\n' | b'\r')).filter(begins);
    entries.position(|line| !well_formed(line)).map_or(1, |index| index + 1)
}
