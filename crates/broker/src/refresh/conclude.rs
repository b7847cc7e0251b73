//! What comes of an attempt.

use std::time::Duration;

use keyholder_catalog::oauth2::Reuse;
use keyholder_domain::{AuditKind, Timestamp};
use keyholder_store::{Attempt, Change, NewAuditEvent, Postponed, StoredConnection};
use keyholder_upstream::oauth::{Client, TokenAnswer, TokenFault};

use super::attempt::{Work, kept_of};
use super::plan::{self, Recovery};
use super::{CLIENT_MISSING, RATE_LIMITED, SELF, chance};
use crate::oauth::server;
use crate::{Broker, BrokerError};

/// How long a connection is left alone that needs an operator.
const OPERATOR: Duration = Duration::from_secs(600);

/// After a failure, whoever waits may ask again after this.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// The longest wait for the next try where the old token is only good for a while.
const IN_A_WINDOW: Duration = Duration::from_secs(2);

impl Broker {
    /// Makes of an answer what can be made of it. `kept`: it is kept with the attempt, sealed like this.
    pub(super) async fn conclude(
        &self,
        work: &Work<'_>,
        client: &Client,
        answer: &TokenAnswer,
        time: Timestamp,
        kept: Option<&str>,
    ) -> Result<(), BrokerError> {
        let speaks = server(work.provider, client, &work.stored.connection.config)?;
        let fault = match speaks.read(answer, None, time) {
            Ok(tokens) => {
                self.client_was_served(&work.attempt.client);
                return self.succeed(work, tokens, time, kept).await;
            }
            Err(fault) => fault,
        };
        if let Some(sealed) = kept {
            // The error counts; the tokens beside it may be the only ones that are good.
            self.store().keep_late_answer(&kept_of(work.attempt, sealed), true).await?;
        }
        let attempt = work.attempt;
        match fault {
            TokenFault::Dead | TokenFault::Expired => self.refused(work).await,
            TokenFault::Client if self.is_owners_client(work) => self.end(work, "CREDENTIALS_REFUSED").await,
            TokenFault::Client => {
                self.client_refused(&attempt.client).await?;
                let again = work.now() + Duration::from_secs(30);
                self.postpone(work, "CLIENT_REFUSED", Some(again), kept.is_some()).await
            }
            TokenFault::Unusable(_) if (200..300).contains(&answer.status) => {
                // It says that it went well: the old token may be gone.
                self.client_failed(&attempt.client, None, attempt.failures).await?;
                self.unknown_outcome(work, "ANSWER_UNUSABLE", true).await
            }
            TokenFault::Passing { retry_after }
                if answer.status == 429 || answer.status == 503 && retry_after.is_some() =>
            {
                self.client_limited(attempt, retry_after).await?;
                // Not its fault: its turn comes again as soon as the client's does.
                self.postpone(work, RATE_LIMITED, Some(work.now()), kept.is_some()).await
            }
            fault => self.passes(work, &fault).await,
        }
    }

    /// Makes of an answer that somebody else kept what can be made of it.
    pub(super) async fn conclude_kept(&self, work: &Work<'_>) -> Result<(), BrokerError> {
        let Some(sealed) = work.attempt.sealed_answer.as_deref() else { return Ok(()) };
        let (answer, time) = match self.open_refresh_answer(work, sealed).await {
            Ok(opened) => opened,
            Err(error @ BrokerError::SecretUnreadable(_)) => {
                // As good as none.
                tracing::error!(%error, connection_id = %work.attempt.connection_id, "a kept answer cannot be opened");
                self.store().forget_refresh_answer(work.attempt).await?;
                return self.unknown_outcome(work, "ANSWER_UNREADABLE", true).await;
            }
            Err(error) => return Err(error),
        };
        // The client that asked: an ID token in the answer is for it.
        let id = work.attempt.client.client_id.as_str().to_owned();
        let client = Client { id, secrets: Vec::new(), key: None };
        // Without its moment, it came when the attempt began: no token must be believed to live longer than it does.
        self.conclude(work, &client, &answer, time.unwrap_or(work.attempt.time), Some(sealed)).await
    }

