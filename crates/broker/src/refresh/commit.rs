//! New tokens where they belong.

use std::time::Duration;

use keyholder_domain::{Account, AuditKind, ConnectionState, Timestamp, Tokens};
use keyholder_store::{Change, NewRevocation, StoreError, StoredConnection};
use keyholder_upstream::oauth::{Client, TokenAnswer, TokenSet};
use keyholder_vault::Credential;

use super::attempt::{Work, kept_of};
use super::{SELF, schedule_of};
use crate::connections::{seal, summary};
use crate::oauth::{ACCESS_TOKEN, REFRESH_TOKEN, Spot, account_of, renewal_of, renewal_spot, server};
use crate::{Broker, BrokerError};

/// How often a COMMIT whose outcome is not known is looked after.
const COMMIT_AGAIN: Duration = Duration::from_millis(300);

/// What committing new tokens came to.
enum Committed {
    Done,
    /// The attempt counts no more.
    Superseded,
}

impl Broker {
    /// Puts new tokens in the place of the old ones. `kept`: the answer is kept with the attempt, sealed like this.
    pub(super) async fn succeed(
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
                self.store().keep_late_answer(&kept_of(work.attempt, sealed), true).await?;
            }
            return self.end(work, "ACCOUNT_CHANGED").await;
        }
        let mut again = false;
        let committed = loop {
            match self.commit_tokens(work, &tokens, &told, time, again).await {
                Ok(committed) => break committed,
                Err(BrokerError::Store(error)) if passes(&error) => {
                    // It may have gone through, its answer lost. The attempt tells, once the database answers.
                    tracing::warn!(%error, connection_id = %work.attempt.connection_id, "new tokens could not be written; trying again");
                    again = true;
                    tokio::time::sleep(COMMIT_AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        };
        match committed {
            Committed::Done => {
                self.count(work, "REFRESHED");
                self.client_worked(work.attempt).await
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
        again: bool,
    ) -> Result<Committed, BrokerError> {
        let attempt = work.attempt;
        let mut change = self.store().change(&attempt.organization_id).await?;
        let Some(mut stored) = change.stored_connection(attempt.connection_id).await? else {
            return Ok(Committed::Superseded);
        };
        if stored.connection.state == ConnectionState::Deleted {
            return self.give_back_refreshed(change, work, &stored, tokens).await;
        }
        if again {
            let row = change.refresh(attempt.connection_id).await?;
            if row.is_some_and(|row| row.done_attempt_id == Some(attempt.attempt_id)) {
                return Ok(Committed::Done);
            }
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
}

/// Whether the database may take later what it did not take now.
const fn passes(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(_) | StoreError::TimedOut | StoreError::WriteRefused(_))
}
