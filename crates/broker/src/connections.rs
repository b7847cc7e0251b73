use std::collections::BTreeMap;

use keyholder_catalog::Method;
use keyholder_domain::{
    Account, AuditKind, AuthMethod, Connection, ConnectionId, ConnectionState, Generation, Labels, Principal,
    ProviderId, RequestId, RevocationRunId, Scopes, Text, Timestamp,
};
use keyholder_store::{Change, ConnectionFilter, NewConnection, Sealed, StoredConnection};
use keyholder_vault::{Credential, DataKey, ExposeSecret as _, Place, SecretString, random_bytes};

use crate::audit::Refused;
use crate::credentials::{check_config, check_credential, check_render, check_same_way, method_of};
use crate::error::FieldError;
use crate::{Broker, BrokerError, Caller, Idempotency};

/// The name of the sealed value in a connection's row.
pub(crate) const CREDENTIAL: &str = "credential";

/// What connects an account with a credential that its owner has.
#[derive(Debug)]
pub struct CreateConnection {
    /// Whose account it is.
    pub owner: Principal,
    /// At which provider.
    pub provider_id: ProviderId,
    /// How; if not given, the provider's one method that takes a typed-in credential.
    pub auth_method: Option<AuthMethod>,
    /// The credential's fields.
    pub credentials: BTreeMap<String, SecretString>,
    /// The provider's settings.
    pub config: BTreeMap<String, String>,
    /// When an access token that is taken over ends.
    pub token_expire_time: Option<Timestamp>,
    /// Whether a refresh token that is taken over is used once, to prove that it works.
    pub prove_refresh_token: bool,
    /// A name for people.
    pub display_name: Text,
    /// The account, as far as it is known.
    pub account: Account,
    /// What the credential may do; empty: the provider's default.
    pub scopes: Scopes,
    /// The caller's own marks.
    pub labels: Labels,
    /// What makes the create idempotent.
    pub idempotency: Option<Idempotency>,
}

/// What changes on a connection; nothing of it is secret.
#[derive(Debug, Default)]
pub struct ConnectionUpdate {
    /// A new name for people.
    pub display_name: Option<Text>,
    /// New marks in place of all old ones.
    pub labels: Option<Labels>,
    /// New settings in place of all old ones.
    pub config: Option<BTreeMap<String, String>>,
    /// New scopes in place of all old ones.
    pub scopes: Option<Scopes>,
}

impl Broker {
    /// Connects an account. The same request sent again with the same request id makes nothing new.
    pub async fn create_connection(
        &self,
        caller: &Caller<'_>,
        create: CreateConnection,
    ) -> Result<Connection, BrokerError> {
        let provider = self.provider(caller, &create.provider_id)?;
        let method = method_of(provider, create.auth_method)?;
        if !method.method.is_static() {
            return self.create_issued(caller, create, provider, method).await;
        }
        if create.token_expire_time.is_some() {
            return Err(FieldError::invalid("token_expire_time", "goes with an access_token only").into());
        }
        if create.prove_refresh_token {
            return Err(FieldError::invalid("prove_refresh_token", "goes with a refresh_token only").into());
        }
        let mut errors = Vec::new();
        let credential = check_credential(method, create.credentials, &mut errors);
        check_config(provider, self.url_rules(), &create.config, &mut errors);
        let account = account_of(method, &credential, create.account, &mut errors);
        if !errors.is_empty() {
            let about = Refused { provider_id: &provider.id, connection: None, config: &create.config };
            return Err(self.refuse_fields(caller, &about, errors).await);
        }
        check_render(provider, method, &credential, &create.config)?;
        let now = self.now();
        let scopes = if create.scopes.is_empty() { provider.default_scopes.clone() } else { create.scopes };
        let connection = Connection {
            id: ConnectionId::new(now, random_bytes()),
            organization_id: caller.organization_id.clone(),
            owner: create.owner,
            provider_id: create.provider_id,
            auth_method: method.method,
            display_name: create.display_name,
            account,
            scopes,
            state: ConnectionState::Active,
            state_reason: Text::default(),
            credential_summary: summary(&credential),
            config: create.config,
            labels: create.labels,
            tokens: None,
            last_test: None,
            generation: Generation::FIRST,
            create_time: now,
            update_time: now,
        };

        let mut change = self.store().change(caller.organization_id).await?;
        let key = self.sealing_key(caller.organization_id, &mut change).await?;
        let request_fingerprint = create
            .idempotency
            .as_ref()
            .map(|request| key.fingerprint_bytes("create_connection", &request.body));
        let sealed = seal(&key, &connection, &credential);
        let request = create
            .idempotency
            .as_ref()
            .map(|request| &request.request_id)
            .zip(request_fingerprint.as_deref());
        self.keep_connection(caller, change, connection, &sealed, request).await
    }

