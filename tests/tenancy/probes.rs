//! Requests into which another organization's ids, names and tokens are put.

use keyholder_proto::v1::{self, check_access_request, resolve_credential_request};
use prost::Message;

use crate::harness::{ACME, grant_request, resolve_request};

/// Fills the hole, and encodes the request.
type Fill = Box<dyn Fn(&str) -> Vec<u8>>;

/// A request with a hole for an id, or for another value that could be eve's.
pub(super) struct Probe {
    pub(super) path: String,
    pub(super) field: &'static str,
    pub(super) request: Fill,
}

pub(super) fn probe<M: Message>(
    rpc: &str,
    field: &'static str,
    request: impl Fn(String) -> M + 'static,
) -> Probe {
    let request = move |value: &str| request(value.to_owned()).encode_to_vec();
    Probe { path: format!("/keyholder.v1.{rpc}"), field, request: Box::new(request) }
}

pub(super) fn connection_probes() -> Vec<Probe> {
    let update = |connection_id: String, etag: &str| {
        let connection = v1::Connection {
            organization_id: ACME.into(),
            connection_id,
            display_name: "mine now".into(),
            etag: etag.into(),
            ..Default::default()
        };
        let update_mask = Some(prost_types::FieldMask { paths: vec!["display_name".into()] });
        v1::UpdateConnectionRequest { connection: Some(connection), update_mask }
    };
    let replace = |connection_id: String, etag: &str| v1::ReplaceCredentialsRequest {
        organization_id: ACME.into(),
        connection_id,
        credentials: [("api_key".to_owned(), "sk-mine".to_owned())].into(),
        etag: etag.into(),
        ..Default::default()
    };
    let disable = |connection_id: String, etag: &str| v1::DisableConnectionRequest {
        organization_id: ACME.into(),
        connection_id,
        etag: etag.into(),
        ..Default::default()
    };
    let enable = |connection_id: String, etag: &str| v1::EnableConnectionRequest {
        organization_id: ACME.into(),
        connection_id,
        etag: etag.into(),
    };
    let delete = |connection_id: String, etag: &str| v1::DeleteConnectionRequest {
        organization_id: ACME.into(),
        connection_id,
        etag: etag.into(),
    };
    let mut probes = Vec::new();
    for etag in ["", "g1", "g2"] {
        probes.extend([
            probe("ConnectionService/UpdateConnection", "connection.connection_id", move |id| {
                update(id, etag)
            }),
            probe("ConnectionService/ReplaceCredentials", "connection_id", move |id| replace(id, etag)),
            probe("ConnectionService/DisableConnection", "connection_id", move |id| disable(id, etag)),
            probe("ConnectionService/EnableConnection", "connection_id", move |id| enable(id, etag)),
            probe("ConnectionService/DeleteConnection", "connection_id", move |id| delete(id, etag)),
        ]);
    }
    probes.push(probe("ConnectionService/GetConnection", "connection_id", move |connection_id| {
        v1::GetConnectionRequest { organization_id: ACME.into(), connection_id }
    }));
    probes.push(probe("ConnectionService/TestConnection", "connection_id", move |connection_id| {
        v1::TestConnectionRequest { organization_id: ACME.into(), connection_id }
    }));
    probes.push(probe("GrantService/CreateGrant", "connection_id", |id| grant_request("agent:roadie", &id)));
    probes.push(probe("GrantService/ListGrants", "connection_id", move |connection_id| {
        v1::ListGrantsRequest { organization_id: ACME.into(), connection_id, ..Default::default() }
    }));
    probes.push(probe("AuditService/ListAuditEvents", "connection_id", move |connection_id| {
        v1::ListAuditEventsRequest { organization_id: ACME.into(), connection_id, ..Default::default() }
    }));
    probes.push(probe("ConnectionService/RefreshConnection", "connection_id", move |connection_id| {
        v1::RefreshConnectionRequest { organization_id: ACME.into(), connection_id }
    }));
    probes.push(probe("ConnectionService/StartAuthorization", "connection_id", move |connection_id| {
        v1::StartAuthorizationRequest { organization_id: ACME.into(), connection_id, ..Default::default() }
    }));
    for actor in ["agent:roadie", "user:ada"] {
        probes.push(probe("GrantService/CheckAccess", "connection_id", move |id| v1::CheckAccessRequest {
            organization_id: ACME.into(),
            actor: actor.into(),
            target: Some(check_access_request::Target::ConnectionId(id)),
            ..Default::default()
        }));
        probes.push(probe("GrantService/ResolveCredential", "connection_id", move |id| {
            resolve_request(actor, &id)
        }));
        probes.push(probe("GrantService/ReportRejected", "connection_id", move |connection_id| {
            let (organization_id, actor) = (ACME.into(), actor.into());
            v1::ReportRejectedRequest { organization_id, actor, connection_id, generation: 1 }
        }));
    }
    probes
}

