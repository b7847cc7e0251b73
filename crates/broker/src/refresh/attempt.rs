//! One attempt: ask the provider, keep the answer.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fail::fail_point;
use futures::FutureExt as _;
use keyholder_catalog::Provider;
use keyholder_catalog::oauth2::{RefreshWith, Reuse};
use keyholder_domain::{AuthMethod, ConnectionState, Timestamp};
use keyholder_egress::EgressError;
use keyholder_store::{Attempt, KeptAnswer, LateAnswer, Only, Postponed, StoredConnection};
use keyholder_upstream::oauth::{Client, TokenAnswer, TokenFault, TokenRequest};
use keyholder_vault::{Credential, SecretString};

use super::plan::{self, Recovery, Unanswered};
use super::{CLIENT_MISSING, PROVIDER_UNKNOWN, repeats, spool};
use crate::oauth::{ACCESS_TOKEN, OWN_CLIENT, REFRESH_TOKEN, Spot, answer_fields, answer_of, server};
use crate::{Broker, BrokerError};

/// How long the database has to keep an answer before it goes into a file as well.
const PATIENCE: Duration = Duration::from_millis(200);

/// How often the database is tried while it is away.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// When a connection is taken up again for which nobody could be asked.
const ASK_LATER: Duration = Duration::from_secs(5);

/// How long a refused grant is not believed: time enough for others of the same client to be refused too.
pub(super) const HOLD: Duration = Duration::from_secs(10);

/// An attempt with everything that it needs.
pub(super) struct Work<'a> {
    pub(super) attempt: &'a Attempt,
    pub(super) stored: &'a StoredConnection,
    pub(super) provider: &'a Provider,
    pub(super) reuse: Reuse,
    /// When the attempt was claimed, by the clock that only goes forward.
    pub(super) since: Instant,
}

/// What came of asking a provider.
pub(super) enum Asked {
    /// An answer, which is kept if it holds tokens.
    Answered(TokenAnswer),
    /// Nobody was asked, or nobody heard it: nothing has changed at the provider.
    Unasked(TokenFault),
    /// It is not known what the provider did.
    Unknown(TokenFault),
}

impl Work<'_> {
    /// The present moment by the database's clock, as far as this process knows it.
    pub(super) fn now(&self) -> Timestamp {
        self.attempt.time + self.since.elapsed()
    }

    pub(super) fn unanswered(&self) -> Unanswered {
        Unanswered {
            first: self.attempt.ambiguous_time.unwrap_or(self.attempt.time),
            expire: self.attempt.deadline,
            repeatable: repeats(self.provider, self.stored.connection.auth_method),
        }
    }
}

