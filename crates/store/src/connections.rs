use std::collections::BTreeMap;

use keyholder_domain::{
    Account, Connection, ConnectionId, ConnectionState, Generation, LastTest, OrganizationId, Principal,
    ProviderId, RequestId, TestClass, Text, Timestamp,
};
use sqlx::types::Json;

use crate::row::{ConnectionRow, one_row};
use crate::{Change, InTime as _, Store, StoreError};

/// A sealed credential and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// `enc:v1:<data key id>:…`
    pub credential: String,
    /// The connection's generation at which it was sealed, to which it is bound.
    pub generation: Generation,
    /// A keyed hash that recognises the same credential twice.
    pub fingerprint: String,
    /// What the next access token is got with, sealed like the credential; none where nothing renews it, and where a
    /// resolve reads the row, which has no use for it.
    pub renewal: Option<String>,
}

/// A connection as the database holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredConnection {
    /// The connection.
    pub connection: Connection,
    /// Its sealed credential; none while it is pending and after it was deleted.
    pub sealed: Option<Sealed>,
    /// The organization's change number of its last change.
    pub change: i64,
}

/// A connection that is not in the database yet.
#[derive(Debug)]
pub struct NewConnection<'a> {
    /// The connection, at its first generation.
    pub connection: &'a Connection,
    /// Its sealed credential.
    pub sealed: Option<&'a Sealed>,
    /// What makes the create idempotent, with a keyed hash of the request.
    pub request: Option<(&'a RequestId, &'a str)>,
}

/// What an earlier request with the same id made.
#[derive(Debug)]
pub struct Remembered<T> {
    /// What it made, as it is now.
    pub made: T,
    /// The keyed hash of that request.
    pub fingerprint: String,
}

/// Which connections to list.
#[derive(Debug, Clone, Default)]
pub struct ConnectionFilter {
    /// Of this owner.
    pub owner: Option<Principal>,
    /// At this provider.
    pub provider_id: Option<ProviderId>,
    /// Of this account.
    pub account_id: Option<Text>,
    /// In one of these states.
    pub states: Vec<ConnectionState>,
    /// Whose last test went in one of these ways; empty: in any, or was never made.
    pub last_test_classes: Vec<TestClass>,
    /// Behind this one.
    pub after: Option<ConnectionId>,
    /// At most so many.
    pub limit: i64,
}

/// A query that answers with rows of `connections`: the text around the column list, then the arguments.
macro_rules! connections {
    ($before:literal, $after:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            ConnectionRow,
            $before
                + r#" organization_id, connection_id, owner, provider_id, auth_method, display_name, account_id,
                      account_name, account_email, scopes, state, state_reason, sealed_credential,
                      sealed_generation, credential_fingerprint, credential_fields,
                      config AS "config: Json<BTreeMap<String, String>>",
                      labels AS "labels: Json<BTreeMap<String, String>>",
                      last_test_time, last_test_class, last_test_http_status, last_test_summary,
                      token_client_id, token_scopes_asked, token_expire_time, token_renewal_missing,
                      token_idle_expire_time, token_absolute_expire_time, sealed_renewal,
                      sealed_renewal IS NOT NULL AS "token_renewable!",
                      change, generation, create_time, update_time "#
                + $after
            $(, $argument)*
        )
    };
}
pub(crate) use connections;

impl Store {
    /// Reads a connection, deleted ones too.
    pub async fn connection(
        &self,
        organization_id: &OrganizationId,
        id: ConnectionId,
    ) -> Result<Option<StoredConnection>, StoreError> {
        run!(self, connection => {
            connections!(
                "SELECT",
                "FROM connections WHERE organization_id = $1 AND connection_id = $2",
                organization_id.as_str(),
                id.as_uuid(),
            )
            .fetch_optional(connection)
            .await
        })?
        .map(StoredConnection::try_from)
        .transpose()
    }

