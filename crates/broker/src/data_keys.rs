use std::sync::Arc;

use keyholder_domain::OrganizationId;
use keyholder_store::{Change, StoredDataKey};
use keyholder_vault::{DataKey, DataKeyId, OpenError};

use crate::{Broker, BrokerError};

impl Broker {
    /// The data key that seals in an organization; made with its first connection.
    pub(crate) async fn sealing_key(
        &self,
        organization_id: &OrganizationId,
        change: &mut Change,
    ) -> Result<Arc<DataKey>, BrokerError> {
        if let Some(stored) = change.data_key().await? {
            return self.opened(organization_id, &stored).map_err(BrokerError::DataKeyUnreadable);
        }
        let key = DataKey::generate(self.now());
        let stored = StoredDataKey {
            data_key_id: key.id().as_str().to_owned(),
            wrapped: self.0.keys.wrap(&key, organization_id).as_str().to_owned(),
        };
        change.insert_data_key(&stored).await?;
        // Not cached: the change may yet be dropped.
        Ok(Arc::new(key))
    }

    /// A stored data key, opened.
    pub(crate) fn opened(
        &self,
        organization_id: &OrganizationId,
        stored: &StoredDataKey,
    ) -> Result<Arc<DataKey>, OpenError> {
        if let Some(key) = self.0.data_keys.get(organization_id, &stored.data_key_id) {
            return Ok(key);
        }
        let id = DataKeyId::parse(&stored.data_key_id).map_err(|_| OpenError::Malformed)?;
        let key = Arc::new(self.0.keys.unwrap(organization_id, &id, &stored.wrapped)?);
        self.0.data_keys.insert(organization_id, Arc::clone(&key));
        Ok(key)
    }
}