pub(super) fn grant_probes() -> Vec<Probe> {
    let revoke = |grant_id: String, etag: &str| v1::RevokeGrantRequest {
        organization_id: ACME.into(),
        grant_id,
        etag: etag.into(),
    };
    vec![
        probe("GrantService/GetGrant", "grant_id", move |grant_id| v1::GetGrantRequest {
            organization_id: ACME.into(),
            grant_id,
        }),
        probe("GrantService/RevokeGrant", "grant_id", move |id| revoke(id, "")),
        probe("GrantService/RevokeGrant", "grant_id", move |id| revoke(id, "g1")),
        probe("GrantService/RevokeGrant", "grant_id", move |id| revoke(id, "g2")),
        probe("AuditService/ListAuditEvents", "grant_id", move |grant_id| v1::ListAuditEventsRequest {
            organization_id: ACME.into(),
            grant_id,
            ..Default::default()
        }),
    ]
}

pub(super) fn authorization_probes() -> Vec<Probe> {
    let complete = |authorization_id: String, verifier: &str, parameters: &[(&str, &str)]| {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        v1::CompleteAuthorizationRequest {
            organization_id: ACME.into(),
            authorization_id,
            completion_verifier: verifier.into(),
            redirect_parameters: parameters.collect(),
        }
    };
    const RPC: &str = "ConnectionService/CompleteAuthorization";
    vec![
        probe("ConnectionService/GetAuthorization", "authorization_id", move |authorization_id| {
            v1::GetAuthorizationRequest { organization_id: ACME.into(), authorization_id }
        }),
        probe(RPC, "authorization_id", move |id| complete(id, "", &[])),
        probe(RPC, "authorization_id", move |id| complete(id, "wrong", &[])),
        // What eve's own app would send.
        probe(RPC, "authorization_id", move |id| complete(id, super::VERIFIER, &[])),
        probe(RPC, "authorization_id", move |id| {
            complete(id, super::VERIFIER, &[("state", "x"), ("code", "x")])
        }),
    ]
}

pub(super) fn run_probes() -> Vec<Probe> {
    vec![probe("ConnectionService/GetRevocationRun", "revocation_run_id", move |revocation_run_id| {
        v1::GetRevocationRunRequest { organization_id: ACME.into(), revocation_run_id }
    })]
}

/// Requests that name an owner or an account, with one of eve's and one of nobody's.
pub(super) fn name_probes() -> Vec<(Probe, &'static str, &'static str)> {
    let target = |owner: &str, account_id: &str| v1::ProviderTarget {
        provider_id: "openai".into(),
        owner: owner.into(),
        account_id: account_id.into(),
    };
    let check = |target| v1::CheckAccessRequest {
        organization_id: ACME.into(),
        actor: "agent:roadie".into(),
        target: Some(check_access_request::Target::Provider(target)),
        ..Default::default()
    };
    let resolve = |target| v1::ResolveCredentialRequest {
        target: Some(resolve_credential_request::Target::Provider(target)),
        ..resolve_request("agent:roadie", "")
    };
    let (eve, nobody, account, no_account) = ("user:eve", "user:nobody", "acct_eve_sk-2", "acct_nobody");
    vec![
        (
            probe("GrantService/CheckAccess", "provider.owner", move |owner| check(target(&owner, ""))),
            eve,
            nobody,
        ),
        (
            probe("GrantService/CheckAccess", "provider.account_id", move |id| check(target("", &id))),
            account,
            no_account,
        ),
        (
            probe("GrantService/ResolveCredential", "provider.owner", move |owner| {
                resolve(target(&owner, ""))
            }),
            eve,
            nobody,
        ),
        (
            probe("GrantService/ResolveCredential", "provider.account_id", move |id| {
                resolve(target("", &id))
            }),
            account,
            no_account,
        ),
        (
            probe("ConnectionService/ListConnections", "owner", move |owner| v1::ListConnectionsRequest {
                organization_id: ACME.into(),
                owner,
                ..Default::default()
            }),
            eve,
            nobody,
        ),
        (
            probe("ConnectionService/ListConnections", "account_id", move |account_id| {
                v1::ListConnectionsRequest { organization_id: ACME.into(), account_id, ..Default::default() }
            }),
            account,
            no_account,
        ),
        (
            probe("ConnectionService/WatchConnections", "owner", move |owner| v1::WatchConnectionsRequest {
                organization_id: ACME.into(),
                owner,
                ..Default::default()
            }),
            eve,
            nobody,
        ),
        (
            probe("GrantService/ListAccess", "actor", move |actor| v1::ListAccessRequest {
                organization_id: ACME.into(),
                actor,
                ..Default::default()
            }),
            eve,
            nobody,
        ),
        (
            // Eve has a client at GitHub, and nobody has one at Slack.
            probe("OAuthClientService/DeleteOAuthClient", "provider_id", move |provider_id| {
                v1::DeleteOAuthClientRequest { organization_id: ACME.into(), provider_id }
            }),
            "github",
            "slack",
        ),
        (
            probe("ConnectionService/StartAuthorization", "provider_id", move |provider_id| {
                v1::StartAuthorizationRequest {
                    organization_id: ACME.into(),
                    owner: "user:ada".into(),
                    provider_id,
                    ..Default::default()
                }
            }),
            "github",
            "slack",
        ),
        (
            probe("AuditService/ListAuditEvents", "actor", move |actor| v1::ListAuditEventsRequest {
                organization_id: ACME.into(),
                actor,
                ..Default::default()
            }),
            eve,
            nobody,
        ),
    ]
}
