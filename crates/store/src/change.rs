use keyholder_domain::{OrganizationId, ProviderId};
use sqlx::{PgConnection, Postgres, Transaction};

use crate::{Store, StoreError};

/// A transaction that changes one organization.
///
/// It holds the organization's row, so changes of one organization happen one after the other, and what was
/// read inside it still holds when it commits. Dropped without [`Change::commit`], it changes nothing.
#[derive(Debug)]
pub struct Change {
    transaction: Transaction<'static, Postgres>,
    organization_id: OrganizationId,
    number: i64,
}

impl Store {
    /// Begins a change; the organization comes into being with its first one.
    pub async fn change(&self, organization_id: &OrganizationId) -> Result<Change, StoreError> {
        let transaction = self.changes.begin().await?;
        let mut change = Change { transaction, organization_id: organization_id.clone(), number: 0 };
        change.number = sqlx::query_scalar!(
            "INSERT INTO organizations AS o (organization_id, change) VALUES ($1, 1)
             ON CONFLICT (organization_id) DO UPDATE SET change = o.change + 1
             RETURNING change",
            organization_id.as_str(),
        )
        .fetch_one(change.connection())
        .await?;
        Ok(change)
    }
}

impl Change {
    /// Makes the change durable and tells the watchers.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        sqlx::query!(
            "SELECT pg_notify('keyholder_changes', $1) IS NULL AS told",
            self.organization_id.as_str()
        )
        .fetch_one(&mut *self.transaction)
        .await?;
        Ok(self.transaction.commit().await?)
    }

    pub(crate) const fn organization_id(&self) -> &OrganizationId {
        &self.organization_id
    }

    pub(crate) const fn number(&self) -> i64 {
        self.number
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Grows the generation of the set of connections and grants at a provider.
    pub(crate) async fn grow_provider(&mut self, provider_id: &ProviderId) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO provider_generations AS p (organization_id, provider_id, generation) VALUES ($1, $2, 1)
             ON CONFLICT (organization_id, provider_id) DO UPDATE SET generation = p.generation + 1",
            self.organization_id.as_str(),
            provider_id.as_str(),
        )
        .execute(&mut *self.transaction)
        .await?;
        Ok(())
    }
}
