//! OAuth flows in progress.
//!
//! A browser names no organization. It brings a secret of 256 random bits, whose hash finds the flow and so the
//! organization; those queries only read. Everything that changes a flow names the organization.

use std::collections::BTreeMap;

use keyholder_domain::{
    AuthMethod, Authorization, AuthorizationFailure, AuthorizationId, AuthorizationState, ConnectionId,
    Invalid, Labels, OrganizationId, Principal, ProviderId, RequestId, Scopes, Text, Timestamp, WorkloadId,
};
use sqlx::types::Json;
use uuid::Uuid;

use crate::row::one_row;
use crate::{Change, InTime as _, Remembered, Store, StoreError};

/// An authorization as the database holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAuthorization {
    /// The authorization.
    pub authorization: Authorization,
    /// The hash of the cookie of the browser that opened it last.
    pub browser_hash: Option<Vec<u8>>,
    /// Its sealed secrets; none once it is over.
    pub sealed_flow: Option<String>,
    /// The provider's sealed answer, while nothing was made of it.
    pub sealed_answer: Option<String>,
    /// For a device: how many seconds to leave between two questions.
    pub poll_seconds: Option<i32>,
}

/// An authorization that is not in the database yet.
#[derive(Debug)]
pub struct NewAuthorization<'a> {
    /// The authorization.
    pub authorization: &'a Authorization,
    /// The hash of the secret in the link to the start page.
    pub ticket_hash: Option<&'a [u8]>,
    /// The hash of the state.
    pub state_hash: Option<&'a [u8]>,
    /// Its sealed secrets.
    pub sealed_flow: &'a str,
    /// For a device: how many seconds to leave between two questions.
    pub poll_seconds: Option<i32>,
    /// For one that is exchanged at once: for how many seconds it is ours.
    pub lease: Option<f64>,
    /// What makes the start idempotent, with a keyed hash of the request.
    pub request: Option<(&'a RequestId, &'a str)>,
}

/// By what a browser finds its flow.
#[derive(Debug, Clone, Copy)]
pub enum BrowserKey<'a> {
    /// The hash of the secret in the link to the start page.
    Ticket(&'a [u8]),
    /// The hash of the state.
    State(&'a [u8]),
}

#[derive(Debug)]
struct AuthorizationRow {
    organization_id: String,
    authorization_id: Uuid,
    owner: String,
    provider_id: String,
    auth_method: String,
    connection_id: Option<Uuid>,
    reauthorizes: bool,
    display_name: String,
    labels: Json<BTreeMap<String, String>>,
    config: Json<BTreeMap<String, String>>,
    scopes: Vec<String>,
    client_id: String,
    redirect_uri: String,
    return_url: String,
    completion_challenge: String,
    state: String,
    failure: Option<String>,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: String,
    browser_hash: Option<Vec<u8>>,
    sealed_flow: Option<String>,
    sealed_answer: Option<String>,
    poll_seconds: Option<i32>,
    started_by: String,
    create_time: Timestamp,
    expire_time: Timestamp,
}

/// A query that answers with rows of `authorizations`: the text around the column list, then the arguments.
macro_rules! authorizations {
    ($before:literal, $after:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            AuthorizationRow,
            $before
                + r#" organization_id, authorization_id, owner, provider_id, auth_method, connection_id,
                      reauthorizes, display_name, labels AS "labels: Json<BTreeMap<String, String>>",
                      config AS "config: Json<BTreeMap<String, String>>", scopes, client_id, redirect_uri,
                      return_url, completion_challenge, state, failure, user_code, verification_uri,
                      verification_uri_complete, browser_hash, sealed_flow, sealed_answer, poll_seconds, started_by,
                      create_time, expire_time "#
                + $after
            $(, $argument)*
        )
    };
}

impl Store {
    /// Reads an authorization.
    pub async fn authorization(
        &self,
        organization_id: &OrganizationId,
        id: AuthorizationId,
    ) -> Result<Option<StoredAuthorization>, StoreError> {
        run!(self, connection => {
            authorizations!(
                "SELECT",
                "FROM authorizations WHERE organization_id = $1 AND authorization_id = $2",
                organization_id.as_str(),
                id.as_uuid(),
            )
            .fetch_optional(connection)
            .await
        })?
        .map(StoredAuthorization::try_from)
        .transpose()
    }

