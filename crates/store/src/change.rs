use keyholder_domain::{OrganizationId, ProviderId};
use sqlx::pool::PoolConnection;
use sqlx::{Executor as _, PgConnection, Postgres};

use crate::{InTime as _, Store, StoreError, discard};

/// A transaction that changes one organization.
///
/// It holds the organization's row, so changes of one organization happen one after the other, and what was
/// read inside it still holds when it commits. Dropped without [`Change::commit`], it changes nothing.
#[derive(Debug)]
pub struct Change {
    /// Nothing once it is over.
    connection: Option<PoolConnection<Postgres>>,
    organization_id: OrganizationId,
    number: i64,
}

impl Store {
    /// Begins a change; the organization comes into being with its first one.
    pub async fn change(&self, organization_id: &OrganizationId) -> Result<Change, StoreError> {
        let connection = Some(self.changes.acquire().await?);
        let mut change = Change { connection, organization_id: organization_id.clone(), number: 0 };
        change.connection().execute("BEGIN").in_time().await?;
        change.number = sqlx::query_scalar!(
            "INSERT INTO organizations AS o (organization_id, change) VALUES ($1, 1)
             ON CONFLICT (organization_id) DO UPDATE SET change = o.change + 1
             RETURNING change",
            organization_id.as_str(),
        )
        .fetch_one(change.connection())
        .in_time()
        .await?;
        Ok(change)
    }
}

impl Change {
    /// Makes the change durable and tells the watchers.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        let organization_id = self.organization_id.clone();
        sqlx::query!("SELECT pg_notify('keyholder_changes', $1) IS NULL AS told", organization_id.as_str(),)
            .fetch_one(self.connection())
            .in_time()
            .await?;
        self.connection().execute("COMMIT").in_time().await?;
        drop(self.connection.take());
        Ok(())
    }

    pub(crate) const fn organization_id(&self) -> &OrganizationId {
        &self.organization_id
    }

    pub(crate) const fn number(&self) -> i64 {
        self.number
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("only commit takes it, and ends the change")
    }

    /// Grows the generation of the set of connections and grants at a provider.
    pub(crate) async fn grow_provider(&mut self, provider_id: &ProviderId) -> Result<(), StoreError> {
        let organization_id = self.organization_id.clone();
        sqlx::query!(
            "INSERT INTO provider_generations AS p (organization_id, provider_id, generation) VALUES ($1, $2, 1)
             ON CONFLICT (organization_id, provider_id) DO UPDATE SET generation = p.generation + 1",
            organization_id.as_str(),
            provider_id.as_str(),
        )
        .execute(self.connection())
        .in_time()
        .await?;
        Ok(())
    }
}

impl Drop for Change {
    /// Takes back what was not committed. A connection that no longer answers is thrown away: its transaction ends with it.
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if connection.execute("ROLLBACK").in_time().await.is_err() {
                    discard(connection).await;
                }
            });
        }
    }
}
