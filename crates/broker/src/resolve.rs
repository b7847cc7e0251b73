//! The exchange of a grant for a credential.
//!
//! What is meant and whether it may be used is decided on what was read, perhaps a while ago. Then one
//! statement records the release, on the condition that everything that was decided on still stands. If it
//! does not, what was read is forgotten and read anew. So a decision may be taken on stale data, but
//! never carried out; and a refusal is never taken on stale data, because it is always read anew first.

mod choice;
mod render;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyholder_catalog::Injection;
use keyholder_domain::access::Denial;
use keyholder_domain::{
    Account, AuditEventId, AuditKind, Connection, ConnectionId, Generation, GrantId, Principal, ProviderId,
    Reason, Scopes, Text, Timestamp,
};
use keyholder_store::{
    Found, NewAuditEvent, Release, ReleaseLane, StoreError, StoredConnection, StoredDataKey, Target,
};
use keyholder_vault::{Credential, Envelope, OpenError, Place, SecretString};

use crate::cache::{Answer, Key};
use crate::connections::CREDENTIAL;
use crate::refresh::Awaited;
use crate::{Broker, BrokerError, Caller};
use render::render;

pub use choice::{AmbiguousCandidate, Refusal};
pub(crate) use choice::{Chosen, renewable};

/// How often a release is tried when what was decided on keeps changing.
const ATTEMPTS: usize = 5;

/// What is asked for.
#[derive(Debug)]
pub struct Ask {
    /// As whom.
    pub actor: Principal,
    /// What is meant.
    pub target: Target,
    /// The scopes that are needed.
    pub scopes: Scopes,
    /// How long the credential must be good for, at least.
    pub min_ttl: Duration,
    /// What for; kept in the audit.
    pub purpose: Text,
    /// How long the caller can wait for a credential that has to be renewed first.
    pub wait: Duration,
}

/// A credential that has been released, and everything needed to use it.
#[derive(Debug)]
pub struct Released {
    /// The connection it comes from.
    pub connection_id: ConnectionId,
    /// The grant that decided; none when the actor owns the connection.
    pub grant_id: Option<GrantId>,
    /// The provider it is for.
    pub provider_id: ProviderId,
    /// The account at the provider.
    pub account: Account,
    /// The credential.
    pub credential: ReleasedCredential,
    /// The credential as it goes on an HTTP request.
    pub http: Injection,
    /// What the actor may count on.
    pub scopes: Scopes,
    /// Until when the credential is good, where that is known.
    pub valid_until: Option<Timestamp>,
    /// The connection's version.
    pub generation: Generation,
    /// The audit event that records the release.
    pub audit_event_id: AuditEventId,
}

/// A credential in the shape of its auth method.
#[derive(Debug)]
pub enum ReleasedCredential {
    /// An access token that an OAuth server issued.
    OAuth2 {
        /// The token.
        access_token: SecretString,
    },
    /// A key, and the other fields that the provider asks for.
    ApiKey {
        /// The key.
        api_key: SecretString,
        /// The other fields.
        other_fields: BTreeMap<String, SecretString>,
    },
    /// A user name and a password.
    Basic {
        /// The user name.
        username: SecretString,
        /// The password.
        password: SecretString,
    },
    /// A bearer token.
    Bearer {
        /// The token.
        token: SecretString,
    },
    /// Fields of the owner's own making.
    Custom {
        /// The fields.
        fields: BTreeMap<String, SecretString>,
    },
}

impl Broker {
    /// Releases a credential, and records that it did; or refuses, and records that.
    pub async fn resolve(
        &self,
        lane: &ReleaseLane,
        caller: &Caller<'_>,
        ask: &Ask,
    ) -> Result<Released, BrokerError> {
        let key = Key {
            organization_id: caller.organization_id.clone(),
            actor: ask.actor.clone(),
            target: ask.target.clone(),
        };
        let mut alone = false;
        if let Some(found) = self.0.found.kept(&key) {
            match self.choose(caller, ask, caller.workload, &found) {
                Ok(chosen) => match self.release(lane, caller, ask, &found, chosen).await {
                    Ok(Some(released)) => return Ok(released),
                    // All those whose connection changed look it up anew together, once.
                    Ok(None) => {}
                    // What does not open may have been mended since it was read.
                    Err(BrokerError::CredentialUnreadable { .. }) => alone = true,
                    Err(error) => return Err(error),
                },
                Err(_) => alone = true,
            }
            self.0.found.forget(&key, &found);
        }
        // In a box, so that those who come this far do not make the future of all others large.
        Box::pin(self.resolve_anew(lane, caller, ask, key, alone)).await
    }