    // === It passes ===

    /// A fault that passes: the connection is tried again, and its state stays.
    pub(super) async fn passes(&self, work: &Work<'_>, fault: &TokenFault) -> Result<(), BrokerError> {
        let attempt = work.attempt;
        let error = match fault {
            TokenFault::Passing { .. } | TokenFault::NoAnswer(_) => "PROVIDER_UNAVAILABLE",
            TokenFault::Unusable(_) => "ANSWER_UNUSABLE",
            TokenFault::Request | TokenFault::Denied => "REQUEST_REFUSED",
            TokenFault::Config => "CONFIG_REFUSED",
            TokenFault::Unrenderable(_) => "REQUEST_IMPOSSIBLE",
            TokenFault::Dead
            | TokenFault::Expired
            | TokenFault::Client
            | TokenFault::Pending
            | TokenFault::SlowDown => "PROVIDER_UNAVAILABLE",
        };
        tracing::info!(
            connection_id = %attempt.connection_id, provider_id = %work.provider.id, reason = error, error = %fault,
            "a refresh did not go through; it is tried again"
        );
        let retry_after = match fault {
            TokenFault::Passing { retry_after } => *retry_after,
            _ => None,
        };
        if matches!(fault, TokenFault::Passing { .. } | TokenFault::NoAnswer(_)) {
            self.client_failed(&attempt.client, retry_after, attempt.failures).await?;
        }
        let wait = plan::backoff(attempt.failures, chance()).max(retry_after.unwrap_or_default());
        self.postpone(work, error, Some(work.now() + wait), true).await
    }

    /// It is not known whether the provider has replaced the tokens. `answered`: there was an answer, and it tells nothing.
    pub(super) async fn unknown_outcome(
        &self,
        work: &Work<'_>,
        error: &'static str,
        answered: bool,
    ) -> Result<(), BrokerError> {
        let now = work.now();
        let lost = work.unanswered();
        let again = match plan::recovery(work.reuse, lost, now) {
            Recovery::At(moment) if moment <= now => {
                let wait = plan::backoff(work.attempt.failures, chance());
                // A window may close.
                now + if matches!(work.reuse, Reuse::Window(_)) { wait.min(IN_A_WINDOW) } else { wait }
            }
            Recovery::At(moment) => moment,
            // It is over, but for the time that the access token has left.
            Recovery::Lost => lost.expire.unwrap_or(now).max(now),
        };
        self.count(work, "AMBIGUOUS");
        let ended = self
            .store()
            .postpone_refresh(
                work.attempt,
                &Postponed {
                    due_time: Some(again),
                    earliest_time: again,
                    error,
                    counts: true,
                    answered,
                    keeps_place: false,
                    ambiguous_time: Some(lost.first),
                    refused_time: None,
                },
            )
            .await?;
        if ended {
            tracing::warn!(
                connection_id = %work.attempt.connection_id, provider_id = %work.provider.id, reason = error,
                "it is not known whether the provider has replaced the tokens"
            );
        }
        Ok(())
    }

    /// Leaves a connection as it is until a moment before which nobody may be asked.
    pub(super) async fn wait_until(
        &self,
        work: &Work<'_>,
        error: &'static str,
        moment: Timestamp,
    ) -> Result<(), BrokerError> {
        let waiting = Postponed {
            due_time: Some(moment),
            earliest_time: moment,
            error,
            counts: false,
            answered: true,
            keeps_place: false,
            ambiguous_time: work.attempt.ambiguous_time,
            refused_time: work.attempt.refused_time,
        };
        self.store().postpone_refresh(work.attempt, &waiting).await?;
        Ok(())
    }

