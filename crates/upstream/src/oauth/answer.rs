//! From a token endpoint's answer to tokens, or to what is wrong. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use keyholder_catalog::oauth2::{ExpiresUnit, TokenErrorClass};
use keyholder_domain::{Scope, Scopes, Timestamp};
use keyholder_vault::SecretString;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use time::format_description::well_known::Rfc3339;

use super::id_token::claims_of;
use super::{Server, TokenAnswer, TokenFault, TokenSet};

/// The longest token, in bytes.
const MAX_TOKEN_LEN: usize = 64 * 1024;

/// The longest lifetime that is believed, in seconds. What is told beyond it is taken as not told.
const MAX_LIFETIME: f64 = 10.0 * 365.0 * 86_400.0;

/// How deep an answer may be nested.
const MAX_DEPTH: usize = 32;

/// The longest that a server is left alone because it asked for it.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);

impl Server<'_> {
    /// Makes tokens of an answer. `nonce`: the one of this flow, if the answer may hold an ID token for it.
    ///
    /// What the body says counts for more than the status, and an error for more than a token.
    pub fn read(
        &self,
        answer: &TokenAnswer,
        nonce: Option<&SecretString>,
        now: Timestamp,
    ) -> Result<TokenSet, TokenFault> {
        let body = parse(answer);
        if let Some(fault) = self.fault_in(answer, body.as_ref()) {
            return Err(fault);
        }
        let body = body.ok_or(TokenFault::Unusable("the body is neither JSON nor a form"))?;
        self.check_type(&body)?;
        let recipe = &self.recipe.answer;
        let access_token =
            token(&body, &recipe.access_token)?.ok_or(TokenFault::Unusable("there is no access token"))?;
        let account = self.account_in(&body, nonce, now)?;
        Ok(TokenSet {
            access_token,
            refresh_token: token(&body, &recipe.refresh_token)?,
            scopes: self.scopes_in(&body)?,
            expire_time: self.expire_time(&body, now),
            refresh_expire_time: recipe
                .refresh_expires
                .as_deref()
                .and_then(|pointer| lifetime(body.pointer(pointer)?, ExpiresUnit::Seconds, now)),
            account,
            config: self.config_in(&body)?,
        })
    }

    /// The access token and the refresh token that an answer holds, whatever else is wrong with it: what cannot be used can
    /// still be given back.
    pub fn tokens_in(&self, answer: &TokenAnswer) -> [Option<SecretString>; 2] {
        let body = parse(answer);
        let recipe = &self.recipe.answer;
        [&recipe.access_token, &recipe.refresh_token]
            .map(|pointer| body.as_ref().and_then(|body| token(body, pointer).ok().flatten()))
    }

    fn fault_in(&self, answer: &TokenAnswer, body: Option<&Value>) -> Option<TokenFault> {
        let recipe = &self.recipe.answer;
        let passing = TokenFault::Passing { retry_after: answer.retry_after };
        let code = body.and_then(|body| body.pointer(&recipe.error)).filter(|code| is_said(code));
        if let Some(code) = code {
            return Some(match recipe.class_of(code) {
                Some(TokenErrorClass::Dead) => TokenFault::Dead,
                Some(TokenErrorClass::Client) => TokenFault::Client,
                Some(TokenErrorClass::Passing) => passing,
                None => standard(code.as_str().unwrap_or_default(), answer.status, passing),
            });
        }
        match answer.status {
            429 | 500..=599 => Some(passing),
            200..=299 if body.is_none_or(|body| recipe.is_ok(body)) => None,
            200..=299 => Some(TokenFault::Unusable("the answer is not marked as a good one")),
            // Never dead on a status alone.
            _ => Some(TokenFault::Unusable("a refusal without an error code")),
        }
    }

    /// RFC 6749, section 7.1: a client must not use a token of a type that it does not understand.
    fn check_type(&self, body: &Value) -> Result<(), TokenFault> {
        let known = |kind: &str| {
            kind.eq_ignore_ascii_case("bearer")
                || self.recipe.answer.token_types.iter().any(|known| known.eq_ignore_ascii_case(kind))
        };
        match body.get("token_type") {
            None | Some(Value::Null) => Ok(()),
            Some(Value::String(kind)) if known(kind) => Ok(()),
            Some(_) => Err(TokenFault::Unusable("the token is of a type that is not known")),
        }
    }

    fn scopes_in(&self, body: &Value) -> Result<Option<Scopes>, TokenFault> {
        let recipe = &self.recipe.answer;
        let wrong = TokenFault::Unusable("the granted scopes cannot be read");
        let own = recipe.scope_separator.as_deref().unwrap_or(&self.recipe.scope_separator);
        let texts: Vec<&str> = match body.pointer(&recipe.scope) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => {
                let separates =
                    |character: char| character == ' ' || character == ',' || own.contains(character);
                text.split(separates).filter(|text| !text.is_empty()).collect()
            }
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().ok_or(wrong)).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(wrong),
        };
        // One scope that is no scope must not cost the owner the whole consent: it can be asked for by nobody.
        let valid = texts.into_iter().filter(|text| Scope::parse(text).is_ok());
        Scopes::parse(valid.take(Scopes::MAX)).map(Some).map_err(|_| wrong)
    }

    fn expire_time(&self, body: &Value, now: Timestamp) -> Option<Timestamp> {
        let recipe = &self.recipe.answer;
        let told = body.pointer(&recipe.expires).and_then(|value| lifetime(value, recipe.expires_unit, now));
        told.or_else(|| now.checked_add(self.recipe.refresh.access_token_lifetime?.try_into().ok()?))
    }

    fn account_in(
        &self,
        body: &Value,
        nonce: Option<&SecretString>,
        now: Timestamp,
    ) -> Result<Option<keyholder_catalog::TestedAccount>, TokenFault> {
        let Some(account) = &self.recipe.account else { return Ok(None) };
        if !account.in_id_token {
            return Ok(account.read(body));
        }
        match body.get("id_token") {
            Some(Value::String(token)) => {
                let claims = claims_of(self, token, nonce, now).map_err(TokenFault::Unusable)?;
                Ok(account.read(&claims))
            }
            _ => Ok(None),
        }
    }

    /// The settings that the answer fills in. Each must fit its field: a provider's data decides where a token goes.
    fn config_in(&self, body: &Value) -> Result<BTreeMap<String, String>, TokenFault> {
        let mut config = BTreeMap::new();
        for (name, pointer) in &self.recipe.answer.config {
            let value = match body.pointer(pointer) {
                None | Some(Value::Null) => continue,
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                Some(_) => return Err(TokenFault::Config),
            };
            let field = self.provider.config_field(name).ok_or(TokenFault::Config)?;
            field.check(&value).map_err(|_| TokenFault::Config)?;
            config.insert(name.clone(), value);
        }
        Ok(config)
    }
}

