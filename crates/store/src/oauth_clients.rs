use keyholder_domain::{Generation, OrganizationId, ProviderId, Text, Timestamp};

use crate::row::one_row;
use crate::{Change, InTime as _, Store, StoreError};

/// An organization's own OAuth client at a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOAuthClient {
    /// At which provider.
    pub provider_id: ProviderId,
    /// The client's public id.
    pub client_id: Text,
    /// Its secrets, sealed: the newest and, for a time, the one before it.
    pub sealed_secrets: Option<String>,
    /// How many secrets that are.
    pub secret_count: i32,
    /// Its version, to which the secrets are bound.
    pub generation: Generation,
    /// When it was set first.
    pub create_time: Timestamp,
    /// When it was set last.
    pub update_time: Timestamp,
}

#[derive(Debug)]
struct OAuthClientRow {
    provider_id: String,
    client_id: String,
    sealed_secrets: Option<String>,
    secret_count: i32,
    generation: i64,
    create_time: Timestamp,
    update_time: Timestamp,
}

impl Store {
    /// An organization's own client at a provider.
    pub async fn oauth_client(
        &self,
        organization_id: &OrganizationId,
        provider_id: &ProviderId,
    ) -> Result<Option<StoredOAuthClient>, StoreError> {
        run!(self, connection => {
            sqlx::query_as!(
                OAuthClientRow,
                "SELECT provider_id, client_id, sealed_secrets, secret_count, generation, create_time, update_time
                     FROM oauth_clients WHERE organization_id = $1 AND provider_id = $2",
                organization_id.as_str(),
                provider_id.as_str(),
            )
            .fetch_optional(connection)
            .await
        })?
        .map(StoredOAuthClient::try_from)
        .transpose()
    }

    /// An organization's own clients, in the order of their providers.
    pub async fn oauth_clients(
        &self,
        organization_id: &OrganizationId,
    ) -> Result<Vec<StoredOAuthClient>, StoreError> {
        let rows = run!(self, connection => {
            sqlx::query_as!(
                OAuthClientRow,
                "SELECT provider_id, client_id, sealed_secrets, secret_count, generation, create_time, update_time
                     FROM oauth_clients WHERE organization_id = $1 ORDER BY provider_id LIMIT 1000",
                organization_id.as_str(),
            )
            .fetch_all(connection)
            .await
        })?;
        rows.into_iter().map(StoredOAuthClient::try_from).collect()
    }
}

impl Change {
    /// An organization's own client at a provider, inside the change.
    pub async fn oauth_client(
        &mut self,
        provider_id: &ProviderId,
    ) -> Result<Option<StoredOAuthClient>, StoreError> {
        let organization_id = self.organization_id().clone();
        sqlx::query_as!(
            OAuthClientRow,
            "SELECT provider_id, client_id, sealed_secrets, secret_count, generation, create_time, update_time
                 FROM oauth_clients WHERE organization_id = $1 AND provider_id = $2",
            organization_id.as_str(),
            provider_id.as_str(),
        )
        .fetch_optional(self.connection())
        .in_time()
        .await?
        .map(StoredOAuthClient::try_from)
        .transpose()
    }

    /// Sets an organization's own client at a provider, which must be at the generation before its own.
    pub async fn set_oauth_client(&mut self, client: &StoredOAuthClient) -> Result<(), StoreError> {
        let organization_id = self.organization_id().clone();
        let result = sqlx::query!(
            "INSERT INTO oauth_clients AS c (organization_id, provider_id, client_id, sealed_secrets, secret_count,
                 generation, create_time, update_time)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (organization_id, provider_id) DO UPDATE SET client_id = $3, sealed_secrets = $4,
                 secret_count = $5, generation = $6, update_time = $8
             WHERE c.generation = $6 - 1",
            organization_id.as_str(),
            client.provider_id.as_str(),
            client.client_id.as_str(),
            client.sealed_secrets.as_deref(),
            client.secret_count,
            client.generation.get(),
            client.create_time,
            client.update_time,
        )
        .execute(self.connection())
        .in_time()
        .await?;
        one_row("oauth_clients", &result)
    }

    /// Removes an organization's own client at a provider. `false`: there was none.
    pub async fn remove_oauth_client(&mut self, provider_id: &ProviderId) -> Result<bool, StoreError> {
        let organization_id = self.organization_id().clone();
        let result = sqlx::query!(
            "DELETE FROM oauth_clients WHERE organization_id = $1 AND provider_id = $2",
            organization_id.as_str(),
            provider_id.as_str(),
        )
        .execute(self.connection())
        .in_time()
        .await?;
        Ok(result.rows_affected() == 1)
    }
}

impl TryFrom<OAuthClientRow> for StoredOAuthClient {
    type Error = StoreError;

    fn try_from(row: OAuthClientRow) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::corrupt("oauth_clients", column, &row.provider_id);
        Ok(Self {
            provider_id: ProviderId::parse(&row.provider_id).map_err(wrong("provider_id"))?,
            client_id: Text::parse(&row.client_id).map_err(wrong("client_id"))?,
            generation: Generation::new(row.generation).map_err(wrong("generation"))?,
            sealed_secrets: row.sealed_secrets,
            secret_count: row.secret_count,
            create_time: row.create_time,
            update_time: row.update_time,
        })
    }
}