    /// Keeps a connection that its caller made, unless its owner has one of the same account at the same provider. The
    /// same request once more gets what it made.
    pub(crate) async fn keep_connection(
        &self,
        caller: &Caller<'_>,
        mut change: Change,
        connection: Connection,
        sealed: &Sealed,
        request: Option<(&RequestId, &str)>,
    ) -> Result<Connection, BrokerError> {
        if let Some((request_id, fingerprint)) = request
            && let Some(remembered) = change.remembered_connection(request_id).await?
        {
            return same_request(remembered.fingerprint == fingerprint, remembered.made.connection);
        }
        if let Some(id) = change.same_account(&connection, &sealed.fingerprint).await? {
            return Err(BrokerError::ConnectionExists(id));
        }
        change
            .insert_connection(&NewConnection { connection: &connection, sealed: Some(sealed), request })
            .await?;
        self.schedule(&mut change, &connection, self.known_provider(&connection.provider_id)?).await?;
        self.record_connection(caller, &mut change, AuditKind::ConnectionCreated, &connection).await?;
        change.commit().await?;
        Ok(connection)
    }

    /// Reads a connection, deleted ones too.
    pub async fn get_connection(
        &self,
        caller: &Caller<'_>,
        id: ConnectionId,
    ) -> Result<Connection, BrokerError> {
        let stored = self.store().connection(caller.organization_id, id).await?;
        stored.map(|stored| stored.connection).ok_or(BrokerError::ConnectionNotFound)
    }

    /// Lists connections, the oldest first.
    pub async fn list_connections(
        &self,
        caller: &Caller<'_>,
        filter: &ConnectionFilter,
    ) -> Result<Vec<Connection>, BrokerError> {
        let stored = self.store().connections(caller.organization_id, filter).await?;
        Ok(stored.into_iter().map(|stored| stored.connection).collect())
    }

    /// Changes what is no secret. What changes nothing leaves no trace.
    pub async fn update_connection(
        &self,
        caller: &Caller<'_>,
        id: ConnectionId,
        expected: Option<Generation>,
        update: ConnectionUpdate,
    ) -> Result<Connection, BrokerError> {
        let (mut change, mut stored) = self.begin(caller, id, expected).await?;
        let connection = &mut stored.connection;
        if connection.state == ConnectionState::Deleted {
            return Err(BrokerError::ConnectionDeleted);
        }
        let before = connection.clone();
        if let Some(config) = update.config {
            let mut errors = Vec::new();
            let provider = self.provider(caller, &connection.provider_id)?;
            check_config(provider, self.url_rules(), &config, &mut errors);
            if errors.is_empty() {
                check_same_way(provider, &connection.config, &config, &mut errors);
            }
            if !errors.is_empty() {
                drop(change);
                let known = Some((connection.id, connection.generation));
                let about = Refused { provider_id: &provider.id, connection: known, config: &config };
                return Err(self.refuse_fields(caller, &about, errors).await);
            }
            if connection.config != config {
                connection.last_test = None;
            }
            connection.config = config;
        }
        connection.display_name = update.display_name.unwrap_or_else(|| connection.display_name.clone());
        connection.labels = update.labels.unwrap_or_else(|| connection.labels.clone());
        connection.scopes = update.scopes.unwrap_or_else(|| connection.scopes.clone());
        if *connection == before {
            return Ok(stored.connection);
        }
        self.grow(connection);
        self.finish(caller, &mut change, AuditKind::ConnectionUpdated, &stored).await?;
        change.commit().await?;
        Ok(stored.connection)
    }

