//! The feed of changes: every connection carries the organization's change number of its last change, so what
//! changed since is one range of an index, and needs no log that would have to be cleaned up.

use std::collections::BTreeMap;

use keyholder_domain::{ConnectionId, OrganizationId, Principal, ProviderId};
use sqlx::postgres::PgListener;
use sqlx::types::Json;
use uuid::Uuid;

use crate::connections::connections;
use crate::row::ConnectionRow;
use crate::{Store, StoreError, StoredConnection};

/// A place in an organization's feed.
pub type ChangeNumber = i64;

/// Which changes to read.
#[derive(Debug, Clone, Default)]
pub struct ChangeFilter {
    /// Of connections of this owner.
    pub owner: Option<Principal>,
    /// Of connections at this provider.
    pub provider_id: Option<ProviderId>,
}

impl Store {
    /// The connections that changed behind a place, the earliest change first.
    pub async fn changes(
        &self,
        organization_id: &OrganizationId,
        filter: &ChangeFilter,
        after: ChangeNumber,
        limit: i64,
    ) -> Result<Vec<StoredConnection>, StoreError> {
        let rows = run!(self, connection => {
            connections!(
                "SELECT",
                "FROM connections
                     WHERE organization_id = $1 AND change > $2
                       AND ($3::text IS NULL OR owner = $3)
                       AND ($4::text IS NULL OR provider_id = $4)
                     ORDER BY change
                     LIMIT $5",
                organization_id.as_str(),
                after,
                filter.owner.as_ref().map(Principal::as_str),
                filter.provider_id.as_ref().map(ProviderId::as_str),
                limit,
            )
            .fetch_all(connection)
            .await
        })?;
        rows.into_iter().map(StoredConnection::try_from).collect()
    }

    /// The place of an organization's last change; 0 before its first.
    pub async fn last_change(&self, organization_id: &OrganizationId) -> Result<ChangeNumber, StoreError> {
        let number = run!(self, connection => {
            sqlx::query_scalar!(
                "SELECT change FROM organizations WHERE organization_id = $1",
                organization_id.as_str(),
            )
            .fetch_optional(connection)
            .await
        })?;
        Ok(number.unwrap_or(0))
    }

    /// Listens for what replicas tell each other, and passes it on. Never returns while Postgres answers.
    pub async fn listen(&self, tell: impl Fn(Notice)) -> Result<(), StoreError> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen_all(["keyholder_changes", "keyholder_refreshes"]).await?;
        tell(Notice::Missed);
        loop {
            match listener.try_recv().await? {
                Some(told) => tell(Notice::read(told.channel(), told.payload())),
                None => tell(Notice::Missed),
            }
        }
    }
}

/// What one replica tells the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Something has changed in an organization.
    Changed(OrganizationId),
    /// Somebody waits for a connection to be refreshed.
    RefreshDemanded,
    /// An attempt to refresh a connection has ended.
    RefreshEnded(ConnectionId),
    /// Notices may have been missed: everyone had better look.
    Missed,
}

impl Notice {
    fn read(channel: &str, payload: &str) -> Self {
        let read = match (channel, payload) {
            ("keyholder_refreshes", "") => Some(Self::RefreshDemanded),
            ("keyholder_refreshes", id) => {
                Uuid::try_parse(id).ok().map(|id| Self::RefreshEnded(ConnectionId::from_uuid(id)))
            }
            (_, id) => OrganizationId::parse(id).ok().map(Self::Changed),
        };
        read.unwrap_or(Self::Missed)
    }
}
