//! Pieces of DER that no honest tool writes.

use rcgen::CustomExtension;

pub(crate) const URI: u8 = 0x86;
pub(crate) const DNS: u8 = 0x82;
const SEQUENCE: u8 = 0x30;

/// One element: tag, length, content.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut der = vec![tag];
    match length {
        0..128 => der.push(u8::try_from(length).unwrap()),
        _ => {
            let bytes = length.to_be_bytes();
            let significant = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap()..];
            der.push(0x80 | u8::try_from(significant.len()).unwrap());
            der.extend(significant);
        }
    }
    der.extend(content);
    der
}

pub(crate) fn sequence(elements: &[Vec<u8>]) -> Vec<u8> {
    element(SEQUENCE, &elements.concat())
}

/// A subject alternative name extension of raw names: tag and bytes.
pub(crate) fn names(names: &[(u8, &[u8])]) -> CustomExtension {
    let names: Vec<_> = names.iter().map(|(tag, bytes)| element(*tag, bytes)).collect();
    CustomExtension::from_oid_content(&[2, 5, 29, 17], sequence(&names))
}

/// A critical name constraints extension with one URI subtree, permitted (0) or excluded (1).
pub(crate) fn uri_constraint(which: u8, host: &str) -> CustomExtension {
    let subtree = sequence(&[element(URI, host.as_bytes())]);
    let content = sequence(&[element(0xa0 | which, &subtree)]);
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
    extension.set_criticality(true);
    extension
}

/// A key usage of digitalSignature that is not marked critical.
pub(crate) fn uncritical_key_usage() -> CustomExtension {
    CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![0x03, 0x02, 0x07, 0x80])
}