    /// Resolves what is looked up now: `alone`, or together with others who ask for the same.
    async fn resolve_anew(
        &self,
        lane: &ReleaseLane,
        caller: &Caller<'_>,
        ask: &Ask,
        key: Key,
        mut alone: bool,
    ) -> Result<Released, BrokerError> {
        let mut waited = false;
        // What the database did not confirm, although nothing had changed: its clock says that the token has ended.
        let mut unconfirmed = None;
        for _ in 0..ATTEMPTS {
            let look_up = Box::pin(self.look_up(caller, ask));
            let (found, fresh) = if alone {
                (Arc::new(look_up.await?), true)
            } else {
                self.0.found.kept_or(&key, look_up).await?
            };
            match self.choose(caller, ask, caller.workload, &found) {
                Ok(chosen) => {
                    let connection = chosen.candidate.stored.connection.clone();
                    let version = chosen.candidate.version;
                    if fresh
                        && unconfirmed.replace(version) == Some(version)
                        && !waited
                        && connection.tokens.is_some()
                    {
                        let expired = Refusal::Denied(Denial::TokenExpired);
                        if let Some(refusal) = self.renew(caller, ask, &found, expired, waited).await? {
                            self.record_refusal(caller, ask, &found, &refusal).await?;
                            return Err(BrokerError::Refused(refusal));
                        }
                        waited = true;
                        continue;
                    }
                    match self.release(lane, caller, ask, &found, chosen).await {
                        Ok(Some(released)) => {
                            if alone {
                                self.0.found.insert(key, found);
                            }
                            return Ok(released);
                        }
                        Ok(None) => alone = true,
                        Err(BrokerError::CredentialUnreadable { .. }) if !fresh => alone = true,
                        Err(error @ BrokerError::CredentialUnreadable { .. }) => {
                            self.0.found.forget(&key, &found);
                            let reason = Reason::CredentialUnreadable;
                            self.record(caller, ask, Some(&connection), None, reason).await?;
                            return Err(error);
                        }
                        Err(error) => return Err(error),
                    }
                    self.0.found.forget(&key, &found);
                }
                Err(_) if !fresh => {
                    self.0.found.forget(&key, &found);
                    alone = true;
                }
                Err(refusal) => {
                    self.0.found.forget(&key, &found);
                    let refusal = match self.renew(caller, ask, &found, refusal, waited).await? {
                        None => {
                            waited = true;
                            continue;
                        }
                        Some(refusal) => self.exact(caller, ask, refusal).await?,
                    };
                    self.record_refusal(caller, ask, &found, &refusal).await?;
                    return Err(BrokerError::Refused(refusal));
                }
            }
        }
        self.record(caller, ask, None, None, Reason::Contended).await?;
        Err(BrokerError::Contended)
    }

    async fn look_up(&self, caller: &Caller<'_>, ask: &Ask) -> Result<Answer, StoreError> {
        let _room = self.0.lookups.try_acquire().map_err(|_| StoreError::Busy)?;
        self.store().find(caller.organization_id, &ask.actor, &ask.target).await.map(Answer::of)
    }

    /// Where nothing but the token's time stands in the way, has it renewed, once. None: look again. Else the reason why
    /// nothing is released.
    async fn renew(
        &self,
        caller: &Caller<'_>,
        ask: &Ask,
        found: &Found,
        refusal: Refusal,
        waited: bool,
    ) -> Result<Option<Refusal>, BrokerError> {
        let question = self.question(ask, caller.workload);
        let expired = refusal == Refusal::Denied(Denial::TokenExpired);
        let Some(candidate) = renewable(&question, ask, found).filter(|_| expired && !waited) else {
            return Ok(Some(refusal));
        };
        let connection = &candidate.stored.connection;
        let awaited = self.await_refresh(caller.organization_id, connection.id, false, ask.wait).await?;
        Ok(match awaited {
            Awaited::Changed => None,
            // A token that came a moment ago and is not good for longer is all that there is.
            Awaited::TooEarly => Some(refusal),
            Awaited::Failed(again) => {
                let wait = again.map(|again| Duration::try_from(again - self.now()).unwrap_or_default());
                Some(Refusal::NotRenewed(wait))
            }
            Awaited::Pending => Some(Refusal::NotRenewed(None)),
            Awaited::Quarantined => Some(Refusal::ClientRefused),
            Awaited::Frozen => Some(Refusal::Frozen),
            Awaited::NotRenewable => Some(refusal),
        })
    }

