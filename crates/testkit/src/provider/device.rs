//! The device flow (RFC 8628).

use std::time::Duration;

use http::Method;
use keyholder_domain::Timestamp;
use serde_json::json;

use super::ask::Ask;
use super::authorize::{query, words};
use super::book::Issued;
use super::client::authenticate;
use super::desk::Desk;
use super::manners::Consent;
use super::reply::{Refusal, Reply, escape};

/// What a device waits at the least if it was not told (RFC 8628 section 3.2), and what it must add if it was
/// told to slow down (section 3.5).
const FIVE_SECONDS: Duration = Duration::from_secs(5);

/// Two polls are measured at two ends of a network: so much may be missing between them.
const TOLERANCE: Duration = Duration::from_millis(100);

/// The letters of a user code: none that makes a word, none that looks like another.
const LETTERS: &[u8; 16] = b"BCDFGHJKLMNPQRST";

/// A device that waits.
pub(super) struct Device {
    pub(super) user_code: String,
    client: String,
    scopes: Vec<String>,
    ends: Timestamp,
    interval: Duration,
    polled: Option<Timestamp>,
    pub(super) decision: Decision,
}

pub(super) enum Decision {
    Open,
    Denied,
    Allowed(String),
    /// Its tokens are out.
    Used,
}

impl Desk {
    pub(super) fn authorize_device(&mut self, ask: &Ask, now: Timestamp) -> Reply {
        let client = match authenticate(ask, &self.clients) {
            Ok(client) if ask.method == Method::POST => client.id.clone(),
            Ok(_) => return Refusal::InvalidRequest.reply(&self.manners),
            Err(refusal) => return refusal.reply(&self.manners),
        };
        let (_, device_code) = self.book.mint("device");
        let user_code = user_code();
        self.devices.insert(
            device_code.clone(),
            Device {
                user_code: user_code.clone(),
                client,
                scopes: words(ask.get("scope")),
                ends: now + self.manners.device_lifetime,
                interval: self.manners.device_interval.unwrap_or(FIVE_SECONDS),
                polled: None,
                decision: match self.manners.consent {
                    Consent::Ask => Decision::Open,
                    Consent::Allow => Decision::Allowed(self.manners.account.clone()),
                    Consent::Deny => Decision::Denied,
                },
            },
        );
        let page = format!("{}/device", self.issuer);
        let mut body = json!({
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": page,
            "verification_uri_complete": format!("{page}?{}", query("user_code", &user_code)),
            "expires_in": self.manners.device_lifetime.as_secs(),
        });
        if let Some(interval) = self.manners.device_interval {
            body["interval"] = json!(interval.as_secs());
        }
        Reply::json(200, &body)
    }

    /// A poll of the token endpoint (RFC 8628 section 3.5).
    pub(super) fn device_code(&mut self, ask: &Ask, client: &str, now: Timestamp) -> Result<Issued, Refusal> {
        let code = ask.get("device_code").ok_or(Refusal::InvalidRequest)?;
        let device = self.devices.get_mut(code).filter(|device| device.client == client);
        let device = device.ok_or(Refusal::InvalidGrant)?;
        if device.ends <= now {
            return Err(Refusal::ExpiredToken);
        }
        let early = device.polled.is_some_and(|last| now + TOLERANCE < last + device.interval);
        device.polled = Some(now);
        if early {
            device.interval += FIVE_SECONDS;
            return Err(Refusal::SlowDown);
        }
        let account = match &device.decision {
            Decision::Open => return Err(Refusal::AuthorizationPending),
            Decision::Denied => return Err(Refusal::AccessDenied),
            Decision::Used => return Err(Refusal::InvalidGrant),
            Decision::Allowed(account) => account.clone(),
        };
        device.decision = Decision::Used;
        let grant = self.book.open_grant(client, &account, device.scopes.clone(), None, now);
        self.book.counts.grants += 1;
        Ok(self.book.issue(grant, &self.manners, now))
    }

    /// The page where a person types the code.
    pub(super) fn device_page(&mut self, ask: &Ask) -> Reply {
        let typed = ask.get("user_code").unwrap_or_default().to_owned();
        if ask.method != Method::POST {
            return Reply::page(
                200,
                &format!(
                    "<h1>Demo provider</h1>\n<p>Connect a device.</p>\n<form method=\"post\" action=\"/device\">\n\
                     <p><label>Code <input name=\"user_code\" value=\"{}\" required></label></p>\n\
                     <p><button name=\"decision\" value=\"allow\">Allow</button>\n\
                     <button name=\"decision\" value=\"deny\">Deny</button></p>\n</form>",
                    escape(&typed)
                ),
            );
        }
        let account = (ask.get("decision") == Some("allow")).then(|| self.manners.account.clone());
        let (status, text) = match (self.decide_device(&typed, account.clone()), account) {
            (false, _) => (400, "No device waits with this code."),
            (true, Some(_)) => (200, "The device is connected."),
            (true, None) => (200, "The device was refused."),
        };
        Reply::page(status, &format!("<h1>Demo provider</h1>\n<p>{text}</p>"))
    }

    /// Decides for the device with a user code, unless that was done already.
    pub(super) fn decide_device(&mut self, user_code: &str, account: Option<String>) -> bool {
        let plain = |code: &str| code.replace('-', "").to_ascii_uppercase();
        let open = |device: &&mut Device| matches!(device.decision, Decision::Open);
        let mut devices = self.devices.values_mut().filter(open);
        let device = devices.find(|device| plain(&device.user_code) == plain(user_code));
        device.map(|device| device.decision = account.map_or(Decision::Denied, Decision::Allowed)).is_some()
    }
}

fn user_code() -> String {
    let digits = super::chance::random_hex();
    let letter = |digit: char| char::from(LETTERS[digit.to_digit(16).unwrap_or_default() as usize]);
    let letters: String = digits.chars().take(8).map(letter).collect();
    format!("{}-{}", &letters[..4], &letters[4..])
}