    /// Puts a new credential in place of the old one, and new settings if there are any: the only way to change where
    /// a credential goes, so that nobody can send it elsewhere who does not have it.
    pub async fn replace_credentials(
        &self,
        caller: &Caller<'_>,
        id: ConnectionId,
        expected: Option<Generation>,
        credentials: BTreeMap<String, SecretString>,
        config: Option<BTreeMap<String, String>>,
    ) -> Result<Connection, BrokerError> {
        let (mut change, mut stored) = self.begin(caller, id, expected).await?;
        let connection = &mut stored.connection;
        if connection.state == ConnectionState::Deleted {
            return Err(BrokerError::ConnectionDeleted);
        }
        let provider = self.provider(caller, &connection.provider_id)?;
        let method = method_of(provider, Some(connection.auth_method))?;
        if !method.method.is_static() {
            return Err(BrokerError::ConsentNeeded);
        }
        let mut errors = Vec::new();
        let credential = check_credential(method, credentials, &mut errors);
        if let Some(config) = config {
            check_config(provider, self.url_rules(), &config, &mut errors);
            connection.config = config;
        }
        let before = connection.account.clone();
        // A field that names the account must go on naming the same one: other people hold grants for it.
        let account = account_of(method, &credential, before, &mut errors);
        if !errors.is_empty() {
            drop(change);
            let known = Some((connection.id, connection.generation));
            let about = Refused { provider_id: &provider.id, connection: known, config: &connection.config };
            return Err(self.refuse_fields(caller, &about, errors).await);
        }
        check_render(provider, method, &credential, &connection.config)?;
        connection.account = account;
        connection.state = connection.state.replace_credentials()?;
        if connection.state == ConnectionState::Active {
            connection.state_reason = Text::default();
        }
        connection.credential_summary = summary(&credential);
        self.grow(connection);
        let key = self.sealing_key(caller.organization_id, &mut change).await?;
        let sealed = seal(&key, connection, &credential);
        if let Some(id) = change.same_account(connection, &sealed.fingerprint).await? {
            return Err(BrokerError::ConnectionExists(id));
        }
        stored.sealed = Some(sealed);
        stored.connection.last_test = None;
        self.finish(caller, &mut change, AuditKind::CredentialsReplaced, &stored).await?;
        change.commit().await?;
        Ok(stored.connection)
    }

    /// Switches a connection off.
    pub async fn disable_connection(
        &self,
        caller: &Caller<'_>,
        id: ConnectionId,
        expected: Option<Generation>,
        reason: Text,
    ) -> Result<Connection, BrokerError> {
        let (mut change, mut stored) = self.begin(caller, id, expected).await?;
        let connection = &mut stored.connection;
        let state = connection.state.disable()?;
        if state == connection.state && reason == connection.state_reason {
            return Ok(stored.connection);
        }
        connection.state = state;
        connection.state_reason = reason;
        self.grow(connection);
        self.finish(caller, &mut change, AuditKind::ConnectionDisabled, &stored).await?;
        change.commit().await?;
        Ok(stored.connection)
    }

    /// Switches a disabled connection on again.
    pub async fn enable_connection(
        &self,
        caller: &Caller<'_>,
        id: ConnectionId,
        expected: Option<Generation>,
    ) -> Result<Connection, BrokerError> {
        let (mut change, mut stored) = self.begin(caller, id, expected).await?;
        let connection = &mut stored.connection;
        let state = connection.state.enable()?;
        if state == connection.state {
            return Ok(stored.connection);
        }
        connection.state = state;
        connection.state_reason = Text::default();
        self.grow(connection);
        self.finish(caller, &mut change, AuditKind::ConnectionEnabled, &stored).await?;
        change.commit().await?;
        Ok(stored.connection)
    }

    /// Erases a credential and leaves a tombstone.
    pub async fn delete_connection(
        &self,
        caller: &Caller<'_>,
        id: ConnectionId,
        expected: Option<Generation>,
    ) -> Result<Connection, BrokerError> {
        self.delete(caller, id, expected, None).await
    }

