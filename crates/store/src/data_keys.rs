use keyholder_domain::OrganizationId;

use crate::{Change, InTime as _, Store, StoreError};

/// An organization's data key, wrapped by a key-encryption key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDataKey {
    /// Its id: `dk_` and 32 hex digits; ids made later sort later.
    pub data_key_id: String,
    /// `enc:v1:<key-encryption key id>:…`
    pub wrapped: String,
}

impl Change {
    /// The data key that seals: the newest one. None before the organization's first connection.
    pub async fn data_key(&mut self) -> Result<Option<StoredDataKey>, StoreError> {
        let organization_id = self.organization_id().clone();
        Ok(sqlx::query_as!(
            StoredDataKey,
            "SELECT data_key_id, wrapped FROM data_keys WHERE organization_id = $1
             ORDER BY data_key_id DESC LIMIT 1",
            organization_id.as_str(),
        )
        .fetch_optional(self.connection())
        .in_time()
        .await?)
    }

    /// Adds a data key, which from now on is the one that seals.
    pub async fn insert_data_key(&mut self, key: &StoredDataKey) -> Result<(), StoreError> {
        let organization_id = self.organization_id().clone();
        sqlx::query!(
            "INSERT INTO data_keys (organization_id, data_key_id, wrapped) VALUES ($1, $2, $3)",
            organization_id.as_str(),
            key.data_key_id,
            key.wrapped,
        )
        .execute(self.connection())
        .in_time()
        .await?;
        Ok(())
    }
}

impl Store {
    /// One data key.
    pub async fn data_key(
        &self,
        organization_id: &OrganizationId,
        data_key_id: &str,
    ) -> Result<Option<StoredDataKey>, StoreError> {
        run!(self, connection => {
            sqlx::query_as!(
                StoredDataKey,
                "SELECT data_key_id, wrapped FROM data_keys WHERE organization_id = $1 AND data_key_id = $2",
                organization_id.as_str(),
                data_key_id,
            )
            .fetch_optional(connection)
            .await
        })
    }

    /// The ids of the key-encryption keys that any organization's data key is wrapped by. For the operator: the one
    /// query that looks at all organizations, and it tells of none.
    pub async fn wrapping_key_ids(&self) -> Result<Vec<String>, StoreError> {
        run!(self, connection => {
            sqlx::query_scalar!(
                r#"SELECT DISTINCT split_part(wrapped, ':', 3) AS "key_id!" FROM data_keys ORDER BY 1"#
            )
            .fetch_all(connection)
            .await
        })
    }
}