impl Broker {
    /// Sees an attempt through, whatever comes of it. `false`: it is taken up again.
    pub(super) async fn see_through(&self, attempt: &Attempt, since: Instant) -> bool {
        let asked = AtomicBool::new(attempt.sealed_answer.is_some());
        let (connection_id, provider_id) = (attempt.connection_id, &attempt.client.provider_id);
        let error = match AssertUnwindSafe(self.work(attempt, since, &asked)).catch_unwind().await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => {
                tracing::warn!(
                    %error, %connection_id, %provider_id, "a refresh could not be seen through; it is taken up again"
                );
                "STORE_UNAVAILABLE"
            }
            Err(_) => {
                tracing::error!(%connection_id, %provider_id, "a refresh panicked; it is taken up again");
                "INTERNAL"
            }
        };
        if !asked.into_inner() {
            self.give_back_claim(attempt, since, error).await;
        }
        false
    }

    /// Leaves an attempt to processes that are configured for it: this one lacks the provider's definition, or the
    /// installation's OAuth client.
    async fn unfit(&self, attempt: &Attempt, since: Instant, error: &'static str) {
        if self.refresher().unfit.note(&attempt.client) {
            tracing::error!(
                provider_id = %attempt.client.provider_id, client_id = attempt.client.client_id.as_str(), reason = error,
                "this process is not configured for connections that are to be refreshed; it leaves them to others"
            );
        }
        // An answer that was kept stays with its attempt, for whoever can read it.
        if attempt.sealed_answer.is_none() {
            self.give_claim_back(attempt, since, error, Duration::ZERO, true).await;
        }
    }

    /// Gives a claim back that came to no question, so that nobody takes it for one whose answer was lost.
    pub(super) async fn give_back_claim(&self, attempt: &Attempt, since: Instant, error: &'static str) {
        self.give_claim_back(attempt, since, error, ASK_LATER, false).await;
    }

    pub(super) async fn give_claim_back(
        &self,
        attempt: &Attempt,
        since: Instant,
        error: &'static str,
        again: Duration,
        keeps_place: bool,
    ) {
        let lease = Duration::from_secs(u64::try_from(attempt.call_seconds).unwrap_or(1));
        while since.elapsed() < lease {
            let soon = attempt.time + since.elapsed() + again;
            let unasked = Postponed {
                due_time: Some(soon),
                earliest_time: soon,
                error,
                counts: false,
                answered: true,
                keeps_place,
                ambiguous_time: attempt.ambiguous_time,
                refused_time: attempt.refused_time,
            };
            match self.store().postpone_refresh(attempt, &unasked).await {
                Ok(_) => return,
                Err(_) => tokio::time::sleep(TRY_AGAIN).await,
            }
        }
    }

    async fn work(&self, attempt: &Attempt, since: Instant, asked: &AtomicBool) -> Result<(), BrokerError> {
        fail_point!("attempt-begun");
        let stored = self.store().connection(&attempt.organization_id, attempt.connection_id).await?;
        let provider = self.known_provider(&attempt.client.provider_id).ok();
        let recipe = provider.and_then(|provider| provider.oauth2.as_deref());
        let Some(stored) = stored.as_ref() else { return self.give_up_schedule(attempt).await };
        let (Some(provider), Some(recipe)) = (provider, recipe) else {
            self.unfit(attempt, since, PROVIDER_UNKNOWN).await;
            return Ok(());
        };
        if attempt.sealed_answer.is_some() {
            let work = Work { attempt, stored, provider, reuse: recipe.refresh.reuse, since };
            return self.conclude_kept(&work).await;
        }
        let usable = matches!(stored.connection.state, ConnectionState::Active | ConnectionState::Disabled);
        let same = stored.sealed.as_ref().is_some_and(|sealed| sealed.generation == attempt.generation);
        let work = Work { attempt, stored, provider, reuse: recipe.refresh.reuse, since };
        if !usable || !same {
            // What it was to refresh is gone; what there is now has a schedule of its own, or none.
            return self.give_up_schedule_of(&work, usable).await;
        }
        if let Some(refused) = attempt.refused_time {
            let held = refused + HOLD;
            if work.now() < held {
                return self.wait_until(&work, "GRANT_REFUSED", held).await;
            }
            return self.believe_or_doubt(&work).await;
        }
        if attempt.ambiguous_time.is_some() {
            match plan::recovery(work.reuse, work.unanswered(), work.now()) {
                Recovery::Lost => return self.lose(&work).await,
                // Whoever wants it sooner: to show the token now could end what still works.
                Recovery::At(moment) if moment > work.now() => {
                    return self.wait_until(&work, "NO_ANSWER", moment).await;
                }
                Recovery::At(_) => {}
            }
        }
        self.ask_and_conclude(&work, asked).await
    }

    /// An attempt whose process is gone: what it left behind is finished, or it is not known what the provider did.
    pub(super) async fn take_over(&self, attempt: &Attempt, since: Instant) {
        if attempt.sealed_answer.is_some() {
            self.see_through(attempt, since).await;
            return;
        }
        let outcome = async {
            let stored = self.store().connection(&attempt.organization_id, attempt.connection_id).await?;
            let provider = self.known_provider(&attempt.client.provider_id)?;
            let reuse = provider.oauth2.as_deref().map_or(Reuse::None, |recipe| recipe.refresh.reuse);
            let Some(stored) = stored else { return self.give_up_schedule(attempt).await };
            let work = Work { attempt, stored: &stored, provider, reuse, since };
            tracing::warn!(
                connection_id = %attempt.connection_id, provider_id = %provider.id,
                "a refresh was interrupted; it is not known what the provider did"
            );
            self.unknown_outcome(&work, "INTERRUPTED", false).await
        };
        if let Err(error) = outcome.await {
            tracing::warn!(%error, connection_id = %attempt.connection_id, "an interrupted refresh could not be looked after");
        }
    }

    async fn ask_and_conclude(&self, work: &Work<'_>, asked: &AtomicBool) -> Result<(), BrokerError> {
        let attempt = work.attempt;
        let client = match self.client_of_connection(work).await {
            Ok(client) => client,
            Err(BrokerError::OAuthClientMissing) if attempt.client.organization_id.is_none() => {
                self.unfit(attempt, work.since, CLIENT_MISSING).await;
                return Ok(());
            }
            Err(BrokerError::OAuthClientMissing) => return self.client_missing(work).await,
            // Without the key, an answer could not be kept: better not to ask.
            Err(error @ (BrokerError::SecretUnreadable(_) | BrokerError::DataKeyUnreadable(_))) => {
                return self.unreadable(work, &error).await;
            }
            Err(error) => return Err(error),
        };
        let (client, renewal) = client;
        let speaks = server(work.provider, &client, &work.stored.connection.config)?;
        // What the provider says of the life of a token may count from any moment from here on.
        let time = work.now();
        match self.ask(work, &client, &renewal, asked).await? {
            Asked::Answered(answer) => {
                fail_point!("attempt-answered");
                let kept = if speaks.tokens_in(&answer).iter().any(Option::is_some) {
                    let sealed = self.seal_refresh_answer(work, &answer, time).await?;
                    let kept = kept_of(attempt, &sealed);
                    if !self.keep_for_sure(&kept).await? {
                        return self.too_late(work, &client, &answer).await;
                    }
                    fail_point!("attempt-kept");
                    Some(sealed)
                } else {
                    None
                };
                self.conclude(work, &client, &answer, time, kept.as_deref()).await
            }
            Asked::Unasked(fault) => self.passes(work, &fault).await,
            Asked::Unknown(fault) => {
                tracing::warn!(
                    connection_id = %attempt.connection_id, provider_id = %work.provider.id, error = %fault,
                    "a provider was asked for tokens and did not answer"
                );
                self.client_failed(&attempt.client, None, attempt.failures).await?;
                self.unknown_outcome(work, "NO_ANSWER", false).await
            }
        }
    }

    /// The client that asks, and what it asks with.
    async fn client_of_connection(
        &self,
        work: &Work<'_>,
    ) -> Result<(std::sync::Arc<Client>, Credential), BrokerError> {
        let connection = &work.stored.connection;
        let renewal = self.open_renewal(work.stored).await?;
        let renewal = renewal.unwrap_or_else(|| Credential::from_fields(BTreeMap::new()));
        let [id, secret] = OWN_CLIENT.map(|name| renewal.get(name));
        let client = match connection.auth_method {
            AuthMethod::JwtBearer => Client { id: String::new(), secrets: Vec::new(), key: None },
            AuthMethod::OAuth2ClientCredentials if id.is_some() => Client {
                id: work.attempt.client.client_id.as_str().to_owned(),
                secrets: secret.cloned().into_iter().collect(),
                key: None,
            },
            _ => {
                let key = &work.attempt.client;
                let id = key.client_id.as_str();
                let installed = self.oauth().clients.get(&work.provider.id).filter(|client| client.id == id);
                let client = match (&key.organization_id, installed) {
                    (None, Some(client)) => client.clone(),
                    _ => self.client_of(&connection.organization_id, work.provider, id).await?,
                };
                return Ok((client, renewal));
            }
        };
        Ok((std::sync::Arc::new(client), renewal))
    }

    async fn ask(
        &self,
        work: &Work<'_>,
        client: &Client,
        renewal: &Credential,
        asked: &AtomicBool,
    ) -> Result<Asked, BrokerError> {
        let connection = &work.stored.connection;
        let scopes = &connection.tokens.as_ref().map(|tokens| tokens.asked.clone()).unwrap_or_default();
        let redirect_uri = self.redirect_uri(&work.provider.id).unwrap_or_default();
        let token = self.token_of(work, renewal).await?;
        let request = match connection.auth_method {
            AuthMethod::OAuth2ClientCredentials => TokenRequest::Client { scopes },
            AuthMethod::JwtBearer => TokenRequest::Assertion { fields: renewal, scopes },
            _ => TokenRequest::Refresh { token: &token, scopes, redirect_uri: &redirect_uri },
        };
        let speaks = server(work.provider, client, &connection.config)?;
        let deadline = Duration::from_secs(u64::try_from(work.attempt.call_seconds).unwrap_or(1));
        // A process that was stopped meanwhile has no time left: somebody else may be asking already.
        let deadline = deadline.checked_sub(work.since.elapsed()).ok_or(BrokerError::Contended)?;
        asked.store(true, Ordering::Relaxed);
        let asking = self.0.upstream.ask_for_tokens(&speaks, &request, self.now());
        let answer = tokio::time::timeout(deadline, asking).await;
        Ok(match answer.unwrap_or(Err(TokenFault::NoAnswer(EgressError::TimedOut))) {
            Ok(answer) => Asked::Answered(answer),
            Err(fault) if was_sent(&fault) => Asked::Unknown(fault),
            Err(fault) => Asked::Unasked(fault),
        })
    }

    /// The token that is shown. One that came in a late answer, or beside an error, is newer than the stored one.
    async fn token_of(&self, work: &Work<'_>, renewal: &Credential) -> Result<SecretString, BrokerError> {
        let recipe = work.provider.oauth2.as_deref();
        if recipe.is_some_and(|recipe| recipe.refresh.with == RefreshWith::AccessToken) {
            let credential = self.open_stored(work.stored).await?;
            return Ok(credential.get(ACCESS_TOKEN).cloned().unwrap_or_else(|| "".into()));
        }
        if work.attempt.failures > 0
            && let Some(late) = self.store().late_answer(only(work.attempt)).await?
            && late.generation == work.attempt.generation
            && let Some(newer) = self.refresh_token_in(work, &late).await?
        {
            return Ok(newer);
        }
        Ok(renewal.get(REFRESH_TOKEN).cloned().unwrap_or_else(|| "".into()))
    }

    async fn refresh_token_in(
        &self,
        work: &Work<'_>,
        late: &LateAnswer,
    ) -> Result<Option<SecretString>, BrokerError> {
        let Ok((answer, _)) = self.open_refresh_answer(work, &late.sealed_answer).await else {
            return Ok(None);
        };
        let nobody = Client { id: String::new(), secrets: Vec::new(), key: None };
        let [_, refresh] = server(work.provider, &nobody, &work.stored.connection.config)?.tokens_in(&answer);
        Ok(refresh)
    }

    // === Keeping ===

    async fn seal_refresh_answer(
        &self,
        work: &Work<'_>,
        answer: &TokenAnswer,
        time: Timestamp,
    ) -> Result<String, BrokerError> {
        let sealed = work.stored.sealed.as_ref().ok_or(BrokerError::Contended)?;
        let key = self.key_of(&work.attempt.organization_id, &sealed.credential).await?;
        let fields = answer_fields(answer, time, BTreeMap::new());
        let row = work.attempt.connection_id.to_string();
        Ok(Self::seal_fields(&key, answer_spot(work.attempt, &row), &Credential::from_fields(fields)))
    }

    pub(super) async fn open_refresh_answer(
        &self,
        work: &Work<'_>,
        sealed: &str,
    ) -> Result<(TokenAnswer, Option<Timestamp>), BrokerError> {
        let row = work.attempt.connection_id.to_string();
        let fields = self.open_fields(answer_spot(work.attempt, &row), sealed).await?;
        Ok(answer_of(&fields))
    }

    /// Makes an answer durable: in the database or, if that does not take it at once, in a file until it does. Returns
    /// whether its attempt still counts.
    async fn keep_for_sure(&self, kept: &KeptAnswer<'_>) -> Result<bool, BrokerError> {
        let mut keeping = Box::pin(self.keep_or_save(kept));
        if let Ok(Ok(current)) = tokio::time::timeout(PATIENCE, &mut keeping).await {
            return Ok(current);
        }
        let file = match self.spool_folder().map(|folder| spool::write(&folder, kept)).transpose() {
            Ok(file) => file,
            Err(error) => {
                tracing::error!(%error, connection_id = %kept.connection_id, "an answer cannot be spooled; it is in memory only");
                None
            }
        };
        // The file is safe; what is left is to wait for the database. The first try goes, and with it the connection that it
        // holds: with many of them, there would be none left for the next.
        drop(keeping);
        loop {
            match self.keep_or_save(kept).await {
                Ok(current) => {
                    if let Some(file) = &file {
                        std::fs::remove_file(file).ok();
                    }
                    return Ok(current);
                }
                Err(error) => {
                    tracing::warn!(%error, connection_id = %kept.connection_id, "an answer cannot be kept; trying again");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    }

    /// Keeps an answer with its attempt or, if that counts no more, apart.
    pub(super) async fn keep_or_save(&self, kept: &KeptAnswer<'_>) -> Result<bool, BrokerError> {
        if self.store().keep_refresh_answer(kept).await? {
            return Ok(true);
        }
        self.store().keep_late_answer(kept, false).await?;
        Ok(false)
    }
}

pub(super) fn only(attempt: &Attempt) -> Only<'_> {
    Only { organization_id: &attempt.organization_id, connection_id: attempt.connection_id }
}

pub(super) fn kept_of<'a>(attempt: &'a Attempt, sealed_answer: &'a str) -> KeptAnswer<'a> {
    KeptAnswer {
        organization_id: &attempt.organization_id,
        connection_id: attempt.connection_id,
        attempt_id: attempt.attempt_id,
        generation: attempt.generation,
        sealed_answer,
    }
}

fn answer_spot<'a>(attempt: &'a Attempt, row: &'a str) -> Spot<'a> {
    Spot { organization_id: &attempt.organization_id, row, field: "answer", generation: attempt.generation }
}

/// Whether a provider may have heard the question although there was no answer.
fn was_sent(fault: &TokenFault) -> bool {
    let TokenFault::NoAnswer(error) = fault else { return false };
    match error {
        EgressError::Refused(refusal) => *refusal == keyholder_egress::Refusal::Redirect,
        EgressError::Resolver(_)
        | EgressError::Unreachable
        | EgressError::ConnectTimedOut
        | EgressError::Tls(_)
        | EgressError::Busy
        | EgressError::Request => false,
        EgressError::FirstByteTimedOut
        | EgressError::TimedOut
        | EgressError::ConnectionLost
        | EgressError::NotHttp
        | EgressError::HeadersTooLarge
        | EgressError::BodyTooLarge
        | EgressError::Encoded => true,
    }
}