    /// Deletes a connection, perhaps as one of many.
    pub(crate) async fn delete(
        &self,
        caller: &Caller<'_>,
        id: ConnectionId,
        expected: Option<Generation>,
        run: Option<RevocationRunId>,
    ) -> Result<Connection, BrokerError> {
        let (mut change, mut stored) = self.begin(caller, id, expected).await?;
        let connection = &mut stored.connection;
        if connection.state == ConnectionState::Deleted {
            return Ok(stored.connection);
        }
        let next = connection.generation.next();
        self.give_back(caller, &mut change, &stored, next, run).await?;
        let connection = &mut stored.connection;
        connection.state = ConnectionState::Deleted;
        connection.state_reason = Text::default();
        connection.credential_summary.clear();
        connection.config.clear();
        connection.tokens = None;
        stored.sealed = None;
        stored.connection.last_test = None;
        self.grow(&mut stored.connection);
        change.unschedule_refresh(id).await?;
        self.finish(caller, &mut change, AuditKind::ConnectionDeleted, &stored).await?;
        if let Some(run) = run {
            change.count_deleted(run).await?;
        }
        change.commit().await?;
        Ok(stored.connection)
    }

    async fn begin(
        &self,
        caller: &Caller<'_>,
        id: ConnectionId,
        expected: Option<Generation>,
    ) -> Result<(Change, StoredConnection), BrokerError> {
        let mut change = self.store().change(caller.organization_id).await?;
        let stored = change.stored_connection(id).await?.ok_or(BrokerError::ConnectionNotFound)?;
        self.check_provider(caller, &stored.connection.provider_id)?;
        if expected.is_some_and(|generation| generation != stored.connection.generation) {
            return Err(BrokerError::EtagMismatch);
        }
        Ok((change, stored))
    }

    pub(crate) fn grow(&self, connection: &mut Connection) {
        connection.generation = connection.generation.next();
        connection.update_time = self.now();
    }

    async fn finish(
        &self,
        caller: &Caller<'_>,
        change: &mut Change,
        kind: AuditKind,
        stored: &StoredConnection,
    ) -> Result<(), BrokerError> {
        change.update_connection(stored).await?;
        self.record_connection(caller, change, kind, &stored.connection).await
    }
}

/// A setting of a connection, as templates see it: the id of the client that its tokens were issued to is one.
pub(crate) fn setting<'a>(connection: &'a Connection, name: &str) -> Option<&'a str> {
    match (name, &connection.tokens) {
        ("client_id", Some(tokens)) => Some(tokens.client_id.as_str()),
        (name, _) => connection.config.get(name).map(String::as_str),
    }
}

/// The answer to a request whose id was seen before.
pub(crate) fn same_request<T>(same: bool, made: T) -> Result<T, BrokerError> {
    if same { Ok(made) } else { Err(BrokerError::RequestIdReused) }
}

pub(crate) fn seal(key: &DataKey, connection: &Connection, credential: &Credential) -> Sealed {
    let row = connection.id.to_string();
    // The same key at another address, where the address is a setting, is another account.
    let settings: Vec<String> =
        connection.config.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let label = format!("{CREDENTIAL}\n{}", settings.join("\n"));
    let place = Place {
        organization: &connection.organization_id,
        row: &row,
        field: CREDENTIAL,
        generation: connection.generation,
    };
    Sealed {
        credential: key.seal_credential(&place, credential).as_str().to_owned(),
        generation: connection.generation,
        fingerprint: key.fingerprint(&label, credential),
        renewal: None,
    }
}

pub(crate) fn summary(credential: &Credential) -> BTreeMap<String, String> {
    credential.names().map(|name| (name.to_owned(), "configured...[REDACTED]".to_owned())).collect()
}

/// The account, whose id is the value of a field where the method says so.
pub(crate) fn account_of(
    method: &Method,
    credential: &Credential,
    given: Account,
    errors: &mut Vec<FieldError>,
) -> Account {
    let Some(field) = &method.account_id else { return given };
    let Some(value) = credential.get(field) else { return given };
    let path = format!("credentials.{field}");
    if errors.iter().any(|error| error.field == path) {
        return given;
    }
    match Text::parse(value.expose_secret()) {
        Err(error) => errors.push(FieldError::invalid(path, error.to_string())),
        Ok(id) if !given.id.is_empty() && given.id != id => {
            errors.push(FieldError::invalid(path, "must name the same account as account.id"));
        }
        Ok(id) => return Account { id, ..given },
    }
    given
}