    /// The authorization that a browser's secret stands for. Writes nothing, whatever is brought.
    pub async fn authorization_of_browser(
        &self,
        key: BrowserKey<'_>,
    ) -> Result<Option<StoredAuthorization>, StoreError> {
        let (ticket, state) = match key {
            BrowserKey::Ticket(hash) => (Some(hash), None),
            BrowserKey::State(hash) => (None, Some(hash)),
        };
        run!(self, connection => {
            authorizations!(
                "SELECT",
                "FROM authorizations WHERE ticket_hash = $1 OR state_hash = $2",
                ticket,
                state,
            )
            .fetch_optional(connection)
            .await
        })?
        .map(StoredAuthorization::try_from)
        .transpose()
    }

    /// Binds a flow that waits to a browser. `false`: it no longer waits.
    pub async fn bind_browser(
        &self,
        authorization: &Authorization,
        browser_hash: &[u8],
    ) -> Result<bool, StoreError> {
        let result = run!(self, connection => {
            sqlx::query!(
                "UPDATE authorizations SET browser_hash = $3
                 WHERE organization_id = $1 AND authorization_id = $2 AND state = 'PENDING'
                   AND expire_time > clock_timestamp()",
                authorization.organization_id.as_str(),
                authorization.id.as_uuid(),
                browser_hash,
            )
            .execute(connection)
            .await
        })?;
        Ok(result.rows_affected() == 1)
    }

    /// Takes a flow that waits, once for all replicas, for `lease` seconds. `false`: somebody else has it, or it
    /// waits no longer. Not sent twice: if the answer is lost, whoever asked does not have it.
    pub async fn take_authorization(
        &self,
        authorization: &Authorization,
        lease: f64,
    ) -> Result<bool, StoreError> {
        let mut connection = self.live_connection().await?;
        let result = sqlx::query!(
            "UPDATE authorizations
             SET state = 'EXCHANGING', lease_expire_time = clock_timestamp() + make_interval(secs => $3)
             WHERE organization_id = $1 AND authorization_id = $2 AND state = 'PENDING'
               AND expire_time > clock_timestamp()",
            authorization.organization_id.as_str(),
            authorization.id.as_uuid(),
            lease,
        )
        .execute(&mut *connection)
        .await?;
        Ok(result.rows_affected() == 1)
    }

    /// Keeps a provider's answer before anything is made of it. `false`: the flow is not being exchanged.
    pub async fn keep_answer(
        &self,
        authorization: &Authorization,
        sealed_answer: &str,
    ) -> Result<bool, StoreError> {
        let result = run!(self, connection => {
            sqlx::query!(
                "UPDATE authorizations SET sealed_answer = $3
                 WHERE organization_id = $1 AND authorization_id = $2 AND state = 'EXCHANGING'
                   AND (sealed_answer IS NULL OR sealed_answer = $3)",
                authorization.organization_id.as_str(),
                authorization.id.as_uuid(),
                sealed_answer,
            )
            .execute(connection)
            .await
        })?;
        Ok(result.rows_affected() == 1)
    }

    /// Says when a device is to be asked for again.
    pub async fn postpone_device(
        &self,
        authorization: &Authorization,
        poll_seconds: i32,
    ) -> Result<(), StoreError> {
        run!(self, connection => {
            sqlx::query!(
                "UPDATE authorizations SET state = 'PENDING', poll_seconds = $3, lease_expire_time = NULL,
                     poll_time = clock_timestamp() + make_interval(secs => $3::integer)
                 WHERE organization_id = $1 AND authorization_id = $2 AND state = 'EXCHANGING'
                   AND sealed_answer IS NULL",
                authorization.organization_id.as_str(),
                authorization.id.as_uuid(),
                poll_seconds,
            )
            .execute(connection)
            .await
        })?;
        Ok(())
    }

