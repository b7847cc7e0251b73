use keyholder_domain::OrganizationId;
use zeroize::Zeroizing;

use crate::{
    DataKey, DataKeyId, KeyEncryptionKey, KeyError, OpenError, WrappedKey, cipher::KEY_LEN, framing,
    sealed::Envelope,
};

/// The key-encryption keys: every one opens, only the primary wraps.
///
/// To change keys, first give every replica the new key among the others, then make it the primary, then
/// rewrap, then take the old one away.
#[derive(Debug)]
pub struct KeyRing {
    primary: KeyEncryptionKey,
    others: Vec<KeyEncryptionKey>,
}

impl KeyRing {
    /// A ring of keys that are all different.
    pub fn new(primary: KeyEncryptionKey, others: Vec<KeyEncryptionKey>) -> Result<Self, KeyError> {
        let ring = Self { primary, others };
        let mut ids: Vec<_> = ring.ids().collect();
        ids.sort_unstable();
        match ids.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(KeyError::Duplicate { key_id: pair[0].to_owned() }),
            None => Ok(ring),
        }
    }

    /// The id of the key that wraps. A key that another one wrapped waits to be rewrapped.
    pub fn primary_id(&self) -> &str {
        self.primary.id()
    }

    /// The ids of all keys, the primary first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys().map(KeyEncryptionKey::id)
    }

    /// Wraps an organization's data key under the primary key.
    pub fn wrap(&self, key: &DataKey, organization: &OrganizationId) -> WrappedKey {
        let associated = associated_data(self.primary_id(), organization, key.id());
        WrappedKey(self.primary.cipher().seal(self.primary_id(), &associated, key.bytes().as_slice()))
    }

    /// Opens an organization's data key, whichever key of the ring wrapped it.
    pub fn unwrap(
        &self,
        organization: &OrganizationId,
        data_key_id: &DataKeyId,
        wrapped: &str,
    ) -> Result<DataKey, OpenError> {
        let envelope = Envelope::parse(wrapped)?;
        let key = self
            .keys()
            .find(|key| key.id() == envelope.key_id())
            .ok_or_else(|| OpenError::UnknownKey { key_id: envelope.key_id().to_owned() })?;
        let opened = key.cipher().open(&associated_data(key.id(), organization, data_key_id), &envelope)?;
        if opened.len() != KEY_LEN {
            return Err(OpenError::UnexpectedContent);
        }
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        bytes.copy_from_slice(&opened);
        Ok(DataKey::new(data_key_id.clone(), bytes))
    }

    fn keys(&self) -> impl Iterator<Item = &KeyEncryptionKey> {
        std::iter::once(&self.primary).chain(&self.others)
    }
}

fn associated_data(key_id: &str, organization: &OrganizationId, data_key_id: &DataKeyId) -> Vec<u8> {
    framing::join([
        b"keyholder/wrapped-data-key/v1",
        key_id.as_bytes(),
        organization.as_str().as_bytes(),
        data_key_id.as_str().as_bytes(),
    ])
}

#[cfg(test)]
mod tests;
