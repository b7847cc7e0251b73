use std::collections::BTreeMap;

use keyholder_broker::{ConnectionFilter, ConnectionUpdate, CreateConnection, WatchFilter};
use keyholder_domain::{
    Account, AuthMethod, Connection, ConnectionId, ConnectionState, Labels, LastTest, OrganizationId,
    Principal, ProviderId, RefreshState, RefreshStatus, Scopes, TestClass, Text, Tokens,
};
use keyholder_proto::v1;
use keyholder_vault::SecretString;

use super::page::{Page, PageToken};
use super::provider::auth_method;
use super::reader::{Reader, idempotency, to_etag};
use super::timestamp;
use crate::problem::Problem;

/// A connection on the wire.
pub fn connection(connection: Connection) -> v1::Connection {
    v1::Connection {
        connection_id: connection.id.to_string(),
        organization_id: connection.organization_id.to_string(),
        owner: connection.owner.to_string(),
        provider_id: connection.provider_id.to_string(),
        auth_method: auth_method(connection.auth_method).into(),
        display_name: connection.display_name.as_str().to_owned(),
        account: Some(account(&connection.account)),
        scopes: connection.scopes.to_strings(),
        state: state(connection.state).into(),
        state_reason: connection.state_reason.as_str().to_owned(),
        credential_summary: connection.credential_summary,
        config: connection.config,
        labels: connection.labels.as_map().clone(),
        generation: connection.generation.get(),
        create_time: Some(timestamp(connection.create_time)),
        update_time: Some(timestamp(connection.update_time)),
        etag: to_etag(connection.generation),
        last_test: connection.last_test.map(last_test),
        tokens: connection.tokens.map(|known| tokens(&known, &connection.scopes)),
        refresh: None,
    }
}

/// A connection on the wire, with how it stands with the refresher.
pub fn connection_with(connection: Connection, status: Option<RefreshStatus>) -> v1::Connection {
    v1::Connection { refresh: status.map(refresh), ..self::connection(connection) }
}

fn refresh(status: RefreshStatus) -> v1::Refresh {
    v1::Refresh {
        state: match status.state {
            RefreshState::Scheduled => v1::RefreshState::Scheduled,
            RefreshState::UnderWay => v1::RefreshState::UnderWay,
            RefreshState::Failing => v1::RefreshState::Failing,
            RefreshState::Ambiguous => v1::RefreshState::Ambiguous,
            RefreshState::Refused => v1::RefreshState::Refused,
            RefreshState::ClientQuarantined => v1::RefreshState::ClientQuarantined,
            RefreshState::Frozen => v1::RefreshState::Frozen,
        }
        .into(),
        last_attempt_time: status.last_attempt_time.map(timestamp),
        last_success_time: status.last_success_time.map(timestamp),
        next_attempt_time: status.next_attempt_time.map(timestamp),
        error: status.error.as_str().to_owned(),
        failures: status.failures,
    }
}

fn tokens(tokens: &Tokens, granted: &Scopes) -> v1::Tokens {
    v1::Tokens {
        client_id: tokens.client_id.as_str().to_owned(),
        requested_scopes: tokens.asked.to_strings(),
        missing_scopes: tokens.missing(granted).to_strings(),
        expire_time: tokens.expire_time.map(timestamp),
        renewable: tokens.renewable,
        renewal_missing: tokens.renewal_missing,
        idle_expire_time: tokens.idle_expire_time.map(timestamp),
        stop_time: tokens.stop_time().map(timestamp),
    }
}

fn last_test(test: LastTest) -> v1::LastTest {
    v1::LastTest {
        time: Some(timestamp(test.time)),
        ok: test.class == TestClass::Good,
        http_status: test.http_status.map(i32::from).unwrap_or_default(),
        outcome: outcome(test.class).into(),
        summary: test.summary.as_str().to_owned(),
    }
}

const fn outcome(class: TestClass) -> v1::TestOutcome {
    match class {
        TestClass::Good => v1::TestOutcome::Good,
        TestClass::Dead => v1::TestOutcome::Dead,
        TestClass::Forbidden => v1::TestOutcome::Forbidden,
        TestClass::Limited => v1::TestOutcome::Limited,
        TestClass::Unavailable => v1::TestOutcome::Unavailable,
        TestClass::Unclear => v1::TestOutcome::Unclear,
        TestClass::Refused => v1::TestOutcome::Refused,
    }
}

/// An account on the wire.
pub(super) fn account(account: &Account) -> v1::Account {
    v1::Account {
        id: account.id.as_str().to_owned(),
        name: account.name.as_str().to_owned(),
        email: account.email.as_str().to_owned(),
    }
}