    /// Takes up to `limit` flows in which something is to be done without a browser, of any organization: devices that
    /// are due, exchanges whose process is gone, and flows that nobody finished in time. Each is taken by one
    /// replica, for `lease` seconds.
    pub async fn take_due_authorizations(
        &self,
        lease: f64,
        limit: i64,
    ) -> Result<Vec<StoredAuthorization>, StoreError> {
        let rows = run!(self, connection => {
            authorizations!(
                "WITH due AS (
                     SELECT organization_id, authorization_id FROM authorizations
                     WHERE state IN ('PENDING', 'EXCHANGING', 'AWAITING_COMPLETION')
                       AND (lease_expire_time IS NULL OR lease_expire_time < statement_timestamp())
                       AND (expire_time < statement_timestamp() OR state = 'EXCHANGING'
                            OR (state = 'PENDING' AND poll_time < statement_timestamp()))
                     ORDER BY expire_time LIMIT $2 FOR UPDATE SKIP LOCKED
                 )
                 UPDATE authorizations
                 SET lease_expire_time = clock_timestamp() + make_interval(secs => $1),
                     state = CASE WHEN state = 'PENDING' AND expire_time > clock_timestamp()
                                  THEN 'EXCHANGING' ELSE state END
                 WHERE (organization_id, authorization_id) IN (SELECT organization_id, authorization_id FROM due)
                 RETURNING",
                "",
                lease,
                limit,
            )
            .fetch_all(connection)
            .await
        })?;
        rows.into_iter().map(StoredAuthorization::try_from).collect()
    }
}

impl Change {
    /// Reads an authorization inside the change.
    pub async fn stored_authorization(
        &mut self,
        id: AuthorizationId,
    ) -> Result<Option<StoredAuthorization>, StoreError> {
        let organization_id = self.organization_id().clone();
        authorizations!(
            "SELECT",
            "FROM authorizations WHERE organization_id = $1 AND authorization_id = $2",
            organization_id.as_str(),
            id.as_uuid(),
        )
        .fetch_optional(self.connection())
        .in_time()
        .await?
        .map(StoredAuthorization::try_from)
        .transpose()
    }

    /// The authorization that an earlier request with this id began.
    pub async fn remembered_authorization(
        &mut self,
        request_id: &RequestId,
    ) -> Result<Option<Remembered<StoredAuthorization>>, StoreError> {
        let organization_id = self.organization_id().clone();
        let Some(found) = sqlx::query!(
            r#"SELECT authorization_id, request_fingerprint AS "fingerprint!" FROM authorizations
               WHERE organization_id = $1 AND request_id = $2"#,
            organization_id.as_str(),
            request_id.as_str(),
        )
        .fetch_optional(self.connection())
        .in_time()
        .await?
        else {
            return Ok(None);
        };
        let made = self.stored_authorization(AuthorizationId::from_uuid(found.authorization_id)).await?;
        Ok(made.map(|made| Remembered { made, fingerprint: found.fingerprint }))
    }

