//! The token endpoint (RFC 6749 section 3.2) and the revocation endpoint (RFC 7009).

use http::Method;
use keyholder_domain::Timestamp;
use serde_json::json;

use super::answer::TokenAnswer;
use super::ask::{Ask, claims};
use super::authorize::words;
use super::book::Issued;
use super::client::{authenticate, claimed};
use super::desk::Desk;
use super::manners::Limit;
use super::reply::{Refusal, Reply};

pub(super) const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
pub(super) const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

impl Desk {
    pub(super) fn token(&mut self, ask: &Ask, now: Timestamp) -> Reply {
        self.book.counts.token_calls += 1;
        if let Some(limit) = self.manners.limit
            && self.is_beyond(limit, ask, now)
        {
            self.book.counts.limited += 1;
            return too_many(limit);
        }
        match self.give_tokens(ask, now) {
            Ok(issued) => self.token_answer(ask, &issued, now),
            Err(refusal) => refusal.reply(&self.manners),
        }
    }

    /// Whether a client has had its calls of this second. If not, this is one of them.
    fn is_beyond(&mut self, limit: Limit, ask: &Ask, now: Timestamp) -> bool {
        // Those who say nothing are one client.
        let client = claimed(ask).unwrap_or_default();
        let (second, calls) = self.windows.entry(client).or_default();
        if *second != now.unix_timestamp() {
            (*second, *calls) = (now.unix_timestamp(), 0);
        }
        let beyond = *calls >= limit.per_second;
        *calls += u32::from(!beyond);
        beyond
    }

    pub(super) fn token_answer(&self, ask: &Ask, issued: &Issued, now: Timestamp) -> Reply {
        let answer = TokenAnswer { issuer: &self.issuer, manners: &self.manners, now };
        answer.reply(ask, issued, self.book.grant(issued.grant))
    }

    fn give_tokens(&mut self, ask: &Ask, now: Timestamp) -> Result<Issued, Refusal> {
        if ask.method != Method::POST || ask.has_duplicates() {
            return Err(Refusal::InvalidRequest);
        }
        let grant_type = ask.get("grant_type").ok_or(Refusal::InvalidRequest)?;
        if grant_type == JWT_BEARER && ask.get("client_id").is_none() && ask.authorization("Basic").is_none()
        {
            // The assertion says who it is from (RFC 7523 section 2.1).
            return self.jwt_bearer(ask, "", now);
        }
        let client = authenticate(ask, &self.clients)?.id.clone();
        match grant_type {
            "authorization_code" => self.authorization_code(ask, &client, now),
            "refresh_token" => self.refresh_token(ask, &client, now),
            "client_credentials" => self.client_credentials(ask, &client, now),
            DEVICE_CODE => self.device_code(ask, &client, now),
            JWT_BEARER => self.jwt_bearer(ask, &client, now),
            _ => Err(Refusal::UnsupportedGrantType),
        }
    }

    fn authorization_code(&mut self, ask: &Ask, client: &str, now: Timestamp) -> Result<Issued, Refusal> {
        let code = ask.get("code").ok_or(Refusal::InvalidRequest)?;
        let proofs = (ask.get("redirect_uri"), ask.get("code_verifier"));
        self.book.exchange_code((code, client), proofs, &self.manners, now)
    }

    fn refresh_token(&mut self, ask: &Ask, client: &str, now: Timestamp) -> Result<Issued, Refusal> {
        let token = ask.get("refresh_token").ok_or(Refusal::InvalidRequest)?;
        if let Some(grant) = self.book.grant_of_refresh(token) {
            let granted = &self.book.grant(grant).scopes;
            if words(ask.get("scope")).iter().any(|scope| !granted.contains(scope)) {
                return Err(Refusal::InvalidScope);
            }
        }
        self.book.refresh((token, client), &self.manners, now)
    }

    fn client_credentials(&mut self, ask: &Ask, client: &str, now: Timestamp) -> Result<Issued, Refusal> {
        if self.client(Some(client)).is_none_or(|client| client.is_public()) {
            return Err(Refusal::InvalidClient);
        }
        let grant = self.book.open_grant(client, client, words(ask.get("scope")), None, now);
        Ok(self.book.issue_access(grant, &self.manners, now))
    }

    fn jwt_bearer(&mut self, ask: &Ask, client: &str, now: Timestamp) -> Result<Issued, Refusal> {
        let claims = ask.get("assertion").and_then(claims).ok_or(Refusal::InvalidGrant)?;
        let text = |name: &str| claims.get(name).and_then(|value| value.as_str());
        let ends = claims.get("exp").and_then(|value| value.as_i64()).ok_or(Refusal::InvalidGrant)?;
        let issuer = text("iss").ok_or(Refusal::InvalidGrant)?;
        if ends <= now.unix_timestamp() {
            return Err(Refusal::InvalidGrant);
        }
        let scopes = words(ask.get("scope").or_else(|| text("scope")));
        let client = if client.is_empty() { issuer } else { client };
        let grant = self.book.open_grant(client, text("sub").unwrap_or(issuer), scopes, None, now);
        Ok(self.book.issue_access(grant, &self.manners, now))
    }

    pub(super) fn revoke(&mut self, ask: &Ask) -> Reply {
        let client = match authenticate(ask, &self.clients) {
            Ok(client) => client.id.clone(),
            Err(refusal) => return refusal.reply(&self.manners),
        };
        match ask.get("token") {
            Some(token) if ask.method == Method::POST => self.book.revoke(token, &client),
            _ => return Refusal::InvalidRequest.reply(&self.manners),
        }
        Reply::new(200, "text/plain", "")
    }
}

/// What GitHub says, more or less.
fn too_many(limit: Limit) -> Reply {
    let message = "You have exceeded a rate limit. Please wait a little before you try again.";
    let mut reply = Reply::json(429, &json!({ "message": message }));
    if limit.retry_after {
        reply.headers.push(("retry-after", "1".to_owned()));
    }
    reply
}
