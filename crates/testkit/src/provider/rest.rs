//! The endpoints beside the standard's: who somebody is, tokens without refresh tokens, and metadata.

use http::Method;
use keyholder_domain::Timestamp;
use serde_json::json;
use time::Duration;

use super::answer::date;
use super::ask::Ask;
use super::authorize::words;
use super::book::Issued;
use super::desk::Desk;
use super::history::Outcome;
use super::manners::{Issuer, Manners, Pkce};
use super::reply::{Refusal, Reply};
use super::token::{DEVICE_CODE, JWT_BEARER};
use super::user::User;

/// What a long-lived token lives, as Instagram has it.
const LONG: std::time::Duration = std::time::Duration::from_secs(60 * 86400);

/// What a token of an installation lives, as GitHub has it.
const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

impl Desk {
    /// Whose an access token is.
    pub(super) fn user_info(&self, ask: &Ask, now: Timestamp) -> Reply {
        let token = ask.authorization("Bearer").unwrap_or_default();
        match self.book.check_access(token, &self.manners, now) {
            // No token error: it is right, whatever those look like.
            Err(refusal) => refusal.reply(&Manners::default()),
            Ok(grant) => {
                let User { id, name, email } = User::of(&self.book.grant(grant).account);
                Reply::json(200, &json!({ "sub": id, "name": name, "email": email }))
            }
        }
    }

    /// A short-lived token for one that lives sixty days; with `refresh`, a long-lived one that is a day old at
    /// the least for the next.
    pub(super) fn long_lived(&mut self, ask: &Ask, refresh: bool, now: Timestamp) -> Reply {
        match self.exchange(ask, refresh, now) {
            Ok(issued) => {
                let body = json!({ "access_token": issued.access, "token_type": "bearer", "expires_in": LONG.as_secs() });
                Reply::json(200, &body)
                    .with_outcome(Outcome::Issued { access: issued.access_id, refresh: None })
            }
            Err(refusal) => refusal.reply(&self.manners),
        }
    }

    fn exchange(&mut self, ask: &Ask, refresh: bool, now: Timestamp) -> Result<Issued, Refusal> {
        let wanted = if refresh { "ig_refresh_token" } else { "ig_exchange_token" };
        if ask.method != Method::GET || ask.get("grant_type") != Some(wanted) {
            return Err(Refusal::InvalidRequest);
        }
        let token = ask.get("access_token").ok_or(Refusal::InvalidRequest)?;
        let grant = self.book.check_access(token, &self.manners, now)?;
        let client = self.client(Some(&self.book.grant(grant).client)).ok_or(Refusal::InvalidClient)?;
        let knows =
            ask.get("client_secret").is_some_and(|secret| client.secrets.iter().any(|known| known == secret));
        if !refresh && !knows {
            return Err(Refusal::InvalidClient);
        }
        if refresh && self.book.born(token).is_none_or(|born| now < born + Duration::DAY) {
            return Err(Refusal::InvalidRequest);
        }
        let manners = Manners { access_lifetime: LONG, ..self.manners.clone() };
        Ok(self.book.issue_access(grant, &manners, now))
    }

    /// A token of an app's installation, as GitHub has it. Nobody checks the signature of the assertion.
    pub(super) fn installation(&mut self, ask: &Ask, now: Timestamp) -> Reply {
        let claims = ask.claims().filter(|_| ask.method == Method::POST);
        let ends = claims.as_ref().and_then(|claims| claims.get("exp")?.as_i64()).unwrap_or_default();
        let Some(app) =
            claims.as_ref().and_then(|claims| claims.get("iss")).filter(|_| now.unix_timestamp() < ends)
        else {
            return Refusal::InvalidToken.reply(&Manners::default());
        };
        let app = app.as_str().map_or_else(|| app.to_string(), str::to_owned);
        let grant = self.book.open_grant(&app, &app, words(None), None, now);
        let manners = Manners { access_lifetime: HOUR, ..self.manners.clone() };
        let issued = self.book.issue_access(grant, &manners, now);
        let body = json!({
            "token": issued.access, "expires_at": date(issued.ends), "permissions": { "metadata": "read" },
            "repository_selection": "all",
        });
        Reply::json(201, &body).with_outcome(Outcome::Issued { access: issued.access_id, refresh: None })
    }

    /// What the provider says about itself (RFC 8414).
    pub(super) fn metadata(&self) -> Reply {
        let url = |path: &str| format!("{}{path}", self.issuer);
        let mut body = json!({
            "issuer": self.issuer,
            "authorization_endpoint": url("/authorize"),
            "token_endpoint": url("/token"),
            "revocation_endpoint": url("/revoke"),
            "device_authorization_endpoint": url("/device_authorization"),
            "userinfo_endpoint": url("/userinfo"),
            "response_types_supported": ["code"],
            "grant_types_supported":
                ["authorization_code", "refresh_token", "client_credentials", DEVICE_CODE, JWT_BEARER],
            "token_endpoint_auth_methods_supported":
                ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"],
            "authorization_response_iss_parameter_supported": self.manners.issuer != Issuer::Unsupported,
        });
        if self.manners.pkce != Pkce::Ignored {
            body["code_challenge_methods_supported"] = json!(["S256"]);
        }
        Reply::json(200, &body)
    }
}