    /// Adds an authorization.
    pub async fn insert_authorization(&mut self, new: &NewAuthorization<'_>) -> Result<(), StoreError> {
        let authorization = new.authorization;
        let result = sqlx::query!(
            "INSERT INTO authorizations (
                 organization_id, authorization_id, owner, provider_id, auth_method, connection_id, reauthorizes,
                 display_name, labels, config, scopes, client_id, redirect_uri, return_url, completion_challenge,
                 state, user_code, verification_uri, verification_uri_complete, ticket_hash, state_hash, sealed_flow,
                 poll_time, poll_seconds, started_by, request_id, request_fingerprint, create_time, expire_time,
                 lease_expire_time
             ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
                       $21, $22, clock_timestamp() + make_interval(secs => $23::integer), $24, $25, $26, $27, $28, $29, clock_timestamp() + make_interval(secs => $30))",
            authorization.organization_id.as_str(),
            authorization.id.as_uuid(),
            authorization.owner.as_str(),
            authorization.provider_id.as_str(),
            authorization.auth_method.as_str(),
            authorization.connection_id.map(ConnectionId::as_uuid),
            authorization.reauthorizes,
            authorization.display_name.as_str(),
            Json(authorization.labels.as_map()) as _,
            Json(&authorization.config) as _,
            &authorization.scopes.to_strings(),
            authorization.client_id.as_str(),
            authorization.redirect_uri.as_str(),
            authorization.return_url.as_str(),
            authorization.completion_challenge.as_str(),
            authorization.state.as_str(),
            authorization.user_code.as_str(),
            authorization.verification_uri.as_str(),
            authorization.verification_uri_complete.as_str(),
            new.ticket_hash,
            new.state_hash,
            new.sealed_flow,
            new.poll_seconds,
            new.poll_seconds,
            authorization.started_by.to_string(),
            new.request.map(|(id, _)| id.as_str()),
            new.request.map(|(_, fingerprint)| fingerprint),
            authorization.create_time,
            authorization.expire_time,
            new.lease,
        )
        .execute(self.connection())
        .in_time()
        .await?;
        one_row("authorizations", &result)
    }

    /// Moves an authorization to the state, failure and connection that it has now; its secrets go when it is over.
    /// `false`: it is no longer in the state that it was read in.
    pub async fn move_authorization(
        &mut self,
        from: AuthorizationState,
        authorization: &Authorization,
    ) -> Result<bool, StoreError> {
        let over = matches!(authorization.state, AuthorizationState::Completed | AuthorizationState::Failed);
        let result = sqlx::query!(
            "UPDATE authorizations SET state = $4, failure = $5, connection_id = $6, lease_expire_time = NULL,
                 sealed_flow = CASE WHEN $7 THEN NULL ELSE sealed_flow END,
                 sealed_answer = CASE WHEN $7 THEN NULL ELSE sealed_answer END
             WHERE organization_id = $1 AND authorization_id = $2 AND state = $3",
            authorization.organization_id.as_str(),
            authorization.id.as_uuid(),
            from.as_str(),
            authorization.state.as_str(),
            authorization.failure.map(AuthorizationFailure::as_str),
            authorization.connection_id.map(ConnectionId::as_uuid),
            over,
        )
        .execute(self.connection())
        .in_time()
        .await?;
        Ok(result.rows_affected() == 1)
    }
}

impl TryFrom<AuthorizationRow> for StoredAuthorization {
    type Error = StoreError;

    fn try_from(row: AuthorizationRow) -> Result<Self, StoreError> {
        let id = AuthorizationId::from_uuid(row.authorization_id);
        let wrong = |column| StoreError::corrupt("authorizations", column, id);
        let text = |text: &str, column| Text::parse(text).map_err(wrong(column));
        let labels = row.labels.0.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let authorization = Authorization {
            id,
            organization_id: OrganizationId::parse(&row.organization_id).map_err(wrong("organization_id"))?,
            owner: Principal::parse_owner(&row.owner).map_err(wrong("owner"))?,
            provider_id: ProviderId::parse(&row.provider_id).map_err(wrong("provider_id"))?,
            auth_method: AuthMethod::parse(&row.auth_method).map_err(wrong("auth_method"))?,
            connection_id: row.connection_id.map(ConnectionId::from_uuid),
            reauthorizes: row.reauthorizes,
            display_name: text(&row.display_name, "display_name")?,
            labels: Labels::parse(labels).map_err(wrong("labels"))?,
            config: row.config.0,
            scopes: Scopes::parse(&row.scopes).map_err(wrong("scopes"))?,
            client_id: text(&row.client_id, "client_id")?,
            redirect_uri: row.redirect_uri,
            return_url: row.return_url,
            completion_challenge: text(&row.completion_challenge, "completion_challenge")?,
            state: AuthorizationState::parse(&row.state)
                .ok_or(Invalid("must be a state"))
                .map_err(wrong("state"))?,
            failure: row
                .failure
                .map(|failure| AuthorizationFailure::parse(&failure).ok_or(Invalid("must be a failure")))
                .transpose()
                .map_err(wrong("failure"))?,
            user_code: text(&row.user_code, "user_code")?,
            verification_uri: row.verification_uri,
            verification_uri_complete: row.verification_uri_complete,
            started_by: WorkloadId::parse(&row.started_by).map_err(wrong("started_by"))?,
            create_time: row.create_time,
            expire_time: row.expire_time,
        };
        Ok(Self {
            authorization,
            browser_hash: row.browser_hash,
            sealed_flow: row.sealed_flow,
            sealed_answer: row.sealed_answer,
            poll_seconds: row.poll_seconds,
        })
    }
}