    /// Lists connections in the order in which they were made.
    pub async fn connections(
        &self,
        organization_id: &OrganizationId,
        filter: &ConnectionFilter,
    ) -> Result<Vec<StoredConnection>, StoreError> {
        let states: Vec<String> = filter.states.iter().map(|state| state.as_str().to_owned()).collect();
        let classes: Vec<String> =
            filter.last_test_classes.iter().map(|class| class.as_str().to_owned()).collect();
        let rows = run!(self, connection => {
            connections!(
                "SELECT",
                "FROM connections
                     WHERE organization_id = $1
                       AND ($2::text IS NULL OR owner = $2)
                       AND ($3::text IS NULL OR provider_id = $3)
                       AND ($4::text IS NULL OR account_id = $4)
                       AND state = ANY($5)
                       AND ($6::uuid IS NULL OR connection_id > $6)
                       AND (cardinality($8::text[]) = 0 OR last_test_class = ANY($8))
                     ORDER BY connection_id
                     LIMIT $7",
                organization_id.as_str(),
                filter.owner.as_ref().map(Principal::as_str),
                filter.provider_id.as_ref().map(ProviderId::as_str),
                filter.account_id.as_ref().map(Text::as_str),
                &states,
                filter.after.map(ConnectionId::as_uuid),
                filter.limit,
                &classes,
            )
            .fetch_all(connection)
            .await
        })?;
        rows.into_iter().map(StoredConnection::try_from).collect()
    }
}

impl Store {
    /// Claims the right to test a connection, and returns the claim; none if somebody did within the last `pause`
    /// seconds.
    pub async fn claim_test(
        &self,
        organization_id: &OrganizationId,
        id: ConnectionId,
        pause: f64,
    ) -> Result<Option<Timestamp>, StoreError> {
        run!(self, connection => {
            sqlx::query_scalar!(
                r#"UPDATE connections SET test_claim_time = clock_timestamp()
                   WHERE organization_id = $1 AND connection_id = $2
                     AND (test_claim_time IS NULL
                          OR test_claim_time < clock_timestamp() - make_interval(secs => $3))
                   RETURNING test_claim_time AS "claim!""#,
                organization_id.as_str(),
                id.as_uuid(),
                pause,
            )
            .fetch_optional(connection)
            .await
        })
    }

    /// Gives a claim back that came to no test. A later one stays.
    pub async fn give_back_test(&self, connection: &Connection, claim: Timestamp) -> Result<(), StoreError> {
        run!(self, store => {
            sqlx::query!(
                "UPDATE connections SET test_claim_time = NULL
                 WHERE organization_id = $1 AND connection_id = $2 AND test_claim_time = $3",
                connection.organization_id.as_str(),
                connection.id.as_uuid(),
                claim,
            )
            .execute(store)
            .await
        })?;
        Ok(())
    }
}

impl Change {
    /// Reads a connection inside the change.
    pub async fn stored_connection(
        &mut self,
        id: ConnectionId,
    ) -> Result<Option<StoredConnection>, StoreError> {
        let organization_id = self.organization_id().clone();
        connections!(
            "SELECT",
            "FROM connections WHERE organization_id = $1 AND connection_id = $2",
            organization_id.as_str(),
            id.as_uuid(),
        )
        .fetch_optional(self.connection())
        .in_time()
        .await?
        .map(StoredConnection::try_from)
        .transpose()
    }

