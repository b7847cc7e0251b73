//! This installation as a whole: how far it has come, and whether refreshing is frozen.

use std::collections::BTreeMap;

use keyholder_domain::{ConnectionId, OrganizationId, ProviderId, Timestamp};
use sqlx::types::Json;
use uuid::Uuid;

use crate::{Change, InTime as _, Store, StoreError};

/// The installation.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Its id, made with the database.
    pub installation_id: Uuid,
    /// The name that the configuration gave it first; empty: none.
    pub cluster: String,
    /// How often an operator let refreshing go on.
    pub era: i64,
    /// How far it has come since.
    pub epoch: i64,
    /// The Postgres cluster that the data was in last.
    pub known_system: Option<i64>,
    /// The one that it is in now.
    pub system: i64,
    /// Since when nothing is refreshed.
    pub frozen_time: Option<Timestamp>,
    /// Why.
    pub frozen_reason: Option<String>,
    /// What came of trying one connection of each reuse class.
    pub probes: Json<BTreeMap<String, String>>,
}

/// How far an installation has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached {
    /// How often an operator let refreshing go on.
    pub era: i64,
    /// How far it has come since.
    pub epoch: i64,
}

/// A connection that stands for those of its kind.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The tenant.
    pub organization_id: OrganizationId,
    /// The connection.
    pub connection_id: ConnectionId,
}

/// A notice that is due.
#[derive(Debug, Clone)]
pub struct DueNotice {
    /// The tenant.
    pub organization_id: OrganizationId,
    /// The connection.
    pub connection_id: ConnectionId,
    /// When it was due.
    pub notice_time: Timestamp,
}

/// The state of all refreshes in numbers, for metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct RefreshNumbers {
    /// Connections that wait for their turn.
    pub ready: i64,
    /// Connections that are being refreshed.
    pub under_way: i64,
    /// Connections of which it is not known whether the provider has replaced the tokens.
    pub ambiguous: i64,
    /// Clients in quarantine.
    pub quarantined: i64,
    /// Late answers that are kept.
    pub late_answers: i64,
    /// The seconds until the first access token ends of those that wait or are being refreshed; negative: it has.
    pub time_to_safety: Option<f64>,
    /// Whether nothing is refreshed.
    pub frozen: bool,
}

impl Store {
    /// Reads the installation.
    pub async fn installation(&self) -> Result<Installation, StoreError> {
        run!(self, connection => {
            sqlx::query_as!(
                Installation,
                r#"SELECT installation_id, cluster, era, epoch, probes AS "probes: Json<BTreeMap<String, String>>", system_identifier AS known_system,
                       (SELECT s.system_identifier FROM pg_control_system() s) AS "system!", frozen_time, frozen_reason
                   FROM installation"#,
            )
            .fetch_one(connection)
            .await
        })
    }