/// A connection's state on the wire.
pub(super) const fn state(state: ConnectionState) -> v1::ConnectionState {
    match state {
        ConnectionState::Pending => v1::ConnectionState::Pending,
        ConnectionState::Active => v1::ConnectionState::Active,
        ConnectionState::Disabled => v1::ConnectionState::Disabled,
        ConnectionState::ReauthorizationRequired => v1::ConnectionState::ReauthorizationRequired,
        ConnectionState::Deleted => v1::ConnectionState::Deleted,
    }
}

/// Reads a request to connect an account.
pub fn create_connection(mut request: v1::CreateConnectionRequest) -> Result<CreateConnection, Problem> {
    let mut reader = Reader::new();
    let request_id = std::mem::take(&mut request.request_id);
    let idempotency = idempotency(&mut reader, &request_id, &request);
    let owner = reader.required("owner", &request.owner, Principal::parse_owner);
    let provider_id = reader.required("provider_id", &request.provider_id, ProviderId::parse);
    let auth_method = read_auth_method(&mut reader, request.auth_method);
    let display_name = reader.checked("display_name", Text::parse(&request.display_name));
    let account = read_account(&mut reader, request.account.unwrap_or_default());
    let scopes = reader.checked("scopes", Scopes::parse(&request.scopes));
    let labels = read_labels(&mut reader, "labels", &request.labels);
    let token_expire_time = reader.moment("token_expire_time", request.token_expire_time.as_ref());
    let create = (|| {
        Some(CreateConnection {
            owner: owner?,
            provider_id: provider_id?,
            auth_method,
            credentials: secrets(request.credentials),
            config: request.config,
            token_expire_time,
            prove_refresh_token: request.prove_refresh_token,
            display_name: display_name?,
            account: account?,
            scopes: scopes?,
            labels: labels?,
            idempotency,
        })
    })();
    reader.finish(create)
}

/// The fields of a credential, in the type that keeps them.
pub fn secrets(fields: BTreeMap<String, String>) -> BTreeMap<String, SecretString> {
    fields.into_iter().map(|(name, value)| (name, value.into())).collect()
}

/// Reads what an update changes.
pub fn connection_update(
    reader: &mut Reader,
    connection: &v1::Connection,
    mask: Option<&prost_types::FieldMask>,
) -> ConnectionUpdate {
    let mut update = ConnectionUpdate::default();
    let paths = mask.map(|mask| mask.paths.as_slice()).unwrap_or_default();
    if paths.is_empty() {
        reader.wrong("update_mask", "must name at least one of display_name, labels, config, scopes");
    }
    for path in paths {
        match path.as_str() {
            "display_name" => {
                let text = Text::parse(&connection.display_name);
                update.display_name = reader.checked("connection.display_name", text);
            }
            "labels" => update.labels = read_labels(reader, "connection.labels", &connection.labels),
            "config" => update.config = Some(connection.config.clone()),
            "scopes" => {
                update.scopes = reader.checked("connection.scopes", Scopes::parse(&connection.scopes));
            }
            _ => reader.wrong("update_mask", "may name display_name, labels, config and scopes only"),
        }
    }
    update
}

/// Reads which connections to list, and which page of them.
pub fn connection_filter(
    mut request: v1::ListConnectionsRequest,
) -> Result<(ConnectionFilter, PageToken, Page<ConnectionId>), Problem> {
    let mut reader = Reader::new();
    let size = std::mem::take(&mut request.page_size);
    let token = std::mem::take(&mut request.page_token);
    let tokens = PageToken::of("ListConnections", &request);
    let page = tokens.read(&mut reader, size, &token, |text| ConnectionId::parse(text).ok());
    let states = read_states(&mut reader, &request.states);
    let mut last_test_classes = Vec::new();
    for number in &request.last_test_outcomes {
        match TestClass::ALL.into_iter().find(|class| i32::from(outcome(*class)) == *number) {
            Some(class) => last_test_classes.push(class),
            None => reader.wrong("last_test_outcomes", "has a value that is not an outcome"),
        }
    }
    let filter = ConnectionFilter {
        owner: reader.optional("owner", &request.owner, Principal::parse),
        provider_id: reader.optional("provider_id", &request.provider_id, ProviderId::parse),
        account_id: reader.optional("account_id", &request.account_id, Text::parse),
        states,
        last_test_classes,
        after: page.after,
        limit: page.size + 1,
    };
    reader.finish(Some((filter, tokens, page)))
}

/// Reads which changes to watch, and from where on.
pub fn change_filter(
    request: &v1::WatchConnectionsRequest,
    organization_id: &OrganizationId,
) -> Result<(WatchFilter, Option<i64>), Problem> {
    let mut reader = Reader::new();
    let filter = WatchFilter {
        owner: reader.optional("owner", &request.owner, Principal::parse),
        provider_id: reader.optional("provider_id", &request.provider_id, ProviderId::parse),
    };
    let place = resumed(&mut reader, organization_id, &request.resume_token);
    reader.finish(Some((filter, place)))
}

