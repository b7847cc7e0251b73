//! A provider's answer, kept sealed before anything is made of it.

use std::collections::BTreeMap;
use std::time::Duration;

use keyholder_domain::{Authorization, Timestamp};
use keyholder_store::StoredAuthorization;
use keyholder_upstream::oauth::TokenAnswer;
use keyholder_vault::{Credential, ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::Spot;
use super::authorize::flow_spot;
use crate::{Broker, BrokerError};

/// What the fields of a kept answer begin with that are settings from the redirect.
const LEARNED: &str = "config.";

/// How long an answer is tried to be kept while the database is away.
const KEEP_TRYING: Duration = Duration::from_secs(40);

/// A provider's answer that was kept before anything was made of it.
pub(crate) struct KeptAnswer {
    pub(crate) answer: TokenAnswer,
    /// Settings from the redirect.
    pub(crate) learned: BTreeMap<String, String>,
    /// When it came: lifetimes count from here, however much later they are read.
    pub(crate) time: Timestamp,
}

impl Broker {
    pub(super) async fn flow_secrets(&self, stored: &StoredAuthorization) -> Result<Credential, BrokerError> {
        let sealed = stored.sealed_flow.as_deref().ok_or(BrokerError::AuthorizationNotReady)?;
        let row = stored.authorization.id.to_string();
        self.open_fields(flow_spot(&stored.authorization, &row), sealed).await
    }

    pub(super) async fn seal_answer(
        &self,
        stored: &StoredAuthorization,
        answer: &TokenAnswer,
        learned: BTreeMap<String, String>,
    ) -> Result<String, BrokerError> {
        let authorization = &stored.authorization;
        let sealed_flow = stored.sealed_flow.as_deref().ok_or(BrokerError::AuthorizationNotReady)?;
        let key = self.key_of(&authorization.organization_id, sealed_flow).await?;
        let fields = answer_fields(answer, self.now(), learned);
        let row = authorization.id.to_string();
        Ok(Self::seal_fields(&key, answer_spot(authorization, &row), &Credential::from_fields(fields)))
    }

    /// Keeps an answer, and goes on trying while the database is away: it cannot be had a second time.
    pub(super) async fn keep_answer(
        &self,
        authorization: &Authorization,
        sealed: &str,
    ) -> Result<(), BrokerError> {
        let kept = async {
            loop {
                match self.store().keep_answer(authorization, sealed).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => return Err(BrokerError::Contended),
                    Err(error) => {
                        tracing::warn!(%error, authorization_id = %authorization.id, "an answer cannot be kept; trying again");
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                }
            }
        };
        tokio::time::timeout(KEEP_TRYING, kept).await.unwrap_or(Err(BrokerError::Contended))
    }

    /// A kept answer.
    pub(crate) async fn open_answer(&self, stored: &StoredAuthorization) -> Result<KeptAnswer, BrokerError> {
        let authorization = &stored.authorization;
        let sealed = stored.sealed_answer.as_deref().ok_or(BrokerError::AuthorizationNotReady)?;
        let row = authorization.id.to_string();
        let fields = self.open_fields(answer_spot(authorization, &row), sealed).await?;
        let (answer, time) = answer_of(&fields);
        let learned = fields.names().filter_map(|name| {
            let value = fields.get(name)?.expose_secret().to_owned();
            Some((name.strip_prefix(LEARNED)?.to_owned(), value))
        });
        // Without its moment, it came when the flow began: a token must not be believed to live longer than it does.
        Ok(KeptAnswer { answer, time: time.unwrap_or(authorization.create_time), learned: learned.collect() })
    }
}

fn answer_spot<'a>(authorization: &'a Authorization, row: &'a str) -> Spot<'a> {
    Spot { field: "answer", ..flow_spot(authorization, row) }
}

/// An answer as fields to be sealed, with the moment that it came and settings from the redirect.
pub(crate) fn answer_fields(
    answer: &TokenAnswer,
    time: Timestamp,
    learned: BTreeMap<String, String>,
) -> BTreeMap<String, SecretString> {
    let body = str::from_utf8(&answer.body).unwrap_or_default();
    let mut fields: BTreeMap<String, SecretString> = BTreeMap::from([
        ("status".to_owned(), answer.status.to_string().into()),
        ("content_type".to_owned(), answer.content_type.as_str().into()),
        ("body".to_owned(), body.into()),
        ("time".to_owned(), time.unix_timestamp().to_string().into()),
    ]);
    fields.extend(learned.into_iter().map(|(name, value)| (format!("{LEARNED}{name}"), value.into())));
    fields
}

/// An answer out of its fields, and the moment that it came.
pub(crate) fn answer_of(fields: &Credential) -> (TokenAnswer, Option<Timestamp>) {
    let text = |name: &str| fields.get(name).map(|value| value.expose_secret()).unwrap_or_default();
    let answer = TokenAnswer {
        status: text("status").parse().unwrap_or(0),
        content_type: text("content_type").to_owned(),
        retry_after: None,
        body: Zeroizing::new(text("body").as_bytes().to_vec()),
    };
    let time = text("time").parse().ok().and_then(|time| Timestamp::from_unix_timestamp(time).ok());
    (answer, time)
}