    /// Lets the installation come a step further, unless it did within the last `seconds`, and returns how far
    /// it has come.
    pub async fn advance_epoch(&self, seconds: f64) -> Result<Reached, StoreError> {
        run!(self, connection => {
            sqlx::query_as!(
                Reached,
                r#"WITH step AS (
                       UPDATE installation SET epoch = epoch + 1, epoch_time = clock_timestamp()
                       WHERE epoch_time < clock_timestamp() - make_interval(secs => $1)
                       RETURNING epoch
                   )
                   SELECT era, coalesce((SELECT epoch FROM step), epoch) AS "epoch!" FROM installation"#,
                seconds,
            )
            .fetch_one(connection)
            .await
        })
    }

    /// Notes what came of trying a connection of a reuse class.
    pub async fn note_probe(&self, class: &str, outcome: &str) -> Result<(), StoreError> {
        run!(self, connection => {
            sqlx::query!(
                "UPDATE installation SET probes = probes || jsonb_build_object($1::text, $2::text)",
                class,
                outcome,
            )
            .execute(connection)
            .await
        })?;
        Ok(())
    }

    /// Notes which Postgres cluster the data is in, and the installation's name, if neither was known. One that has been in
    /// use without a name gets it from the operator alone.
    pub async fn settle_installation(&self, cluster: &str) -> Result<(), StoreError> {
        run!(self, connection => {
            sqlx::query!(
                "UPDATE installation SET
                     system_identifier = coalesce(system_identifier,
                                                  (SELECT s.system_identifier FROM pg_control_system() s)),
                     cluster = CASE WHEN cluster = '' AND system_identifier IS NULL THEN $1 ELSE cluster END",
                cluster,
            )
            .execute(connection)
            .await
        })?;
        Ok(())
    }

    /// Freezes refreshing. `false`: it was frozen already.
    pub async fn freeze(&self, reason: &str) -> Result<bool, StoreError> {
        let result = run!(self, connection => {
            sqlx::query!(
                "UPDATE installation SET frozen_time = clock_timestamp(), frozen_reason = $1, probes = '{}'
                 WHERE frozen_time IS NULL",
                reason,
            )
            .execute(connection)
            .await
        })?;
        Ok(result.rows_affected() == 1)
    }

    /// Lets refreshing go on: the data is where it belongs from now on, under this name. `false`: it was not frozen, and
    /// has a name already.
    pub async fn release_freeze(&self, cluster: &str) -> Result<bool, StoreError> {
        let result = run!(self, connection => {
            sqlx::query!(
                "UPDATE installation SET frozen_time = NULL, frozen_reason = NULL, cluster = $1, era = era + 1,
                     system_identifier = (SELECT s.system_identifier FROM pg_control_system() s)
                 WHERE frozen_time IS NOT NULL OR (cluster = '' AND $1 <> '')",
                cluster,
            )
            .execute(connection)
            .await
        })?;
        Ok(result.rows_affected() == 1)
    }

    /// A connection at one of these providers: the one that was refreshed last. For the operator.
    pub async fn sample(&self, providers: &[&ProviderId]) -> Result<Option<Sample>, StoreError> {
        let providers: Vec<String> = providers.iter().map(|id| id.as_str().to_owned()).collect();
        let found = run!(self, connection => {
            sqlx::query_as!(
                SampleRow,
                "SELECT r.organization_id, r.connection_id FROM refreshes r
                 JOIN connections c USING (organization_id, connection_id)
                 WHERE r.provider_id = ANY($1) AND r.attempt_id IS NULL AND c.state = 'ACTIVE'
                   AND c.sealed_renewal IS NOT NULL
                 ORDER BY r.last_success_time DESC NULLS LAST LIMIT 1",
                &providers,
            )
            .fetch_optional(connection)
            .await
        })?;
        found.map(Sample::try_from).transpose()
    }

    /// Up to `limit` connections whose owner is to be told that their permission ends.
    pub async fn due_notices(&self, limit: i64) -> Result<Vec<DueNotice>, StoreError> {
        let rows = run!(self, connection => {
            sqlx::query_as!(
                NoticeRow,
                r#"SELECT organization_id, connection_id, notice_time AS "notice_time!" FROM refreshes
                   WHERE notice_time <= statement_timestamp() ORDER BY notice_time LIMIT $1"#,
                limit,
            )
            .fetch_all(connection)
            .await
        })?;
        rows.into_iter().map(DueNotice::try_from).collect()
    }

    /// All refreshes in numbers.
    pub async fn refresh_numbers(&self) -> Result<RefreshNumbers, StoreError> {
        run!(self, connection => {
            sqlx::query_as!(
                RefreshNumbers,
                r#"SELECT
                       (SELECT count(*) FROM refreshes WHERE ready) AS "ready!",
                       (SELECT count(*) FROM refreshes WHERE lease_expire_time IS NOT NULL) AS "under_way!",
                       (SELECT count(*) FROM refreshes WHERE ambiguous_time IS NOT NULL) AS "ambiguous!",
                       (SELECT count(*) FROM provider_clients WHERE quarantine IS NOT NULL) AS "quarantined!",
                       (SELECT count(*) FROM late_answers) AS "late_answers!",
                       extract(epoch FROM least(
                           (SELECT min(deadline) FROM refreshes WHERE ready),
                           (SELECT min(deadline) FROM refreshes WHERE lease_expire_time IS NOT NULL)
                       ) - clock_timestamp())::double precision AS time_to_safety,
                       (SELECT frozen_time IS NOT NULL FROM installation) AS "frozen!""#,
            )
            .fetch_one(connection)
            .await
        })
    }
}

struct SampleRow {
    organization_id: String,
    connection_id: Uuid,
}

struct NoticeRow {
    organization_id: String,
    connection_id: Uuid,
    notice_time: Timestamp,
}

fn organization_of(text: &str, connection_id: ConnectionId) -> Result<OrganizationId, StoreError> {
    OrganizationId::parse(text).map_err(StoreError::corrupt("refreshes", "organization_id", connection_id))
}

impl TryFrom<SampleRow> for Sample {
    type Error = StoreError;

    fn try_from(row: SampleRow) -> Result<Self, StoreError> {
        let connection_id = ConnectionId::from_uuid(row.connection_id);
        Ok(Self { organization_id: organization_of(&row.organization_id, connection_id)?, connection_id })
    }
}

impl TryFrom<NoticeRow> for DueNotice {
    type Error = StoreError;

    fn try_from(row: NoticeRow) -> Result<Self, StoreError> {
        let connection_id = ConnectionId::from_uuid(row.connection_id);
        let organization_id = organization_of(&row.organization_id, connection_id)?;
        Ok(Self { organization_id, connection_id, notice_time: row.notice_time })
    }
}

impl Change {
    /// Says when the owner of a connection is told next that the permission ends, and shows the connection to whoever
    /// watches. The generation stays: what is decided about the connection is the same as before. `false`: somebody else
    /// has done so.
    pub async fn set_notice(&mut self, due: &DueNotice, next: Option<Timestamp>) -> Result<bool, StoreError> {
        let id = due.connection_id;
        let organization_id = self.organization_id().clone();
        let number = self.number();
        let mine = sqlx::query!(
            "UPDATE refreshes SET notice_time = $3
             WHERE organization_id = $1 AND connection_id = $2 AND notice_time = $4",
            organization_id.as_str(),
            id.as_uuid(),
            next,
            due.notice_time,
        )
        .execute(self.connection())
        .in_time()
        .await?;
        if mine.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query!(
            "UPDATE connections SET change = $3 WHERE organization_id = $1 AND connection_id = $2",
            organization_id.as_str(),
            id.as_uuid(),
            number,
        )
        .execute(self.connection())
        .in_time()
        .await?;
        Ok(true)
    }
}
