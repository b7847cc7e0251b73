//! Tokens that are given back to their provider when a connection goes.

use std::sync::Arc;
use std::time::Duration;

use keyholder_catalog::Provider;
use keyholder_domain::{AuditKind, AuthMethod, Connection, Generation, RevocationRunId};
use keyholder_store::{
    Change, NewAuditEvent, NewRevocation, RevocationOutcome, StoredAuthorization, StoredConnection,
    StoredRevocation,
};
use keyholder_upstream::oauth::{Client, Revoked, TokenFault};
use keyholder_vault::{Credential, ExposeSecret as _, SecretString};

use super::finish::{ACCESS_TOKEN, REFRESH_TOKEN, caller_of};
use super::{Spot, server};
use crate::{Broker, BrokerError, Caller};

/// The owner's own client, to which tokens were issued: it is known nowhere else.
pub(crate) const OWN_CLIENT: [&str; 2] = ["client_id", "client_secret"];

/// How long one attempt has the tokens to itself, in seconds: longer than every deadline of egress, for two calls.
const LEASE: f64 = 60.0;

/// How often it is tried before it is given up: with the waits between, about two days.
const ATTEMPTS: i32 = 12;

/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(6 * 3_600);

impl Broker {
    /// Keeps the tokens of a connection that goes until its provider has taken them back. Inside the change that erases
    /// them from the connection, so that they are never in neither place.
    pub(crate) async fn give_back(
        &self,
        caller: &Caller<'_>,
        change: &mut Change,
        stored: &StoredConnection,
        generation: Generation,
        run: Option<RevocationRunId>,
    ) -> Result<(), BrokerError> {
        let Some(tokens) = &stored.connection.tokens else { return Ok(()) };
        let mut fields = std::collections::BTreeMap::new();
        // What does not open cannot be given back; it must not keep its owner from deleting it.
        if let Ok(credential) = self.open_stored(stored).await {
            fields.extend(credential.into_fields());
        }
        if let Ok(Some(renewal)) = self.open_renewal(stored).await {
            let own = stored.connection.auth_method == AuthMethod::OAuth2ClientCredentials;
            let kept: &[&str] = if own { &OWN_CLIENT } else { &[REFRESH_TOKEN] };
            fields.extend(
                kept.iter().filter_map(|name| Some(((*name).to_owned(), renewal.get(name)?.clone()))),
            );
        }
        if fields.is_empty() {
            return Ok(());
        }
        let key = self.sealing_key(caller.organization_id, change).await?;
        let connection = &stored.connection;
        let row = connection.id.to_string();
        let spot = revocation_spot(connection, &row, generation);
        let sealed = Self::seal_fields(&key, spot, &Credential::from_fields(fields));
        change
            .insert_revocation(&NewRevocation {
                connection_id: connection.id,
                generation,
                provider_id: &connection.provider_id,
                client_id: &tokens.client_id,
                config: &connection.config,
                sealed_tokens: &sealed,
                requested_by: caller.workload,
                run,
                create_time: self.now(),
            })
            .await?;
        Ok(())
    }

    /// Keeps the tokens of a flow that came to nothing until its provider has taken them back.
    pub(crate) async fn give_back_unused(
        &self,
        change: &mut Change,
        stored: &StoredAuthorization,
    ) -> Result<(), BrokerError> {
        if stored.sealed_answer.is_none() {
            return Ok(());
        }
        let authorization = &stored.authorization;
        let kept = self.open_answer(stored).await?;
        let provider = self.known_provider(&authorization.provider_id)?;
        let Ok(client) = self.client_of_flow(authorization, provider).await else { return Ok(()) };
        // Also where the answer is of no use to us: what it holds is alive all the same.
        let tokens = server(provider, &client, &authorization.config)?.tokens_in(&kept.answer);
        let named = [ACCESS_TOKEN, REFRESH_TOKEN].into_iter().zip(tokens);
        let fields: std::collections::BTreeMap<String, SecretString> =
            named.filter_map(|(name, token)| Some((name.to_owned(), token?))).collect();
        if fields.is_empty() {
            return Ok(());
        }
        let caller = caller_of(authorization);
        let key = self.sealing_key(caller.organization_id, change).await?;
        // No connection came of it: the tokens stand under the flow's own id.
        let id = keyholder_domain::ConnectionId::from_uuid(authorization.id.as_uuid());
        let row = id.to_string();
        let spot = Spot {
            organization_id: &authorization.organization_id,
            row: &row,
            field: "revocation",
            generation: Generation::FIRST,
        };
        let sealed = Self::seal_fields(&key, spot, &Credential::from_fields(fields));
        change
            .insert_revocation(&NewRevocation {
                connection_id: id,
                generation: Generation::FIRST,
                provider_id: &authorization.provider_id,
                client_id: &authorization.client_id,
                config: &authorization.config,
                sealed_tokens: &sealed,
                requested_by: &authorization.started_by,
                run: None,
                create_time: self.now(),
            })
            .await?;
        Ok(())
    }