/// Reads a resume token; empty: begin with everything.
pub fn resumed(reader: &mut Reader, organization_id: &OrganizationId, token: &str) -> Option<i64> {
    if token.is_empty() {
        return None;
    }
    let place = feed(organization_id).decode(token).and_then(|text| text.parse().ok());
    // One spelling only: what we would have written.
    let place = place.filter(|place| *place >= 0 && resume_token(organization_id, *place) == token);
    if place.is_none() {
        reader.wrong("resume_token", "is not a token of this feed; begin without one");
    }
    place
}

/// Writes a resume token.
pub fn resume_token(organization_id: &OrganizationId, place: i64) -> String {
    feed(organization_id).encode(&place.to_string())
}

/// A feed is an organization's, whatever is filtered out of it.
fn feed(organization_id: &OrganizationId) -> PageToken {
    let request =
        v1::WatchConnectionsRequest { organization_id: organization_id.to_string(), ..Default::default() };
    PageToken::of("WatchConnections", &request)
}

pub(super) fn read_auth_method(reader: &mut Reader, number: i32) -> Option<AuthMethod> {
    match v1::AuthMethod::try_from(number) {
        Ok(v1::AuthMethod::Unspecified) => None,
        Ok(v1::AuthMethod::Oauth2Code) => Some(AuthMethod::OAuth2Code),
        Ok(v1::AuthMethod::Oauth2Device) => Some(AuthMethod::OAuth2Device),
        Ok(v1::AuthMethod::Oauth2ClientCredentials) => Some(AuthMethod::OAuth2ClientCredentials),
        Ok(v1::AuthMethod::JwtBearer) => Some(AuthMethod::JwtBearer),
        Ok(v1::AuthMethod::ApiKey) => Some(AuthMethod::ApiKey),
        Ok(v1::AuthMethod::Basic) => Some(AuthMethod::Basic),
        Ok(v1::AuthMethod::Bearer) => Some(AuthMethod::Bearer),
        Ok(v1::AuthMethod::Custom) => Some(AuthMethod::Custom),
        Err(_) => {
            reader.wrong("auth_method", "is not an auth method");
            None
        }
    }
}

fn read_account(reader: &mut Reader, account: v1::Account) -> Option<Account> {
    let id = reader.checked("account.id", Text::parse(&account.id));
    let name = reader.checked("account.name", Text::parse(&account.name));
    let email = reader.checked("account.email", Text::parse(&account.email));
    Some(Account { id: id?, name: name?, email: email? })
}

pub(super) fn read_labels(
    reader: &mut Reader,
    field: &str,
    labels: &BTreeMap<String, String>,
) -> Option<Labels> {
    let pairs = labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    reader.checked(field, Labels::parse(pairs))
}

/// The states to list; none given: all but the deleted.
fn read_states(reader: &mut Reader, states: &[i32]) -> Vec<ConnectionState> {
    let mut wanted = Vec::new();
    for number in states {
        match v1::ConnectionState::try_from(*number) {
            Ok(v1::ConnectionState::Pending) => wanted.push(ConnectionState::Pending),
            Ok(v1::ConnectionState::Active) => wanted.push(ConnectionState::Active),
            Ok(v1::ConnectionState::Disabled) => wanted.push(ConnectionState::Disabled),
            Ok(v1::ConnectionState::ReauthorizationRequired) => {
                wanted.push(ConnectionState::ReauthorizationRequired)
            }
            Ok(v1::ConnectionState::Deleted) => wanted.push(ConnectionState::Deleted),
            Ok(v1::ConnectionState::Unspecified) | Err(_) => {
                reader.wrong("states", "has a value that is not a state")
            }
        }
    }
    if wanted.is_empty() {
        wanted.extend(ConnectionState::ALL.into_iter().filter(|state| *state != ConnectionState::Deleted));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_feed_has_one_resume_token() {
        let organization_id = OrganizationId::parse("acme").unwrap();
        let read = |token: &str| {
            let mut reader = Reader::new();
            let place = resumed(&mut reader, &organization_id, token);
            reader.finish(Some(place)).ok()
        };
        for place in [0, 7, i64::MAX] {
            assert_eq!(read(&resume_token(&organization_id, place)), Some(Some(place)));
        }
        for spelling in ["+7", "07", "007", "-0", "-7", " 7", "7 ", "", "9223372036854775808"] {
            let token = feed(&organization_id).encode(spelling);
            assert_eq!(read(&token), None, "{spelling:?}");
        }
    }
}
