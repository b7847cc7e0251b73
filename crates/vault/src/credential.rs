use std::{collections::BTreeMap, fmt};

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::framing;

/// A credential in the clear: secrets by field name, such as `access_token` or `password`.
///
/// Lives for one request. Prints as its type's name, cannot be serialized, is zeroed when dropped.
pub struct Credential(BTreeMap<String, SecretString>);

impl Credential {
    /// A credential of the given fields.
    pub fn from_fields(fields: BTreeMap<String, SecretString>) -> Self {
        Self(fields)
    }

    /// The secret in a field.
    pub fn get(&self, name: &str) -> Option<&SecretString> {
        self.0.get(name)
    }

    /// The names of the fields, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The fields, to build another credential from.
    pub fn into_fields(self) -> BTreeMap<String, SecretString> {
        self.0
    }

    /// What is sealed: a version byte, then name and secret of each field, in order and length-prefixed.
    ///
    /// Not JSON, because a JSON parser unescapes quotes and line breaks (every PEM key has them) in a buffer
    /// of its own that nobody zeroes.
    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let fields =
            || self.0.iter().map(|(name, secret)| (name.as_bytes(), secret.expose_secret().as_bytes()));
        let length = |(name, secret)| framing::joined_len(name) + framing::joined_len(secret);
        // The whole length at once: a buffer that grows leaves copies behind.
        let mut buffer = Zeroizing::new(Vec::with_capacity(1 + fields().map(length).sum::<usize>()));
        buffer.push(ENCODING);
        for (name, secret) in fields() {
            framing::push(&mut buffer, name);
            framing::push(&mut buffer, secret);
        }
        buffer
    }

    /// Reads what [`Credential::encode`] wrote; `None` for anything else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&ENCODING, mut rest) = bytes.split_first()? else { return None };
        let mut fields = BTreeMap::new();
        while !rest.is_empty() {
            let name = str::from_utf8(framing::take(&mut rest)?).ok()?;
            let secret = str::from_utf8(framing::take(&mut rest)?).ok()?;
            if fields.last_key_value().is_some_and(|(last, _): (&String, _)| last.as_str() >= name) {
                return None;
            }
            fields.insert(name.to_owned(), SecretString::from(secret));
        }
        Some(Self(fields))
    }
}

/// The version of the encoding.
const ENCODING: u8 = 1;

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    fn credential<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Credential {
        Credential::from_fields(
            fields.into_iter().map(|(name, secret)| (name.to_owned(), secret.into())).collect(),
        )
    }

    #[test]
    fn prints_as_its_types_name() {
        let credential = credential([("password", "hunter2")]);
        assert_eq!(format!("{credential:?} {credential:#?}"), "Credential Credential");
    }

    #[test]
    fn encodes_without_growing_its_buffer() {
        let encoded = credential([("a", "secret"), ("bb", "")]).encode();
        assert_eq!(encoded.len(), encoded.capacity());
    }

    #[test]
    fn refuses_other_encodings() {
        let good = credential([("a", "1"), ("b", "2")]).encode();
        let b_then_a = [&good[..1], &good[19..], &good[1..19]].concat();
        let a_twice = [&good[..1], &good[1..19], &good[1..19]].concat();
        let not_utf8 = [&good[..18], b"\xff", &good[19..]].concat();
        let other_version = [b"\x02", &good[1..]].concat();
        let cut = &good[..good.len() - 1];
        for bytes in [b"", cut, &b_then_a, &a_twice, &not_utf8, &other_version, &good[..9], b"{\"a\":\"1\"}"]
        {
            assert!(Credential::decode(bytes).is_none(), "{bytes:?}");
        }
        assert!(Credential::decode(&good).is_some());
    }

    proptest! {
        #[test]
        fn is_read_back_as_it_was_written(fields in btree_map(".{0,20}", "(?s).{0,40}", 0..5)) {
            let credential = credential(fields.iter().map(|(name, secret)| (name.as_str(), secret.as_str())));
            let read = Credential::decode(&credential.encode()).unwrap();
            prop_assert!(read.names().eq(fields.keys()));
            for (name, secret) in &fields {
                prop_assert_eq!(read.get(name).unwrap().expose_secret(), secret);
            }
        }

        #[test]
        fn never_panics_and_every_credential_has_one_encoding(
            bytes in proptest::collection::vec(0_u8..3, 0..40),
        ) {
            if let Some(credential) = Credential::decode(&bytes) {
                let encoded = credential.encode();
                prop_assert_eq!(encoded.as_slice(), bytes.as_slice());
            }
        }
    }
}
