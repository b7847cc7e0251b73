//! Connections and grants from their making to their end, and the lists that show them.

mod changes;
mod creates;
mod filters;
mod pages;
mod targets;

use keyholder_proto::v1;
use tonic::{Response, Status};

use crate::harness::{ACME, World, grant_request, openai};

/// An account at openai that is known by its id.
fn account(owner: &str, id: &str, key: &str) -> v1::CreateConnectionRequest {
    let account = v1::Account { id: id.into(), ..Default::default() };
    v1::CreateConnectionRequest { account: Some(account), ..openai(owner, key) }
}

/// A connection with a bearer token.
fn bearer(owner: &str, token: &str) -> v1::CreateConnectionRequest {
    v1::CreateConnectionRequest {
        provider_id: "bearer".into(),
        credentials: [("token".to_owned(), token.to_owned())].into(),
        ..openai(owner, "")
    }
}

/// A grant for every connection of an owner at a provider.
fn selector_grant(grantee: &str, owner: &str, provider_id: &str) -> v1::CreateGrantRequest {
    let selector = v1::GrantSelector { owner: owner.into(), provider_id: provider_id.into() };
    v1::CreateGrantRequest {
        target: Some(v1::create_grant_request::Target::Selector(selector)),
        ..grant_request(grantee, "")
    }
}

async fn create(world: &World, request: v1::CreateConnectionRequest) -> Result<v1::Connection, Status> {
    let made = world.connections().create_connection(request).await;
    made.map(Response::into_inner).map(|made| made.connection.unwrap())
}

async fn give(world: &World, request: v1::CreateGrantRequest) -> Result<v1::Grant, Status> {
    let made = world.grants("console").create_grant(request).await;
    made.map(Response::into_inner).map(|made| made.grant.unwrap())
}

async fn get(world: &World, connection_id: &str) -> v1::Connection {
    let get =
        v1::GetConnectionRequest { organization_id: ACME.into(), connection_id: connection_id.to_owned() };
    world.connections().get_connection(get).await.unwrap().into_inner().connection.unwrap()
}

async fn get_grant(world: &World, grant_id: &str) -> v1::Grant {
    let get = v1::GetGrantRequest { organization_id: ACME.into(), grant_id: grant_id.to_owned() };
    world.grants("console").get_grant(get).await.unwrap().into_inner().grant.unwrap()
}

async fn disable(
    world: &World,
    connection_id: &str,
    reason: &str,
    etag: &str,
) -> Result<v1::Connection, Status> {
    let request = v1::DisableConnectionRequest {
        organization_id: ACME.into(),
        connection_id: connection_id.into(),
        reason: reason.into(),
        etag: etag.into(),
    };
    let answer = world.connections().disable_connection(request).await;
    answer.map(|answer| answer.into_inner().connection.unwrap())
}

async fn enable(world: &World, connection_id: &str, etag: &str) -> Result<v1::Connection, Status> {
    let request = v1::EnableConnectionRequest {
        organization_id: ACME.into(),
        connection_id: connection_id.into(),
        etag: etag.into(),
    };
    let answer = world.connections().enable_connection(request).await;
    answer.map(|answer| answer.into_inner().connection.unwrap())
}

async fn delete(world: &World, connection_id: &str, etag: &str) -> Result<v1::Connection, Status> {
    let request = v1::DeleteConnectionRequest {
        organization_id: ACME.into(),
        connection_id: connection_id.into(),
        etag: etag.into(),
    };
    let answer = world.connections().delete_connection(request).await;
    answer.map(|answer| answer.into_inner().connection.unwrap())
}

async fn replace(
    world: &World,
    connection_id: &str,
    credentials: &[(&str, &str)],
    etag: &str,
) -> Result<v1::Connection, Status> {
    let credentials = credentials.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let request = v1::ReplaceCredentialsRequest {
        organization_id: ACME.into(),
        connection_id: connection_id.into(),
        credentials: credentials.collect(),
        etag: etag.into(),
        ..Default::default()
    };
    let answer = world.connections().replace_credentials(request).await;
    answer.map(|answer| answer.into_inner().connection.unwrap())
}

async fn update(world: &World, connection: v1::Connection, mask: &[&str]) -> Result<v1::Connection, Status> {
    let paths = mask.iter().map(|path| (*path).to_owned()).collect();
    let request = v1::UpdateConnectionRequest {
        connection: Some(connection),
        update_mask: Some(prost_types::FieldMask { paths }),
    };
    let answer = world.connections().update_connection(request).await;
    answer.map(|answer| answer.into_inner().connection.unwrap())
}

async fn revoke(world: &World, grant_id: &str, etag: &str) -> Result<v1::Grant, Status> {
    let request =
        v1::RevokeGrantRequest { organization_id: ACME.into(), grant_id: grant_id.into(), etag: etag.into() };
    let answer = world.grants("console").revoke_grant(request).await;
    answer.map(|answer| answer.into_inner().grant.unwrap())
}

/// What a resolve releases: the header that carries the key.
async fn resolve(world: &World, request: v1::ResolveCredentialRequest) -> Result<String, Status> {
    let released = world.grants("gateway").resolve_credential(request).await?.into_inner();
    Ok(released.http.unwrap().headers["Authorization"].clone())
}