    /// The connection that an earlier request with this id made.
    pub async fn remembered_connection(
        &mut self,
        request_id: &RequestId,
    ) -> Result<Option<Remembered<StoredConnection>>, StoreError> {
        let organization_id = self.organization_id().clone();
        let Some(found) = sqlx::query!(
            r#"SELECT connection_id, request_fingerprint AS "fingerprint!" FROM connections
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
        let made = self.stored_connection(ConnectionId::from_uuid(found.connection_id)).await?;
        Ok(made.map(|made| Remembered { made, fingerprint: found.fingerprint }))
    }

    /// Another connection, not deleted, of the same account of the same owner at the same provider; where no
    /// account is known, one with the same credential.
    pub async fn same_account(
        &mut self,
        connection: &Connection,
        fingerprint: &str,
    ) -> Result<Option<ConnectionId>, StoreError> {
        let found = sqlx::query_scalar!(
            "SELECT connection_id FROM connections
             WHERE organization_id = $1 AND provider_id = $2 AND owner = $3 AND state <> 'DELETED'
               AND connection_id <> $4
               AND account_id = $5 AND (account_id <> '' OR credential_fingerprint = $6)
             LIMIT 1",
            connection.organization_id.as_str(),
            connection.provider_id.as_str(),
            connection.owner.as_str(),
            connection.id.as_uuid(),
            connection.account.id.as_str(),
            fingerprint,
        )
        .fetch_optional(self.connection())
        .in_time()
        .await?;
        Ok(found.map(ConnectionId::from_uuid))
    }

    /// Adds a connection.
    pub async fn insert_connection(&mut self, new: &NewConnection<'_>) -> Result<(), StoreError> {
        let connection = new.connection;
        let number = self.number();
        let fields: Vec<String> = connection.credential_summary.keys().cloned().collect();
        let tokens = connection.tokens.as_ref();
        let asked = tokens.map(|tokens| tokens.asked.to_strings());
        let result = sqlx::query!(
            "INSERT INTO connections (
                 organization_id, connection_id, owner, provider_id, auth_method, display_name,
                 account_id, account_name, account_email, scopes, state, state_reason,
                 sealed_credential, sealed_generation, credential_fingerprint, credential_fields,
                 config, labels, request_id, request_fingerprint, change, generation, create_time, update_time,
                 sealed_renewal, token_client_id, token_scopes_asked, token_expire_time, token_renewal_missing,
                 token_idle_expire_time, token_absolute_expire_time
             ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
                       $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31)",
            connection.organization_id.as_str(),
            connection.id.as_uuid(),
            connection.owner.as_str(),
            connection.provider_id.as_str(),
            connection.auth_method.as_str(),
            connection.display_name.as_str(),
            connection.account.id.as_str(),
            connection.account.name.as_str(),
            connection.account.email.as_str(),
            &connection.scopes.to_strings(),
            connection.state.as_str(),
            connection.state_reason.as_str(),
            new.sealed.map(|sealed| sealed.credential.as_str()),
            new.sealed.map(|sealed| sealed.generation.get()),
            new.sealed.map(|sealed| sealed.fingerprint.as_str()),
            &fields,
            Json(&connection.config) as _,
            Json(connection.labels.as_map()) as _,
            new.request.map(|(id, _)| id.as_str()),
            new.request.map(|(_, fingerprint)| fingerprint),
            number,
            connection.generation.get(),
            connection.create_time,
            connection.update_time,
            new.sealed.and_then(|sealed| sealed.renewal.as_deref()),
            tokens.map(|tokens| tokens.client_id.as_str()),
            asked.as_deref(),
            tokens.and_then(|tokens| tokens.expire_time),
            tokens.map(|tokens| tokens.renewal_missing),
            tokens.and_then(|tokens| tokens.idle_expire_time),
            tokens.and_then(|tokens| tokens.absolute_expire_time),
        )
        .execute(self.connection())
        .in_time()
        .await?;
        one_row("connections", &result)?;
        self.grow_provider(&connection.provider_id).await
    }

