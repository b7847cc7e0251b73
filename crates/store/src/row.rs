//! Rows as the database holds them, and the way to the domain's types. A row that contradicts the types is an
//! error that names table, column and row.

use std::collections::BTreeMap;

use keyholder_domain::{
    Account, AuthMethod, Connection, ConnectionId, ConnectionState, Generation, Grant, GrantId, GrantTarget,
    Invalid, Labels, LastTest, OrganizationId, Principal, ProviderId, Scopes, TestClass, Text, Timestamp,
    Tokens, WorkloadId, WorkloadPattern,
};
use sqlx::types::Json;
use uuid::Uuid;

use crate::{Sealed, StoreError, StoredConnection};

/// What a credential field shows in a summary.
const CONFIGURED: &str = "configured...[REDACTED]";

/// A row of `connections`.
#[derive(Debug)]
pub(crate) struct ConnectionRow {
    pub(crate) organization_id: String,
    pub(crate) connection_id: Uuid,
    pub(crate) owner: String,
    pub(crate) provider_id: String,
    pub(crate) auth_method: String,
    pub(crate) display_name: String,
    pub(crate) account_id: String,
    pub(crate) account_name: String,
    pub(crate) account_email: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) state: String,
    pub(crate) state_reason: String,
    pub(crate) sealed_credential: Option<String>,
    pub(crate) sealed_generation: Option<i64>,
    pub(crate) credential_fingerprint: Option<String>,
    pub(crate) credential_fields: Vec<String>,
    pub(crate) config: Json<BTreeMap<String, String>>,
    pub(crate) labels: Json<BTreeMap<String, String>>,
    pub(crate) last_test_time: Option<Timestamp>,
    pub(crate) last_test_class: Option<String>,
    pub(crate) last_test_http_status: Option<i32>,
    pub(crate) last_test_summary: Option<String>,
    pub(crate) token_client_id: Option<String>,
    pub(crate) token_scopes_asked: Option<Vec<String>>,
    pub(crate) token_expire_time: Option<Timestamp>,
    pub(crate) token_renewal_missing: Option<bool>,
    pub(crate) token_idle_expire_time: Option<Timestamp>,
    pub(crate) token_absolute_expire_time: Option<Timestamp>,
    pub(crate) sealed_renewal: Option<String>,
    pub(crate) token_renewable: bool,
    pub(crate) change: i64,
    pub(crate) generation: i64,
    pub(crate) create_time: Timestamp,
    pub(crate) update_time: Timestamp,
}

impl TryFrom<ConnectionRow> for StoredConnection {
    type Error = StoreError;

    fn try_from(row: ConnectionRow) -> Result<Self, StoreError> {
        let id = ConnectionId::from_uuid(row.connection_id);
        let wrong = |column| StoreError::corrupt("connections", column, id);
        let labels = row.labels.0.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let connection = Connection {
            id,
            organization_id: OrganizationId::parse(&row.organization_id).map_err(wrong("organization_id"))?,
            owner: Principal::parse_owner(&row.owner).map_err(wrong("owner"))?,
            provider_id: ProviderId::parse(&row.provider_id).map_err(wrong("provider_id"))?,
            auth_method: AuthMethod::parse(&row.auth_method).map_err(wrong("auth_method"))?,
            display_name: Text::parse(&row.display_name).map_err(wrong("display_name"))?,
            account: Account {
                id: Text::parse(&row.account_id).map_err(wrong("account_id"))?,
                name: Text::parse(&row.account_name).map_err(wrong("account_name"))?,
                email: Text::parse(&row.account_email).map_err(wrong("account_email"))?,
            },
            scopes: Scopes::parse(&row.scopes).map_err(wrong("scopes"))?,
            state: ConnectionState::parse(&row.state)
                .ok_or(Invalid("must be a state"))
                .map_err(wrong("state"))?,
            state_reason: Text::parse(&row.state_reason).map_err(wrong("state_reason"))?,
            credential_summary: row
                .credential_fields
                .into_iter()
                .map(|field| (field, CONFIGURED.to_owned()))
                .collect(),
            config: row.config.0,
            labels: Labels::parse(labels).map_err(wrong("labels"))?,
            tokens: match (row.token_client_id, row.token_scopes_asked) {
                (Some(client_id), Some(asked)) => Some(Tokens {
                    client_id: Text::parse(&client_id).map_err(wrong("token_client_id"))?,
                    asked: Scopes::parse(&asked).map_err(wrong("token_scopes_asked"))?,
                    expire_time: row.token_expire_time,
                    renewable: row.token_renewable,
                    renewal_missing: row.token_renewal_missing.unwrap_or(false),
                    idle_expire_time: row.token_idle_expire_time,
                    absolute_expire_time: row.token_absolute_expire_time,
                }),
                _ => None,
            },
            last_test: match (row.last_test_time, row.last_test_class, row.last_test_summary) {
                (Some(time), Some(class), Some(summary)) => Some(LastTest {
                    time,
                    class: TestClass::parse(&class)
                        .ok_or(Invalid("must be a class"))
                        .map_err(wrong("last_test_class"))?,
                    http_status: row.last_test_http_status.and_then(|status| u16::try_from(status).ok()),
                    summary: Text::parse(&summary).map_err(wrong("last_test_summary"))?,
                }),
                _ => None,
            },
            generation: Generation::new(row.generation).map_err(wrong("generation"))?,
            create_time: row.create_time,
            update_time: row.update_time,
        };
        let sealed = match (row.sealed_credential, row.sealed_generation, row.credential_fingerprint) {
            (Some(credential), Some(generation), Some(fingerprint)) => Some(Sealed {
                credential,
                generation: Generation::new(generation).map_err(wrong("sealed_generation"))?,
                fingerprint,
                renewal: row.sealed_renewal,
            }),
            (None, None, None) => None,
            _ => return Err(wrong("sealed_credential")(Invalid("must be there in whole or not at all"))),
        };
        Ok(Self { connection, sealed, change: row.change })
    }
}

