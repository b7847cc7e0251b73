//! What comes of an attempt.

use std::time::Duration;

use keyholder_catalog::oauth2::Reuse;
use keyholder_domain::{Account, AuditKind, ConnectionState, Text, Timestamp, Tokens};
use keyholder_store::{Attempt, Change, NewAuditEvent, NewRevocation, Postponed, StoredConnection};
use keyholder_upstream::oauth::{Client, TokenAnswer, TokenFault, TokenSet};
use keyholder_vault::Credential;

use super::attempt::{HOLD, Work, kept_of};
use super::plan::{self, Recovery};
use super::{SELF, chance, schedule_of};
use crate::connections::{seal, summary};
use crate::oauth::{ACCESS_TOKEN, REFRESH_TOKEN, Spot, account_of, renewal_of, renewal_spot, server};
use crate::{Broker, BrokerError};

/// How long a connection is left alone that needs an operator.
const OPERATOR: Duration = Duration::from_secs(600);

/// After a failure, whoever waits may ask again after this.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// The longest wait for the next try where the old token is only good for a while.
const IN_A_WINDOW: Duration = Duration::from_secs(2);

/// How often a COMMIT whose outcome is not known is looked after.
const COMMIT_AGAIN: Duration = Duration::from_millis(300);

/// What committing new tokens came to.
enum Committed {
    Done,
    /// The attempt counts no more.
    Superseded,
}

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
            Ok(tokens) => return self.succeed(work, tokens, time, kept).await,
            Err(fault) => fault,
        };
        if let Some(sealed) = kept {
            // The error counts; the tokens beside it may be the only ones that are good.
            self.store().keep_late_answer(&kept_of(work.attempt, sealed)).await?;
        }
        let attempt = work.attempt;
        match fault {
            TokenFault::Dead | TokenFault::Expired => self.refused(work).await,
            TokenFault::Client if self.is_owners_client(work) => self.end(work, "CREDENTIALS_REFUSED").await,
            TokenFault::Client => {
                self.client_refused(&attempt.client).await?;
                let again = work.now() + Duration::from_secs(30);
                self.postpone(work, "CLIENT_REFUSED", Some(again), false).await
            }
            TokenFault::Unusable(_) if (200..300).contains(&answer.status) => {
                // It says that it went well: the old token may be gone.
                self.client_failed(&attempt.client, None, attempt.failures).await?;
                self.unknown_outcome(work, "ANSWER_UNUSABLE").await
            }
            TokenFault::Passing { retry_after }
                if answer.status == 429 || answer.status == 503 && retry_after.is_some() =>
            {
                self.client_limited(&attempt.client, retry_after).await?;
                // Not its fault: its turn comes again as soon as the client's does.
                self.postpone(work, "RATE_LIMITED", Some(work.now()), false).await
            }
            fault => self.passes(work, &fault).await,
        }
    }

    /// Makes of an answer that somebody else kept what can be made of it.
    pub(super) async fn conclude_kept(&self, work: &Work<'_>) -> Result<(), BrokerError> {
        let Some(sealed) = work.attempt.sealed_answer.as_deref() else { return Ok(()) };
        let (answer, time) = self.open_refresh_answer(work, sealed).await?;
        let nobody = Client { id: String::new(), secrets: Vec::new(), key: None };
        // Without its moment, it came when the attempt began: no token must be believed to live longer than it does.
        self.conclude(work, &nobody, &answer, time.unwrap_or(work.attempt.time), Some(sealed)).await
    }

    // === It went well ===

    async fn succeed(
        &self,
        work: &Work<'_>,
        tokens: TokenSet,
        time: Timestamp,
        kept: Option<&str>,
    ) -> Result<(), BrokerError> {
        let told = tokens.account.clone().map(account_of).unwrap_or_default();
        let known = &work.stored.connection.account;
        if !known.id.is_empty() && !told.id.is_empty() && known.id != told.id {
            tracing::error!(
                connection_id = %work.attempt.connection_id, provider_id = %work.provider.id,
                "the provider answered a refresh with the tokens of another account; they are kept apart and not used"
            );
            if let Some(sealed) = kept {
                self.store().keep_late_answer(&kept_of(work.attempt, sealed)).await?;
            }
            return self.end(work, "ACCOUNT_CHANGED").await;
        }
        let committed = loop {
            match self.commit_tokens(work, &tokens, &told, time).await {
                Ok(committed) => break committed,
                Err(BrokerError::Store(error)) => {
                    // It may have gone through, its answer lost. The attempt tells, once the database answers.
                    tracing::warn!(%error, connection_id = %work.attempt.connection_id, "new tokens could not be written; trying again");
                    tokio::time::sleep(COMMIT_AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        };
        match committed {
            Committed::Done => {
                self.count(work, "REFRESHED");
                self.client_worked(&work.attempt.client).await
            }
            Committed::Superseded => {
                self.count(work, "SUPERSEDED");
                Ok(())
            }
        }
    }

    async fn commit_tokens(
        &self,
        work: &Work<'_>,
        tokens: &TokenSet,
        told: &Account,
        time: Timestamp,
    ) -> Result<Committed, BrokerError> {
        let attempt = work.attempt;
        let mut change = self.store().change(&attempt.organization_id).await?;
        let Some(mut stored) = change.stored_connection(attempt.connection_id).await? else {
            return Ok(Committed::Superseded);
        };
        if stored.connection.state == ConnectionState::Deleted {
            return self.give_back_refreshed(change, work, &stored, tokens).await;
        }
        let row = change.refresh(attempt.connection_id).await?;
        if row.is_some_and(|row| row.done_attempt_id == Some(attempt.attempt_id)) {
            return Ok(Committed::Done);
        }
        let same = stored.sealed.as_ref().is_some_and(|sealed| sealed.generation == attempt.generation);
        if !same {
            // The owner has consented anew meanwhile: those tokens are newer.
            return Ok(Committed::Superseded);
        }
        let refresh_token = match &tokens.refresh_token {
            Some(token) => Some(token.clone()),
            None => self.open_renewal(&stored).await?.and_then(|old| old.get(REFRESH_TOKEN).cloned()),
        };
        let renewal = match self.open_renewal(&stored).await? {
            // What the owner typed in is what gets the next one, too.
            Some(given) if super::repeats(work.provider, stored.connection.auth_method) => Some(given),
            _ => renewal_of(work.provider, refresh_token),
        };
        let key = self.sealing_key(&attempt.organization_id, &mut change).await?;
        let credential =
            Credential::from_fields([(ACCESS_TOKEN.to_owned(), tokens.access_token.clone())].into());
        let connection = &mut stored.connection;
        self.grow(connection);
        connection.config.extend(tokens.config.clone());
        if let Some(scopes) = &tokens.scopes {
            connection.scopes = scopes.clone();
        }
        if connection.account.id.is_empty() {
            connection.account = told.clone();
        }
        connection.credential_summary = summary(&credential);
        let known = connection.tokens.clone().unwrap_or_default();
        let idle = work.provider.oauth2.as_deref().and_then(|recipe| recipe.refresh.idle);
        let idle = idle.and_then(|idle| time.checked_add(idle.try_into().ok()?));
        connection.tokens = Some(Tokens {
            expire_time: tokens.expire_time,
            renewable: renewal.is_some(),
            idle_expire_time: tokens.refresh_expire_time.or(idle).filter(|_| renewal.is_some()),
            ..known
        });
        let old_fingerprint = stored.sealed.as_ref().map(|sealed| sealed.fingerprint.clone());
        let mut sealed = seal(&key, &stored.connection, &credential);
        if let Some(fingerprint) = old_fingerprint {
            // What tells accounts apart is what was connected, and not what came of it.
            sealed.fingerprint = fingerprint;
        }
        let connection_row = stored.connection.id.to_string();
        sealed.renewal = renewal.map(|renewal| {
            let spot = renewal_spot(&stored.connection, &connection_row, stored.connection.generation);
            Self::seal_fields(&key, spot, &renewal)
        });
        stored.sealed = Some(sealed);
        change.update_connection(&stored).await?;
        let schedule = schedule_of(&stored.connection, work.provider, attempt.client.clone(), time);
        if !change.finish_refresh(attempt, &schedule).await? {
            return Ok(Committed::Superseded);
        }
        if attempt.failures > 0 || attempt.ambiguous_time.is_some() {
            change.forget_late_answers(attempt.connection_id).await?;
        }
        self.record_refresh(&mut change, AuditKind::ConnectionRefreshed, &stored, "").await?;
        change.commit().await?;
        Ok(Committed::Done)
    }

    /// What comes of an answer whose attempt counts no more: it is kept apart. If the connection was deleted meanwhile,
    /// nobody will need it, and the tokens in it go back.
    pub(super) async fn too_late(
        &self,
        work: &Work<'_>,
        client: &Client,
        answer: &TokenAnswer,
    ) -> Result<(), BrokerError> {
        self.count(work, "SUPERSEDED");
        let mut change = self.store().change(&work.attempt.organization_id).await?;
        let stored = change.stored_connection(work.attempt.connection_id).await?;
        let deleted = stored.filter(|stored| stored.connection.state == ConnectionState::Deleted);
        let speaks = server(work.provider, client, &work.stored.connection.config)?;
        match (deleted, speaks.read(answer, None, work.now())) {
            (Some(stored), Ok(tokens)) => {
                change.forget_late_answers(work.attempt.connection_id).await?;
                self.give_back_refreshed(change, work, &stored, &tokens).await.map(drop)
            }
            _ => {
                tracing::warn!(
                    connection_id = %work.attempt.connection_id, provider_id = %work.provider.id,
                    "an answer came when its attempt counted no more; it is kept in case it is needed"
                );
                Ok(())
            }
        }
    }

    /// The connection was deleted while its tokens were on their way: the new ones go back, too.
    async fn give_back_refreshed(
        &self,
        mut change: Change,
        work: &Work<'_>,
        stored: &StoredConnection,
        tokens: &TokenSet,
    ) -> Result<Committed, BrokerError> {
        let connection = &stored.connection;
        let fields =
            [(ACCESS_TOKEN, Some(&tokens.access_token)), (REFRESH_TOKEN, tokens.refresh_token.as_ref())];
        let fields = fields.into_iter().filter_map(|(name, token)| Some((name.to_owned(), token?.clone())));
        let key = self.sealing_key(&connection.organization_id, &mut change).await?;
        let row = connection.id.to_string();
        let generation = connection.generation.next();
        let spot =
            Spot { organization_id: &connection.organization_id, row: &row, field: "revocation", generation };
        let sealed = Self::seal_fields(&key, spot, &Credential::from_fields(fields.collect()));
        change
            .insert_revocation(&NewRevocation {
                connection_id: connection.id,
                generation,
                provider_id: &work.provider.id,
                client_id: &work.attempt.client.client_id,
                config: &work.stored.connection.config,
                sealed_tokens: &sealed,
                requested_by: &SELF,
                run: None,
                create_time: self.now(),
            })
            .await?;
        change.commit().await?;
        Ok(Committed::Superseded)
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

    /// It is not known whether the provider has replaced the tokens.
    pub(super) async fn unknown_outcome(
        &self,
        work: &Work<'_>,
        error: &'static str,
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
                    answered: false,
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

    async fn postpone(
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
        self.postpone(work, "CLIENT_MISSING", Some(work.now() + Duration::from_secs(30)), false).await
    }

    pub(super) async fn unreadable(&self, work: &Work<'_>, error: &BrokerError) -> Result<(), BrokerError> {
        tracing::error!(%error, connection_id = %work.attempt.connection_id, "what a refresh needs cannot be opened; nobody was asked");
        self.postpone(work, "CREDENTIAL_UNREADABLE", Some(work.now() + OPERATOR), true).await
    }

    // === The grant is dead ===

    /// The provider says that the grant is gone. Before that is believed, it is looked at what else the client hears,
    /// and whether somebody else has newer tokens.
    async fn refused(&self, work: &Work<'_>) -> Result<(), BrokerError> {
        let attempt = work.attempt;
        let late = self.store().late_answer(super::attempt::only(attempt)).await?;
        if attempt.failures == 0 && late.is_some_and(|late| late.generation == attempt.generation) {
            // Tokens came late that are newer than the ones that were refused.
            return self.postpone(work, "GRANT_REFUSED", Some(work.now()), true).await;
        }
        let doubted = self.grant_refused(&attempt.client).await?;
        let now = work.now();
        let hold = now + HOLD;
        self.count(work, "GRANT_REFUSED");
        self.store()
            .postpone_refresh(
                attempt,
                &Postponed {
                    due_time: (!doubted).then_some(hold),
                    earliest_time: hold,
                    error: "GRANT_REFUSED",
                    counts: true,
                    answered: true,
                    ambiguous_time: attempt.ambiguous_time,
                    refused_time: Some(now),
                },
            )
            .await?;
        Ok(())
    }

    /// A refused grant whose time of doubt is over.
    pub(super) async fn believe_or_doubt(&self, work: &Work<'_>) -> Result<(), BrokerError> {
        if !self.doubts_refusals(&work.attempt.client).await? {
            let lost = work.attempt.ambiguous_time.is_some();
            return self.end(work, if lost { "LOST_ROTATION" } else { "REVOKED" }).await;
        }
        self.store()
            .postpone_refresh(
                work.attempt,
                &Postponed {
                    due_time: None,
                    earliest_time: work.now() + HOLD,
                    error: "GRANT_REFUSED",
                    counts: false,
                    answered: true,
                    ambiguous_time: work.attempt.ambiguous_time,
                    refused_time: work.attempt.refused_time,
                },
            )
            .await?;
        Ok(())
    }

    /// The refresh token may not be shown any more, and the new one never came.
    pub(super) async fn lose(&self, work: &Work<'_>) -> Result<(), BrokerError> {
        let over = work.attempt.deadline.is_none_or(|end| end <= work.now());
        if over {
            return self.end(work, "LOST_ROTATION").await;
        }
        self.postpone(work, "LOST_ROTATION", work.attempt.deadline, false).await
    }

    /// Ends a connection until its owner connects it again.
    async fn end(&self, work: &Work<'_>, reason: &'static str) -> Result<(), BrokerError> {
        let attempt = work.attempt;
        let mut change = self.store().change(&attempt.organization_id).await?;
        let Some(mut stored) = change.stored_connection(attempt.connection_id).await? else { return Ok(()) };
        let row = change.refresh(attempt.connection_id).await?;
        let same = stored.sealed.as_ref().is_some_and(|sealed| sealed.generation == attempt.generation);
        let mine = row.is_some_and(|row| row.fence == attempt.fence);
        if !same || !mine {
            // Whoever has newer tokens is right.
            return Ok(());
        }
        if !matches!(stored.connection.state, ConnectionState::Active | ConnectionState::Disabled) {
            return Ok(());
        }
        stored.connection.state = ConnectionState::ReauthorizationRequired;
        stored.connection.state_reason = Text::parse(reason).unwrap_or_default();
        self.grow(&mut stored.connection);
        change.update_connection(&stored).await?;
        if reason == "ACCOUNT_CHANGED" {
            change.end_schedule(attempt.connection_id).await?;
        } else {
            change.unschedule_refresh(attempt.connection_id).await?;
        }
        self.record_refresh(&mut change, AuditKind::ReauthorizationRequired, &stored, reason).await?;
        change.commit().await?;
        self.count(work, reason);
        tracing::warn!(
            connection_id = %attempt.connection_id, provider_id = %work.provider.id, reason,
            "a connection needs its owner: it must be authorized anew"
        );
        Ok(())
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

    fn count(&self, work: &Work<'_>, outcome: &'static str) {
        self.refresher().counts.add(&work.provider.id, outcome);
    }

    async fn record_refresh(
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
