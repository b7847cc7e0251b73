use keyholder_domain::{Generation, OrganizationId};

use crate::{DataKeyId, framing};

/// Where a sealed value stands. It opens only there.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The tenant that the row belongs to.
    pub organization: &'a OrganizationId,
    /// The row's id as text, such as a connection id. Ids of different nouns differ by their prefix.
    pub row: &'a str,
    /// Which of the row's sealed values, such as `credential`.
    pub field: &'static str,
    /// The row's generation that the value came with.
    pub generation: Generation,
}

impl Place<'_> {
    /// The associated data of a value that a data key seals here.
    pub(crate) fn associated_data(&self, key_id: &DataKeyId) -> Vec<u8> {
        framing::join([
            b"keyholder/sealed/v1",
            key_id.as_str().as_bytes(),
            self.organization.as_str().as_bytes(),
            self.row.as_bytes(),
            self.field.as_bytes(),
            &self.generation.get().to_be_bytes(),
        ])
    }
}