    pub(super) async fn postpone(
        &self,
        work: &Work<'_>,
        error: &'static str,
        due: Option<Timestamp>,
        counts: bool,
    ) -> Result<(), BrokerError> {
        self.count(work, error);
        let now = work.now();
        let earliest_time = due.unwrap_or(now).min(now + ASK_AGAIN);
        // Not known to be replaced is not known to be good: what was in doubt stays in doubt.
        let in_doubt = work.attempt.ambiguous_time;
        let (due_time, earliest_time) = match in_doubt {
            Some(_) => match plan::recovery(work.reuse, work.unanswered(), now) {
                Recovery::At(moment) => (due.map(|due| due.max(moment)), earliest_time.max(moment)),
                Recovery::Lost => {
                    let end = work.attempt.deadline.unwrap_or(now).max(now);
                    (Some(end), end)
                }
            },
            None => (due, earliest_time),
        };
        self.store()
            .postpone_refresh(
                work.attempt,
                &Postponed {
                    due_time,
                    earliest_time,
                    error,
                    counts,
                    answered: true,
                    keeps_place: error == RATE_LIMITED,
                    ambiguous_time: in_doubt,
                    refused_time: None,
                },
            )
            .await?;
        Ok(())
    }

    // === The client is broken ===

    /// Whether the client is the owner's own, typed in: then nobody else can mend it.
    fn is_owners_client(&self, work: &Work<'_>) -> bool {
        use keyholder_domain::AuthMethod;
        let connection = &work.stored.connection;
        let configured = self.oauth().clients.get(&work.provider.id);
        match connection.auth_method {
            AuthMethod::JwtBearer => true,
            AuthMethod::OAuth2ClientCredentials => {
                let method = work.provider.method(connection.auth_method);
                method.is_some_and(|method| !method.fields.is_empty())
                    && configured.is_none_or(|client| client.id != work.attempt.client.client_id.as_str())
            }
            _ => false,
        }
    }

    pub(super) async fn client_missing(&self, work: &Work<'_>) -> Result<(), BrokerError> {
        tracing::error!(
            connection_id = %work.attempt.connection_id, provider_id = %work.provider.id,
            client_id = work.attempt.client.client_id.as_str(),
            "the OAuth client that the tokens were issued to is not configured any more"
        );
        self.client_refused(&work.attempt.client).await?;
        self.postpone(work, CLIENT_MISSING, Some(work.now() + Duration::from_secs(30)), false).await
    }

    pub(super) async fn unreadable(&self, work: &Work<'_>, error: &BrokerError) -> Result<(), BrokerError> {
        tracing::error!(%error, connection_id = %work.attempt.connection_id, "what a refresh needs cannot be opened; nobody was asked");
        self.postpone(work, "CREDENTIAL_UNREADABLE", Some(work.now() + OPERATOR), true).await
    }

    // === There is nothing to refresh ===

    pub(super) async fn give_up_schedule(&self, attempt: &Attempt) -> Result<(), BrokerError> {
        let mut change = self.store().change(&attempt.organization_id).await?;
        change.unschedule_refresh(attempt.connection_id).await?;
        Ok(change.commit().await?)
    }

    pub(super) async fn give_up_schedule_of(&self, work: &Work<'_>, usable: bool) -> Result<(), BrokerError> {
        if !usable {
            return self.give_up_schedule(work.attempt).await;
        }
        let mut change = self.store().change(&work.attempt.organization_id).await?;
        self.schedule(&mut change, &work.stored.connection, work.provider).await?;
        Ok(change.commit().await?)
    }

    pub(super) fn count(&self, work: &Work<'_>, outcome: &'static str) {
        self.refresher().counts.add(&work.provider.id, outcome);
    }

    pub(super) async fn record_refresh(
        &self,
        change: &mut Change,
        kind: AuditKind,
        stored: &StoredConnection,
        reason: &'static str,
    ) -> Result<(), BrokerError> {
        let connection = &stored.connection;
        let event = NewAuditEvent {
            id: self.audit_event_id(),
            organization_id: &connection.organization_id,
            kind,
            workload: &SELF,
            actor: None,
            connection: Some((connection.id, connection.generation)),
            grant_id: None,
            provider_id: Some(&connection.provider_id),
            reason,
            purpose: "",
        };
        Ok(change.record(&event).await?)
    }
}
