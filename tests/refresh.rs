//! Connections that are refreshed: no token lost, none late, none twice.

mod ahead;
mod answers;
mod budget;
mod budget_time;
mod demand;
mod durable;
mod in_flight;
mod outcomes;
mod pace;
mod rejected;
mod replicas;
mod restore;
mod spool;
pub(crate) mod staged;

use std::fs;
use std::process::Command;

use keyholder_proto::v1;
use keyholder_testkit::provider::Provider;
use tokio::task::JoinSet;
use tonic::Status;

use crate::harness::{ACME, DATABASE, binary, eventually, http_get, reason, resolve_request, run};
use crate::oauth::world::{CLIENT, OAuth};

/// A refresh token that can be shown again: whatever goes wrong, the next attempt may follow at once.
const STATIC: &str = "  refresh: { reuse: static }";

// === What is asked ===

/// Refreshes a connection now.
async fn refresh_now(oauth: &OAuth, made: &v1::Connection) -> Result<v1::Connection, Status> {
    let request = v1::RefreshConnectionRequest {
        organization_id: ACME.into(),
        connection_id: made.connection_id.clone(),
    };
    let refreshed = oauth.world.connections().refresh_connection(request).await?;
    Ok(refreshed.into_inner().connection.unwrap())
}

/// Asks for a connection's credential as its owner.
async fn resolve(oauth: &OAuth, made: &v1::Connection) -> Result<v1::ResolveCredentialResponse, Status> {
    let request = resolve_request(&made.owner, &made.connection_id);
    Ok(oauth.world.grants("gateway").resolve_credential(request).await?.into_inner())
}

/// The access token in an answer.
fn token_in(resolved: &v1::ResolveCredentialResponse) -> &str {
    let kind = resolved.credential.as_ref().unwrap().kind.as_ref().unwrap();
    let v1::credential::Kind::Oauth2(token) = kind else { panic!("no access token") };
    &token.access_token
}

/// That a connection is in use, and that what it releases is good at the provider.
async fn assert_good(oauth: &OAuth, made: &v1::Connection) {
    let now = oauth.connection(&made.connection_id).await;
    assert_eq!(now.state(), v1::ConnectionState::Active, "{}", now.state_reason);
    let resolved = resolve(oauth, made).await.unwrap_or_else(|status| panic!("{}", reason(&status)));
    assert!(oauth.provider.account_of(token_in(&resolved)).is_some(), "what is released is good");
}

/// Waits until a connection is in a state, and returns it.
async fn until_state(oauth: &OAuth, made: &v1::Connection, state: v1::ConnectionState) -> v1::Connection {
    let of_it = format!("SELECT state FROM connections WHERE connection_id = '{}'", id(made));
    eventually(state.as_str_name(), || state.as_str_name().ends_with(&oauth.world.sql(&of_it)).then_some(()));
    oauth.connection(&made.connection_id).await
}

/// Connects many accounts whose tokens were issued elsewhere, each the account of another person.
async fn import(oauth: &OAuth, provider: &Provider, provider_id: &str, number: usize) -> Vec<v1::Connection> {
    let mut made = Vec::new();
    let mut under_way = JoinSet::new();
    for number in 0..number {
        let tokens = provider.issue(CLIENT.0, &format!("{provider_id}-{number}"), &["read", "write"]);
        let refresh = tokens.refresh.clone().unwrap();
        let credentials = [("access_token", tokens.access.as_str()), ("refresh_token", refresh.as_str())];
        let method = v1::AuthMethod::Oauth2Code;
        let request = v1::CreateConnectionRequest {
            owner: format!("user:{number}"),
            token_expire_time: Some(prost_types::Timestamp {
                seconds: tokens.ends.unix_timestamp(),
                nanos: 0,
            }),
            ..crate::oauth::world::create(provider_id, method, &credentials)
        };
        let mut console = oauth.world.connections();
        if under_way.len() >= 8 {
            made.push(under_way.join_next().await.unwrap().unwrap());
        }
        under_way.spawn(async move {
            console.create_connection(request).await.unwrap().into_inner().connection.unwrap()
        });
    }
    while let Some(one) = under_way.join_next().await {
        made.push(one.unwrap());
    }
    made.sort_by(|one, other| one.connection_id.cmp(&other.connection_id));
    made
}