    /// Gives one connection's tokens back, once, and keeps how it went.
    pub(crate) async fn revoke(&self, revocation: &StoredRevocation) -> Result<(), BrokerError> {
        match self.try_revoke(revocation).await {
            Ok(Revoked::Done) => self.end_revocation(revocation, RevocationOutcome::Revoked).await,
            Ok(Revoked::Unsupported) => self.end_revocation(revocation, RevocationOutcome::Unsupported).await,
            Err(Attempt::Ours(error)) => Err(error),
            Err(Attempt::Never) => self.end_revocation(revocation, RevocationOutcome::Failed).await,
            Err(Attempt::Provider(_)) if revocation.attempts >= ATTEMPTS => {
                self.end_revocation(revocation, RevocationOutcome::Failed).await
            }
            Err(Attempt::Provider(fault)) => {
                let wait = wait_of(revocation.attempts, fault);
                Ok(self.store().postpone_revocation(revocation, wait.as_secs_f64()).await?)
            }
        }
    }

    async fn try_revoke(&self, revocation: &StoredRevocation) -> Result<Revoked, Attempt> {
        let Ok(provider) = self.known_provider(&revocation.provider_id) else { return Err(Attempt::Never) };
        let row = revocation.connection_id.to_string();
        let spot = Spot {
            organization_id: &revocation.organization_id,
            row: &row,
            field: "revocation",
            generation: revocation.generation,
        };
        let tokens = self.open_fields(spot, &revocation.sealed_tokens).await.map_err(Attempt::Ours)?;
        let client = self.client_for_revocation(revocation, provider, &tokens).await?;
        let speaks = server(provider, &client, &revocation.config).map_err(Attempt::Ours)?;
        self.0.upstream.revoke(&speaks, &tokens, self.now()).await.map_err(|fault| match fault {
            TokenFault::Unrenderable(_) => Attempt::Never,
            TokenFault::NoAnswer(error) if !error.is_retryable() => Attempt::Never,
            fault => Attempt::Provider(fault),
        })
    }

    /// As whom tokens are given back: as the client that they were issued to.
    async fn client_for_revocation(
        &self,
        revocation: &StoredRevocation,
        provider: &Provider,
        tokens: &Credential,
    ) -> Result<Arc<Client>, Attempt> {
        let [id, secret] = OWN_CLIENT.map(|name| tokens.get(name));
        if id.is_some() || revocation.client_id.is_empty() {
            return Ok(Arc::new(Client {
                id: id.map_or_else(String::new, |id| id.expose_secret().to_owned()),
                secrets: secret.cloned().into_iter().collect(),
                key: None,
            }));
        }
        let client =
            self.client_of(&revocation.organization_id, provider, revocation.client_id.as_str()).await;
        client.map_err(|error| match error {
            BrokerError::OAuthClientMissing => Attempt::Never,
            error => Attempt::Ours(error),
        })
    }

    async fn end_revocation(
        &self,
        revocation: &StoredRevocation,
        outcome: RevocationOutcome,
    ) -> Result<(), BrokerError> {
        let mut change = self.store().change(&revocation.organization_id).await?;
        if !change.end_revocation(revocation, outcome).await? {
            return Ok(());
        }
        change
            .record(&NewAuditEvent {
                id: self.audit_event_id(),
                organization_id: &revocation.organization_id,
                kind: AuditKind::TokenRevoked,
                workload: &revocation.requested_by,
                actor: None,
                connection: Some((revocation.connection_id, revocation.generation)),
                grant_id: None,
                provider_id: Some(&revocation.provider_id),
                reason: outcome.as_str(),
                purpose: "",
            })
            .await?;
        Ok(change.commit().await?)
    }

    /// Takes what is due and gives it back. Returns how many there were.
    pub(crate) async fn revoke_due(&self) -> Result<usize, BrokerError> {
        let due = self.store().take_due_revocations(LEASE, 8).await?;
        let revoking = due.iter().map(|revocation| self.revoke(revocation));
        for outcome in futures::future::join_all(revoking).await {
            if let Err(error) = outcome {
                tracing::warn!(%error, "tokens could not be given back; trying again");
            }
        }
        Ok(due.len())
    }
}

enum Attempt {
    /// Another time.
    Provider(TokenFault),
    /// It makes no sense to try again.
    Never,
    /// Our own fault; the lease ends by itself.
    Ours(BrokerError),
}

/// Twice as long each time, or as long as the provider wants.
fn wait_of(attempts: i32, fault: TokenFault) -> Duration {
    let doublings = u32::try_from(attempts).unwrap_or(1).clamp(1, 16);
    let ours = Duration::from_secs(15).saturating_mul(1 << doublings).min(LONGEST_WAIT);
    match fault {
        TokenFault::Passing { retry_after: Some(theirs) } => ours.max(theirs),
        _ => ours,
    }
}

fn revocation_spot<'a>(connection: &'a Connection, row: &'a str, generation: Generation) -> Spot<'a> {
    Spot { organization_id: &connection.organization_id, row, field: "revocation", generation }
}
