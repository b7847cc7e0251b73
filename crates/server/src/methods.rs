//! The method table: every RPC, who may call it, and how long it may take. What is not in it is refused.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use keyholder_identity::Role;

/// One RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// Its path on the wire.
    pub path: &'static str,
    /// The roles that may call it; any one suffices. Empty: any workload that the policy lists.
    pub roles: &'static [Role],
    /// How long a call may take at most until its answer begins. None: as long as others; a stream that has begun lasts
    /// until either side ends it.
    pub deadline: Option<Duration>,
    /// Whether every call of a known workload is in the audit. Then a refusal for a missing role is the handler's, because only
    /// the handler knows in whose audit to record it; everywhere else it is the gate's.
    pub in_audit: bool,
}

const ANY: &[Role] = &[];
const MANAGING: &[Role] = &[Role::Manager, Role::Operator];
const RESOLVING: &[Role] = &[Role::Resolver];
const CHECKING: &[Role] = &[Role::Resolver, Role::Manager, Role::Operator];
const AUDITING: &[Role] = &[Role::Auditor, Role::Operator];

const SHORT: Option<Duration> = Some(Duration::from_secs(10));
/// A call that asks a provider, which may take 10 seconds by itself.
const OUTSIDE: Option<Duration> = Some(Duration::from_secs(20));
const STREAM: Option<Duration> = None;

/// The RPC that is called before every call to a provider.
pub const RESOLVE_CREDENTIAL: &str = "/keyholder.v1.GrantService/ResolveCredential";

/// Every RPC that is served.
pub const METHODS: &[Method] = &[
    method("/keyholder.v1.ProviderService/ListProviders", ANY, SHORT),
    method("/keyholder.v1.ProviderService/GetProvider", ANY, SHORT),
    method("/keyholder.v1.ConnectionService/CreateConnection", MANAGING, OUTSIDE),
    method("/keyholder.v1.ConnectionService/StartAuthorization", MANAGING, OUTSIDE),
    method("/keyholder.v1.ConnectionService/GetAuthorization", MANAGING, SHORT),
    method("/keyholder.v1.ConnectionService/CompleteAuthorization", MANAGING, OUTSIDE),
    method("/keyholder.v1.ConnectionService/GetConnection", MANAGING, SHORT),
    method("/keyholder.v1.ConnectionService/ListConnections", MANAGING, SHORT),
    method("/keyholder.v1.ConnectionService/UpdateConnection", MANAGING, SHORT),
    method("/keyholder.v1.ConnectionService/ReplaceCredentials", MANAGING, SHORT),
    method("/keyholder.v1.ConnectionService/DisableConnection", MANAGING, SHORT),
    method("/keyholder.v1.ConnectionService/EnableConnection", MANAGING, SHORT),
    method("/keyholder.v1.ConnectionService/DeleteConnection", MANAGING, SHORT),
    method("/keyholder.v1.ConnectionService/RevokeAll", MANAGING, SHORT),
    method("/keyholder.v1.ConnectionService/GetRevocationRun", MANAGING, SHORT),
    method("/keyholder.v1.ConnectionService/TestConnection", MANAGING, OUTSIDE),
    method("/keyholder.v1.ConnectionService/RefreshConnection", MANAGING, OUTSIDE),
    method("/keyholder.v1.ConnectionService/WatchConnections", MANAGING, STREAM),
    method("/keyholder.v1.OAuthClientService/SetOAuthClient", MANAGING, SHORT),
    method("/keyholder.v1.OAuthClientService/ListOAuthClients", MANAGING, SHORT),
    method("/keyholder.v1.OAuthClientService/DeleteOAuthClient", MANAGING, SHORT),
    method("/keyholder.v1.GrantService/CreateGrant", MANAGING, SHORT),
    method("/keyholder.v1.GrantService/GetGrant", MANAGING, SHORT),
    method("/keyholder.v1.GrantService/ListGrants", MANAGING, SHORT),
    method("/keyholder.v1.GrantService/RevokeGrant", MANAGING, SHORT),
    method("/keyholder.v1.GrantService/CheckAccess", CHECKING, SHORT),
    method("/keyholder.v1.GrantService/ListAccess", CHECKING, SHORT),
    Method { in_audit: true, ..method(RESOLVE_CREDENTIAL, RESOLVING, OUTSIDE) },
    method("/keyholder.v1.GrantService/ReportRejected", RESOLVING, OUTSIDE),
    method("/keyholder.v1.AuditService/ListAuditEvents", AUDITING, SHORT),
    method("/grpc.health.v1.Health/Check", ANY, SHORT),
    method("/grpc.health.v1.Health/List", ANY, SHORT),
    method("/grpc.health.v1.Health/Watch", ANY, STREAM),
    method("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", ANY, STREAM),
    method("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", ANY, STREAM),
];

const fn method(path: &'static str, roles: &'static [Role], deadline: Option<Duration>) -> Method {
    Method { path, roles, deadline, in_audit: false }
}

impl Method {
    /// The row of a path.
    pub fn find(path: &str) -> Option<&'static Self> {
        static BY_PATH: LazyLock<HashMap<&str, &Method>> =
            LazyLock::new(|| METHODS.iter().map(|method| (method.path, method)).collect());
        BY_PATH.get(path).copied()
    }
}