    /// Opens the credential, renders it, records the release, and only then lets go of it. Nothing if what was
    /// decided on no longer stands.
    ///
    /// Opened before it is recorded, so that a release is on record if and only if there was one to make.
    async fn release(
        &self,
        lane: &ReleaseLane,
        caller: &Caller<'_>,
        ask: &Ask,
        found: &Answer,
        chosen: Chosen<'_>,
    ) -> Result<Option<Released>, BrokerError> {
        let connection = &chosen.candidate.stored.connection;
        let unreadable = |source| BrokerError::CredentialUnreadable { connection_id: connection.id, source };
        let opened = found
            .sealed(chosen.candidate)
            .and_then(|sealed| {
                self.open(&chosen.candidate.stored, sealed, chosen.candidate.data_key.as_ref())
            })
            .and_then(|credential| render(&chosen, credential));
        let (credential, http) = opened.map_err(unreadable)?;
        let audit_event_id = self.audit_event_id();
        let grant = chosen.grant();
        let grant_id = grant.map(|grant| grant.id);
        let token_end = connection.tokens.as_ref().and_then(|tokens| tokens.expire_time);
        let release = Release {
            audit_event_id,
            organization_id: caller.organization_id.clone(),
            connection: (connection.id, connection.generation),
            version: chosen.candidate.version,
            grant_id,
            provider_id: connection.provider_id.clone(),
            provider_generation: match ask.target {
                Target::Connection(_) => None,
                Target::Provider { .. } => found.provider_generation,
            },
            before: [grant.and_then(|grant| grant.expire_time), token_end.map(|end| end - ask.min_ttl)]
                .into_iter()
                .flatten()
                .min(),
            workload: caller.workload.clone(),
            actor: ask.actor.clone(),
            purpose: ask.purpose.clone(),
        };
        let recorded = lane.release(release).await.map_err(|error| match error {
            error @ StoreError::WriteRefused(_) => BrokerError::AuditUnavailable(error),
            error => BrokerError::Store(error),
        })?;
        if !recorded {
            return Ok(None);
        }
        if let Some(id) = grant_id {
            self.0.uses.note(caller.organization_id, id);
        }
        Ok(Some(Released {
            connection_id: connection.id,
            grant_id,
            provider_id: connection.provider_id.clone(),
            account: connection.account.clone(),
            credential,
            http,
            scopes: chosen.permit.scopes,
            valid_until: token_end,
            generation: connection.generation,
            audit_event_id,
        }))
    }

    /// Opens the credential of a stored connection with the data key that sealed it.
    pub(crate) fn open(
        &self,
        stored: &StoredConnection,
        envelope: &Envelope,
        data_key: Option<&StoredDataKey>,
    ) -> Result<Credential, OpenError> {
        let connection = &stored.connection;
        let sealed = stored.sealed.as_ref().ok_or(OpenError::Malformed)?;
        let Some(data_key) = data_key else {
            return Err(OpenError::UnknownKey { key_id: envelope.key_id().to_owned() });
        };
        let row = connection.id.to_string();
        let place = Place {
            organization: &connection.organization_id,
            row: &row,
            field: CREDENTIAL,
            generation: sealed.generation,
        };
        self.opened(&connection.organization_id, data_key)?.open_credential(&place, envelope)
    }

    async fn record_refusal(
        &self,
        caller: &Caller<'_>,
        ask: &Ask,
        found: &Found,
        refusal: &Refusal,
    ) -> Result<(), BrokerError> {
        let connection = match found.candidates.as_slice() {
            [only] => Some(&only.stored.connection),
            _ => None,
        };
        let provider_id = match (&ask.target, connection) {
            (Target::Provider { provider_id, .. }, _) => Some(provider_id),
            (Target::Connection(_), Some(connection)) => Some(&connection.provider_id),
            (Target::Connection(_), None) => None,
        };
        self.record(caller, ask, connection, provider_id, refusal.reason()).await
    }

    async fn record(
        &self,
        caller: &Caller<'_>,
        ask: &Ask,
        connection: Option<&Connection>,
        provider_id: Option<&ProviderId>,
        reason: Reason,
    ) -> Result<(), BrokerError> {
        let event = NewAuditEvent {
            id: self.audit_event_id(),
            organization_id: caller.organization_id,
            kind: AuditKind::CredentialDenied,
            workload: caller.workload,
            actor: Some(&ask.actor),
            connection: connection.map(|connection| (connection.id, connection.generation)),
            grant_id: None,
            // What the caller calls a provider may be anything; only what is one goes on record.
            provider_id: provider_id
                .filter(|id| self.catalog().get(id).is_some())
                .or(connection.map(|connection| &connection.provider_id)),
            reason: reason.as_str(),
            purpose: ask.purpose.as_str(),
        };
        let _room = self.0.lookups.try_acquire().map_err(|_| StoreError::Busy)?;
        Ok(self.store().record(&event).await?)
    }
}
