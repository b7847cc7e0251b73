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
    let wrong = |index, problem| ConfigError::Entry { file: file.into(), entry: index + 1, problem };
    let mut found = Vec::new();
    for (index, entry) in entries(&text).into_iter().enumerate() {
        found.push(certificate(entry).map_err(|problem| wrong(index, problem))?);
    }
    if found.is_empty() {
        return Err(ConfigError::NoCertificate { file: file.into() });
    }
    Ok(found)
}

/// The one private key of a file. Other sections, such as EC parameters, do not matter.
pub(crate) fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, ConfigError> {
    let text = read(file)?;
    let mut keys = PrivateKeyDer::pem_slice_iter(&text);
    match (keys.next(), keys.next()) {
        (Some(Ok(key)), None) => Ok(key),
        _ => Err(ConfigError::PrivateKey { file: file.into() }),
    }
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    fs::read(file).map(Zeroizing::new).map_err(|source| ConfigError::Read { file: file.into(), source })
}

fn certificate(entry: &[u8]) -> Result<CertificateDer<'static>, &'static str> {
    let mut sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(entry);
    match sections.next() {
        Some(Ok((SectionKind::Certificate, der))) => Ok(der.into()),
        Some(Err(_)) => Err("is not well-formed PEM"),
        Some(Ok(_)) | None => Err("is not a certificate in PEM"),
    }
}

/// Cuts a file at every line that could be meant as the beginning of a section, one with an unknown label
/// or a dash too few included: read in one piece, those would pass for comments.
fn entries(text: &[u8]) -> Vec<&[u8]> {
    let mut starts = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
        if line.windows(7).any(|window| window == b"-BEGIN ") {
            starts.push(offset);
        }
        offset += line.len();
    }
    let ends = starts.iter().copied().skip(1).chain([text.len()]);
    starts.iter().zip(ends).map(|(start, end)| &text[*start..end]).collect()
}