    /// Writes a connection back, which must still be at the generation before its own. What is known of a test is
    /// forgotten with the credential that was tested.
    pub async fn update_connection(&mut self, stored: &StoredConnection) -> Result<(), StoreError> {
        let connection = &stored.connection;
        let number = self.number();
        let fields: Vec<String> = connection.credential_summary.keys().cloned().collect();
        let tokens = connection.tokens.as_ref();
        let asked = tokens.map(|tokens| tokens.asked.to_strings());
        let result = sqlx::query!(
            "UPDATE connections SET
                 display_name = $3, account_id = $4, account_name = $5, account_email = $6, scopes = $7,
                 state = $8, state_reason = $9, sealed_credential = $10, sealed_generation = $11,
                 credential_fingerprint = $12, credential_fields = $13, config = $14, labels = $15,
                 change = $16, generation = $17::bigint, update_time = $18,
                 sealed_renewal = $19, token_client_id = $20, token_scopes_asked = $21, token_expire_time = $22,
                 token_renewal_missing = $23, token_idle_expire_time = $24, token_absolute_expire_time = $25,
                 last_test_time = CASE WHEN $11 = sealed_generation AND config = $14 THEN last_test_time END,
                 last_test_class = CASE WHEN $11 = sealed_generation AND config = $14 THEN last_test_class END,
                 last_test_http_status = CASE WHEN $11 = sealed_generation AND config = $14 THEN last_test_http_status END,
                 last_test_summary = CASE WHEN $11 = sealed_generation AND config = $14 THEN last_test_summary END
             WHERE organization_id = $1 AND connection_id = $2 AND generation = $17::bigint - 1",
            connection.organization_id.as_str(),
            connection.id.as_uuid(),
            connection.display_name.as_str(),
            connection.account.id.as_str(),
            connection.account.name.as_str(),
            connection.account.email.as_str(),
            &connection.scopes.to_strings(),
            connection.state.as_str(),
            connection.state_reason.as_str(),
            stored.sealed.as_ref().map(|sealed| sealed.credential.as_str()),
            stored.sealed.as_ref().map(|sealed| sealed.generation.get()),
            stored.sealed.as_ref().map(|sealed| sealed.fingerprint.as_str()),
            &fields,
            Json(&connection.config) as _,
            Json(connection.labels.as_map()) as _,
            number,
            connection.generation.get(),
            connection.update_time,
            stored.sealed.as_ref().and_then(|sealed| sealed.renewal.as_deref()),
            tokens.map(|tokens| tokens.client_id.as_str()),
            asked.as_deref(),
            tokens.and_then(|tokens| tokens.expire_time),
            tokens.map(|tokens| tokens.renewal_missing),
            tokens.and_then(|tokens| tokens.idle_expire_time),
            tokens.and_then(|tokens| tokens.absolute_expire_time),
        )
        .execute(self.connection())
        .in_time()
        .await?;
        one_row("connections", &result)
    }

    /// Writes how a test of a connection's credential went, and the account as far as it was learned. `false`: the
    /// connection is no longer the one that was tested, or a later test has begun, and nothing was written.
    ///
    /// The generation stays: what is decided about the connection is the same as before.
    pub async fn record_test(
        &mut self,
        tested: &StoredConnection,
        claim: Timestamp,
        test: &LastTest,
        account: &Account,
    ) -> Result<bool, StoreError> {
        let connection = &tested.connection;
        let number = self.number();
        let result = sqlx::query!(
            "UPDATE connections SET
                 last_test_time = $3, last_test_class = $4, last_test_http_status = $5, last_test_summary = $6,
                 account_id = $7, account_name = $8, account_email = $9, change = $10
             WHERE organization_id = $1 AND connection_id = $2 AND generation = $11
               AND test_claim_time = $12",
            connection.organization_id.as_str(),
            connection.id.as_uuid(),
            test.time,
            test.class.as_str(),
            test.http_status.map(i32::from),
            test.summary.as_str(),
            account.id.as_str(),
            account.name.as_str(),
            account.email.as_str(),
            number,
            connection.generation.get(),
            claim,
        )
        .execute(self.connection())
        .in_time()
        .await?;
        Ok(result.rows_affected() == 1)
    }
}
