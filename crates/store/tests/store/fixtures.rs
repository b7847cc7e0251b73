use std::collections::BTreeMap;

use keyholder_domain::access::Right;
use keyholder_domain::{
    Account, AuditEventId, AuthMethod, Clock as _, Connection, ConnectionId, ConnectionState, Generation,
    Grant, GrantId, GrantTarget, Labels, OrganizationId, Principal, ProviderId, Scopes, SystemClock, Text,
    Timestamp, WorkloadId,
};
use keyholder_store::{NewConnection, NewGrant, Release, Sealed, Store, StoreSettings, StoredConnection};
use keyholder_testkit::postgres::PrivatePostgres;

pub(crate) const DATABASE: &str = "keyholder";

/// A store on a database of its own.
pub(crate) struct World {
    pub(crate) postgres: PrivatePostgres,
    pub(crate) store: Store,
}

impl World {
    /// An empty, migrated database.
    pub(crate) async fn start() -> Self {
        let world = Self::unmigrated().await;
        world.store.migrate().await.unwrap();
        world
    }

    /// An empty database.
    pub(crate) async fn unmigrated() -> Self {
        let postgres = PrivatePostgres::temporary().unwrap();
        postgres.create_database(DATABASE).unwrap();
        let store = Store::connect(&StoreSettings::new(postgres.url(DATABASE))).await.unwrap();
        Self { postgres, store }
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        self.postgres.psql(DATABASE, sql).unwrap().trim().to_owned()
    }

    /// Adds a connection and returns it as it is stored.
    pub(crate) async fn insert(&self, connection: &Connection) -> StoredConnection {
        let mut change = self.store.change(&connection.organization_id).await.unwrap();
        let new = NewConnection { connection, sealed: Some(&sealed()), request: None };
        change.insert_connection(&new).await.unwrap();
        change.commit().await.unwrap();
        self.store.connection(&connection.organization_id, connection.id).await.unwrap().unwrap()
    }

    /// Adds a grant.
    pub(crate) async fn give(&self, grant: &Grant) {
        let mut change = self.store.change(&grant.organization_id).await.unwrap();
        change
            .insert_grant(&NewGrant { grant, provider_id: &provider("openai"), request: None })
            .await
            .unwrap();
        change.commit().await.unwrap();
    }
}

pub(crate) fn organization(name: &str) -> OrganizationId {
    OrganizationId::parse(name).unwrap()
}

pub(crate) fn provider(name: &str) -> ProviderId {
    ProviderId::parse(name).unwrap()
}

pub(crate) fn principal(text: &str) -> Principal {
    Principal::parse(text).unwrap()
}

pub(crate) fn workload() -> WorkloadId {
    WorkloadId::parse("spiffe://test.example/gateway").unwrap()
}

pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}

pub(crate) fn sealed() -> Sealed {
    Sealed {
        credential: "enc:v1:dk_1:AAAA".into(),
        generation: Generation::FIRST,
        fingerprint: format!("f{}", now().unix_timestamp_nanos()),
        renewal: None,
    }
}

/// A connection of `user:ada` at openai; numbers make ids.
pub(crate) fn connection(organization_id: &str, number: u8) -> Connection {
    Connection {
        id: ConnectionId::new(now(), [number; 10]),
        organization_id: organization(organization_id),
        owner: principal("user:ada"),
        provider_id: provider("openai"),
        auth_method: AuthMethod::ApiKey,
        display_name: Text::parse("Ada's").unwrap(),
        account: Account { id: Text::parse(&format!("account-{number}")).unwrap(), ..Account::default() },
        scopes: Scopes::parse(["read"]).unwrap(),
        state: ConnectionState::Active,
        state_reason: Text::default(),
        credential_summary: BTreeMap::from([("api_key".into(), "configured...[REDACTED]".into())]),
        config: BTreeMap::from([("base_url".into(), "https://api.example.com".into())]),
        labels: Labels::parse([("team", "a")]).unwrap(),
        last_test: None,
        tokens: None,
        generation: Generation::FIRST,
        create_time: now(),
        update_time: now(),
    }
}

/// A grant for `agent:roadie`.
pub(crate) fn grant(organization_id: &str, target: GrantTarget) -> Grant {
    Grant {
        id: GrantId::new(now(), [9; 10]),
        organization_id: organization(organization_id),
        grantee: principal("agent:roadie"),
        target,
        scopes: Scopes::default(),
        workloads: Vec::new(),
        expire_time: None,
        reason: Text::default(),
        created_by: workload(),
        revoke_time: None,
        last_used_time: None,
        generation: Generation::FIRST,
        create_time: now(),
    }
}

/// A release of a connection to `agent:roadie`.
pub(crate) fn release<'a>(
    connection: &'a Connection,
    right: &'a Right,
    actor: &'a Principal,
    workload: &'a WorkloadId,
    number: u8,
) -> Release<'a> {
    Release {
        audit_event_id: AuditEventId::new(now(), [number; 10]),
        organization_id: &connection.organization_id,
        connection: (connection.id, connection.generation),
        update_time: connection.update_time,
        right,
        provider_generation: None,
        workload,
        actor,
        purpose: "",
        min_ttl: std::time::Duration::ZERO,
    }
}
