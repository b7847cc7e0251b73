//! The authorization endpoint (RFC 6749 section 4.1.1), and the page that asks a person.

use keyholder_domain::Timestamp;
use url::{Url, form_urlencoded};

use super::ask::Ask;
use super::book::Allowed;
use super::desk::Desk;
use super::history::Outcome;
use super::manners::{Consent, Issuer, Pkce};
use super::reply::{Refusal, Reply, escape};
use super::user::{OFFERED, User};

/// A request that waits for a person, or that is decided at once.
pub(super) struct Wish {
    client: String,
    /// As it was registered, and as it is understood.
    redirect_uri: (String, Url),
    state: Option<String>,
    scopes: Vec<String>,
    nonce: Option<String>,
    challenge: Option<String>,
}

impl Desk {
    pub(super) fn authorize(&mut self, ask: &Ask, now: Timestamp) -> Reply {
        // Before these two are sure, nobody is sent anywhere.
        let Some(client) = self.client(ask.get("client_id")) else {
            return refused_page("This client is not known here.");
        };
        let asked = ask.get("redirect_uri").unwrap_or_default();
        let Some(redirect_uri) = client.redirect_uris.iter().find(|known| *known == asked) else {
            return refused_page("This client may not send anybody there.");
        };
        let Ok(parsed) = Url::parse(redirect_uri) else {
            return refused_page("What is registered for this client is no URL.");
        };
        let wish = Wish {
            client: client.id.clone(),
            redirect_uri: (redirect_uri.clone(), parsed),
            state: ask.get("state").map(str::to_owned),
            scopes: words(ask.get("scope")),
            nonce: ask.get("nonce").map(str::to_owned),
            challenge: ask.get("code_challenge").map(str::to_owned),
        };
        if let Some(refusal) = self.objection(ask) {
            return self.send_back(&wish, Err(refusal));
        }
        match (ask.get("auto"), self.manners.consent) {
            (Some("allow"), _) | (None, Consent::Allow) => self.decide(&wish, None, now),
            (Some("deny"), _) | (None, Consent::Deny) => self.send_back(&wish, Err(Refusal::AccessDenied)),
            _ => self.ask_person(wish),
        }
    }

    /// The buttons of the page.
    pub(super) fn decide_page(&mut self, ask: &Ask, now: Timestamp) -> Reply {
        let Some(wish) = ask.get("wish").and_then(|wish| self.wishes.remove(wish)) else {
            return refused_page("This page was answered already.");
        };
        match ask.get("decision") {
            Some("allow") => self.decide(&wish, ask.get("account"), now),
            _ => self.send_back(&wish, Err(Refusal::AccessDenied)),
        }
    }

    fn objection(&self, ask: &Ask) -> Option<Refusal> {
        if ask.has_duplicates() {
            return Some(Refusal::InvalidRequest);
        }
        if ask.get("response_type") != Some("code") {
            return Some(Refusal::UnsupportedResponseType);
        }
        let s256 = ask.get("code_challenge_method") == Some("S256");
        let good = match (self.manners.pkce, ask.get("code_challenge")) {
            (Pkce::Ignored, _) | (Pkce::Optional, None) => true,
            (Pkce::Required, None) => false,
            (_, Some(challenge)) => s256 && challenge.len() == 43,
        };
        (!good).then_some(Refusal::InvalidRequest)
    }

    fn decide(&mut self, wish: &Wish, account: Option<&str>, now: Timestamp) -> Reply {
        let allowed = Allowed {
            client: wish.client.clone(),
            account: account.unwrap_or(&self.manners.account).to_owned(),
            scopes: wish.scopes.clone(),
            nonce: wish.nonce.clone(),
            redirect_uri: wish.redirect_uri.0.clone(),
            challenge: wish.challenge.clone(),
        };
        let code = self.book.open_code(allowed, &self.manners, now);
        self.send_back(wish, Ok(code))
    }

    /// Sends the browser back, with a code or an error.
    fn send_back(&self, wish: &Wish, result: Result<String, Refusal>) -> Reply {
        let mut parameters = Vec::new();
        match &result {
            Ok(code) => parameters.push(("code", code.clone())),
            Err(refusal) => {
                parameters
                    .push(("error", self.manners.error_code.clone().unwrap_or(refusal.code().to_owned())));
                parameters
                    .extend(self.manners.error_description.clone().map(|text| ("error_description", text)));
            }
        }
        parameters.extend(self.manners.state.clone().or(wish.state.clone()).map(|state| ("state", state)));
        match &self.manners.issuer {
            Issuer::Right => parameters.push(("iss", self.issuer.clone())),
            Issuer::Wrong(issuer) => parameters.push(("iss", issuer.clone())),
            Issuer::Missing | Issuer::Unsupported => {}
        }
        let extra = self.manners.redirect_extra.iter().map(|(name, value)| (name.as_str(), value.clone()));
        parameters.extend(extra);
        for name in &self.manners.redirect_twice {
            let first = parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
            let second = match (name.as_str(), first) {
                ("code" | "error", Some(first)) => first.to_owned(),
                (_, first) => format!("{}-again", first.unwrap_or_default()),
            };
            parameters.push((name, second));
        }
        let mut url = wish.redirect_uri.1.clone();
        url.query_pairs_mut().extend_pairs(parameters);
        let outcome =
            result.map_or_else(|refusal| Outcome::Refused(refusal.code()), |_| Outcome::Answered(303));
        Reply::redirect(url.into()).with_outcome(outcome)
    }

    fn ask_person(&mut self, wish: Wish) -> Reply {
        let (id, secret) = self.book.mint("wish");
        let options = OFFERED.map(|account| {
            let chosen = if account == self.manners.account { " selected" } else { "" };
            let User { name, email, .. } = User::of(account);
            format!("<option value=\"{account}\"{chosen}>{name} ({email})</option>")
        });
        let scopes: String = wish.scopes.iter().map(|scope| format!("<li>{}</li>", escape(scope))).collect();
        let body = format!(
            "<h1>Demo provider</h1>\n<p><strong>{}</strong> wants to act for you. It asks for:</p>\n\
             <ul>{}</ul>\n<form method=\"post\" action=\"/authorize/decide\">\n\
             <input type=\"hidden\" name=\"wish\" value=\"{secret}\">\n\
             <p><label>Account <select name=\"account\">{}</select></label></p>\n\
             <p><button name=\"decision\" value=\"allow\">Allow</button>\n\
             <button name=\"decision\" value=\"deny\">Deny</button></p>\n</form>\n\
             <p><small>Request {id}. This provider is for trying out: no account is real.</small></p>",
            escape(&wish.client),
            if scopes.is_empty() { "<li>nothing in particular</li>".to_owned() } else { scopes },
            options.concat(),
        );
        self.wishes.insert(secret, wish);
        Reply::page(200, &body)
    }
}

/// The words of a parameter such as `scope`.
pub(super) fn words(text: Option<&str>) -> Vec<String> {
    text.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// A query of one pair.
pub(super) fn query(name: &str, value: &str) -> String {
    form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish()
}

fn refused_page(why: &str) -> Reply {
    Reply::page(400, &format!("<h1>Demo provider</h1>\n<p>{why}</p>"))
        .with_outcome(Outcome::Refused(Refusal::InvalidRequest.code()))
}
