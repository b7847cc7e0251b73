//! The token answer (RFC 6749 section 5.1), in the shape that the manners ask for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header;
use keyholder_domain::Timestamp;
use serde_json::{Map, Value, json};
use time::format_description::well_known::Rfc3339;

use super::ask::Ask;
use super::book::{Grant, Issued};
use super::history::Outcome;
use super::manners::{Expiry, Format, Manners, ScopeShape};
use super::reply::{Reply, form_of};
use super::user::User;

/// What a token answer is made of.
pub(super) struct TokenAnswer<'a> {
    pub(super) issuer: &'a str,
    pub(super) manners: &'a Manners,
    pub(super) now: Timestamp,
}

impl TokenAnswer<'_> {
    pub(super) fn reply(&self, ask: &Ask, issued: &Issued, grant: &Grant) -> Reply {
        let mut tokens = Map::new();
        tokens.insert("access_token".to_owned(), json!(issued.access));
        if let Some(kind) = &self.manners.token_type {
            tokens.insert("token_type".to_owned(), json!(kind));
        }
        self.expiry(&mut tokens, issued.ends);
        if let Some((_, refresh)) = &issued.refresh {
            tokens.insert("refresh_token".to_owned(), json!(refresh));
        }
        if let Some(ends) = issued.refresh_ends {
            tokens.insert("refresh_token_expires_in".to_owned(), json!((ends - self.now).whole_seconds()));
        }
        self.scope(&mut tokens, &grant.scopes);
        if grant.scopes.iter().any(|scope| scope == "openid") {
            tokens.insert("id_token".to_owned(), json!(self.id_token(grant)));
        }
        tokens.extend(self.manners.answer_extra.clone());
        let refresh = issued.refresh.as_ref().map(|(id, _)| id.clone());
        self.format(ask, tokens).with_outcome(Outcome::Issued { access: issued.access_id.clone(), refresh })
    }

    fn expiry(&self, tokens: &mut Map<String, Value>, ends: Timestamp) {
        let left = ends - self.now;
        let (name, value) = match &self.manners.expiry {
            Expiry::Seconds => ("expires_in", json!(left.whole_seconds())),
            Expiry::Text => ("expires_in", json!(left.whole_seconds().to_string())),
            Expiry::Float => ("expires_in", json!(left.as_seconds_f64() + 0.5)),
            Expiry::Milliseconds => ("expires_in", json!(left.whole_seconds() * 1000)),
            Expiry::Date => ("expires_at", json!(date(ends))),
            Expiry::UnixTime => ("expires_at", json!(ends.unix_timestamp())),
            Expiry::Raw(value) => ("expires_in", value.clone()),
            Expiry::Missing => return,
        };
        tokens.insert(name.to_owned(), value);
    }

    fn scope(&self, tokens: &mut Map<String, Value>, asked: &[String]) {
        let granted = self.manners.granted.as_deref().unwrap_or(asked);
        let value = match self.manners.scope {
            ScopeShape::Text => json!(granted.join(" ")),
            ScopeShape::Commas => json!(granted.join(",")),
            ScopeShape::List => json!(granted),
            ScopeShape::Missing => return,
        };
        tokens.insert("scope".to_owned(), value);
    }

    /// An ID token without a signature: it comes straight from the provider.
    fn id_token(&self, grant: &Grant) -> String {
        let user = User::of(&grant.account);
        let mut claims = json!({
            "iss": self.issuer, "sub": user.id, "aud": grant.client, "name": user.name, "email": user.email,
            "iat": self.now.unix_timestamp(), "exp": self.now.unix_timestamp() + 300,
        });
        if let Some(nonce) = &grant.nonce {
            claims["nonce"] = json!(nonce);
        }
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(json!({ "alg": "none" })), part(claims))
    }

    fn format(&self, ask: &Ask, tokens: Map<String, Value>) -> Reply {
        let accepts_json = ask.header(header::ACCEPT).contains("json");
        match self.manners.format {
            Format::AsAccepted if !accepts_json => Reply::new(200, FORM, form_of(&tokens)),
            Format::Form => Reply::new(200, FORM, form_of(&tokens)),
            Format::TextJson => {
                Reply::new(200, "text/plain; charset=utf-8", nest(self.manners, tokens).to_string())
            }
            Format::Json | Format::AsAccepted => Reply::json(200, &nest(self.manners, tokens)),
        }
    }
}

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// A moment as RFC 3339 has it.
pub(super) fn date(at: Timestamp) -> String {
    at.format(&Rfc3339).expect("a moment of these years has a date")
}

/// Puts the tokens where a JSON pointer says.
fn nest(manners: &Manners, tokens: Map<String, Value>) -> Value {
    let steps = manners.nested.as_deref().unwrap_or_default().split('/').filter(|step| !step.is_empty());
    let mut value = Value::Object(tokens);
    for step in steps.rev() {
        value = json!({ "ok": true, step: value });
    }
    value
}