/// Whether a value at the place of an error's code says that there is one.
fn is_said(code: &Value) -> bool {
    match code {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_i64() != Some(0),
        Value::Bool(true) | Value::Array(_) | Value::Object(_) => true,
    }
}

/// What the codes of RFC 6749, sections 4.1.2.1 and 5.2, and of RFC 8628, section 3.5, say.
fn standard(code: &str, status: u16, passing: TokenFault) -> TokenFault {
    match code {
        "invalid_grant" => TokenFault::Dead,
        "invalid_client" | "unauthorized_client" => TokenFault::Client,
        "invalid_scope" | "invalid_request" | "unsupported_grant_type" | "invalid_target" => {
            TokenFault::Request
        }
        "access_denied" => TokenFault::Denied,
        "authorization_pending" => TokenFault::Pending,
        "slow_down" => TokenFault::SlowDown,
        "expired_token" => TokenFault::Expired,
        "temporarily_unavailable" | "server_error" => passing,
        _ if status == 429 || status >= 500 => passing,
        _ => TokenFault::Unusable("an error code that is not known"),
    }
}

/// The body as JSON, or as a form read into an object of texts. Duplicate keys, deep nesting and other encodings
/// are no answer: two readers could take them differently.
fn parse(answer: &TokenAnswer) -> Option<Value> {
    let text = str::from_utf8(&answer.body).ok()?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
    if text.starts_with('{') {
        let Unambiguous(value) = serde_json::from_str(text).ok()?;
        return (depth(&value) <= MAX_DEPTH).then_some(value);
    }
    let form = matches!(
        answer.content_type.as_str(),
        "application/x-www-form-urlencoded" | "text/plain" | "text/html" | ""
    );
    if !form || !text.contains('=') || text.starts_with(['<', '[', '"']) {
        return None;
    }
    let mut object = Map::new();
    for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
        if object.insert(name.into_owned(), value.into_owned().into()).is_some() {
            return None;
        }
    }
    Some(Value::Object(object))
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// A token: text that a header can carry.
fn token(body: &Value, pointer: &str) -> Result<Option<SecretString>, TokenFault> {
    match body.pointer(pointer) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text))
            if text.len() <= MAX_TOKEN_LEN && text.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Ok(Some(text.as_str().into()))
        }
        Some(_) => Err(TokenFault::Unusable("a token is not a text that a header can carry")),
    }
}

/// When something ends whose lifetime is told. What makes no sense is taken as not told; never as zero, never as
/// for ever.
fn lifetime(value: &Value, unit: ExpiresUnit, now: Timestamp) -> Option<Timestamp> {
    if unit == ExpiresUnit::Date {
        return match value {
            Value::String(text) => {
                Timestamp::parse(text.trim(), &Rfc3339).ok().filter(|end| sensible(*end, now))
            }
            _ => None,
        };
    }
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    let seconds = match unit {
        ExpiresUnit::Milliseconds => number / 1_000.0,
        ExpiresUnit::UnixSeconds => number - now.unix_timestamp() as f64,
        ExpiresUnit::Seconds | ExpiresUnit::Date => number,
    };
    if !seconds.is_finite() || seconds <= 0.0 || seconds > MAX_LIFETIME {
        return None;
    }
    now.checked_add(time::Duration::seconds_f64(seconds))
}

fn sensible(end: Timestamp, now: Timestamp) -> bool {
    end > now && (end - now).as_seconds_f64() <= MAX_LIFETIME
}

/// How long a server wants to be left alone (RFC 9110, section 10.2.3): seconds, or a date. Never more than an hour.
pub(super) fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            date.duration_since(std::time::UNIX_EPOCH).ok().and_then(since_now)?
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// How far a moment, told since 1970, is in the future; nothing if it is past.
fn since_now(moment: Duration) -> Option<Duration> {
    use keyholder_domain::{Clock as _, SystemClock};
    let now = u64::try_from(SystemClock.now().unix_timestamp()).ok()?;
    Some(moment.saturating_sub(Duration::from_secs(now)))
}

/// A JSON value in which no object has a key twice.
struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnambiguousVisitor).map(Self)
    }
}

struct UnambiguousVisitor;

impl<'de> Visitor<'de> for UnambiguousVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without duplicate keys")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Unambiguous(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Unambiguous(value))) = fields.next_entry::<String, Unambiguous>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a key is there twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests;