/// A row of `grants`, as columns or as JSON.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct GrantRow {
    pub(crate) organization_id: String,
    pub(crate) grant_id: Uuid,
    pub(crate) grantee: String,
    pub(crate) connection_id: Option<Uuid>,
    pub(crate) selector_owner: Option<String>,
    pub(crate) provider_id: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) workloads: Vec<String>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(crate) expire_time: Option<Timestamp>,
    pub(crate) reason: String,
    pub(crate) created_by: String,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(crate) revoke_time: Option<Timestamp>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(crate) last_used_time: Option<Timestamp>,
    pub(crate) generation: i64,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) create_time: Timestamp,
}

impl TryFrom<GrantRow> for Grant {
    type Error = StoreError;

    fn try_from(row: GrantRow) -> Result<Self, StoreError> {
        let id = GrantId::from_uuid(row.grant_id);
        let wrong = |column| StoreError::corrupt("grants", column, id);
        let target = match (row.connection_id, row.selector_owner) {
            (Some(connection_id), None) => GrantTarget::Connection(ConnectionId::from_uuid(connection_id)),
            (None, Some(owner)) => GrantTarget::Selector {
                owner: Principal::parse_owner(&owner).map_err(wrong("selector_owner"))?,
                provider_id: ProviderId::parse(&row.provider_id).map_err(wrong("provider_id"))?,
            },
            _ => {
                return Err(wrong("connection_id")(Invalid(
                    "must be there, or selector_owner, but not both",
                )));
            }
        };
        Ok(Self {
            id,
            organization_id: OrganizationId::parse(&row.organization_id).map_err(wrong("organization_id"))?,
            grantee: Principal::parse(&row.grantee).map_err(wrong("grantee"))?,
            target,
            scopes: Scopes::parse(&row.scopes).map_err(wrong("scopes"))?,
            workloads: row
                .workloads
                .iter()
                .map(|pattern| WorkloadPattern::parse(pattern))
                .collect::<Result<_, _>>()
                .map_err(wrong("workloads"))?,
            expire_time: row.expire_time,
            reason: Text::parse(&row.reason).map_err(wrong("reason"))?,
            created_by: WorkloadId::parse(&row.created_by).map_err(wrong("created_by"))?,
            revoke_time: row.revoke_time,
            last_used_time: row.last_used_time,
            generation: Generation::new(row.generation).map_err(wrong("generation"))?,
            create_time: row.create_time,
        })
    }
}

/// Fails unless exactly one row was affected.
pub(crate) fn one_row(table: &'static str, result: &sqlx::postgres::PgQueryResult) -> Result<(), StoreError> {
    match result.rows_affected() {
        1 => Ok(()),
        affected => Err(StoreError::RowsAffected { table, affected }),
    }
}