// === What is so ===

/// A connection's id as the database has it.
fn id(made: &v1::Connection) -> &str {
    made.connection_id.trim_start_matches("conn_")
}

/// A column of a connection's row of the refresher.
fn row(oauth: &OAuth, made: &v1::Connection, column: &str) -> String {
    oauth.world.sql(&format!("SELECT {column} FROM refreshes WHERE connection_id = '{}'", id(made)))
}

/// The reasons of the audit events of a kind, in order.
fn events(oauth: &OAuth, kind: &str) -> String {
    oauth.world.sql(&format!(
        "SELECT coalesce(string_agg(reason, ' ' ORDER BY audit_event_id), '')
         FROM audit_events WHERE kind = '{kind}'"
    ))
}

/// How many audit events of a kind there are.
fn events_of(oauth: &OAuth, kind: &str) -> String {
    oauth.world.sql(&format!("SELECT count(*) FROM audit_events WHERE kind = '{kind}'"))
}

/// What a metric says, by its name and labels as they are printed.
fn metric(oauth: &OAuth, name: &str) -> Option<String> {
    let text = http_get(oauth.world.server.admin, "/metrics").1;
    text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")).map(str::to_owned))
}

/// What `keyholder refresh …` prints.
fn keyholder_refresh(oauth: &OAuth, arguments: &[&str]) -> String {
    let arguments = [&["refresh"], arguments].concat();
    run(&binary(), &arguments, oauth.world.dir.path(), &oauth.world.postgres.url(DATABASE))
}

/// The line of a provider in the operator's table, each column once.
fn operators_line(oauth: &OAuth, provider_id: &str) -> String {
    let table = keyholder_refresh(oauth, &["status"]);
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(provider_id));
    line.unwrap_or_else(|| panic!("{table}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

// === Time ===

/// Lets the moment of a connection's next refresh come now.
fn make_due(oauth: &OAuth, made: &v1::Connection) {
    make_due_where(oauth, &format!("connection_id = '{}'", id(made)));
}

/// Lets the moment of the next refresh come now, for every connection of which a condition is true.
fn make_due_where(oauth: &OAuth, condition: &str) {
    oauth.world.sql(&format!(
        "UPDATE refreshes SET due_time = clock_timestamp(), earliest_time = clock_timestamp()
         WHERE attempt_id IS NULL AND NOT ready AND {condition}"
    ));
}

/// Lets a connection's access token have ended, and lets whoever needs another ask for it.
fn expire(oauth: &OAuth, made: &v1::Connection) {
    let it = format!("connection_id = '{}'", id(made));
    oauth.world.sql(&format!(
        "WITH ended AS (UPDATE refreshes SET deadline = clock_timestamp() - interval '1 second',
                            earliest_time = clock_timestamp() WHERE {it})
         UPDATE connections SET token_expire_time = clock_timestamp() - interval '1 second' WHERE {it}"
    ));
}

// === Secrets ===

/// That no secret of the provider's, nor any other text, is in what the outside can see.
fn assert_silent(oauth: &OAuth, more: &[&str]) {
    let mut secrets = oauth.provider.secrets();
    secrets.extend([CLIENT.1.to_owned()].into_iter().chain(more.iter().map(|&text| text.to_owned())));
    let mut told = vec![("metrics", http_get(oauth.world.server.admin, "/metrics").1)];
    for file in fs::read_dir(oauth.world.dir.path()).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "log") {
            told.push(("a log", fs::read_to_string(path).unwrap()));
        }
    }
    told.push(("the log of Postgres", fs::read_to_string(oauth.world.postgres.log_path()).unwrap()));
    let pg_dump = oauth.world.postgres.bin_dir().join("pg_dump");
    let dump = Command::new(pg_dump).arg(oauth.world.postgres.url(DATABASE)).output().unwrap();
    assert!(dump.status.success());
    told.push(("the dump", String::from_utf8(dump.stdout).unwrap()));
    assert!(told.len() >= 4, "the server has a log");
    for (what, text) in &told {
        for secret in &secrets {
            let at = text.find(secret.as_str());
            assert_eq!(at, None, "{what} holds {secret:.8}…");
        }
    }
}
