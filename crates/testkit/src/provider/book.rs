//! The grants and their tokens: what is true at the provider, whatever its answers look like.

use std::collections::{BTreeMap, BTreeSet};

use keyholder_domain::Timestamp;

use super::chance::{challenge, random_hex};
use super::history::{Counts, Superseded};
use super::manners::{Manners, Pkce, RefreshTokens, Reuse};
use super::reply::Refusal;

pub(super) type GrantNumber = usize;

#[derive(Default)]
pub(super) struct Book {
    grants: Vec<Grant>,
    accounts: BTreeMap<String, BTreeSet<GrantNumber>>,
    codes: BTreeMap<String, Code>,
    accesses: BTreeMap<String, Access>,
    refreshes: BTreeMap<String, Refresh>,
    minted: u64,
    pub(super) counts: Counts,
}

/// What an account allowed a client. All its tokens die with it.
pub(super) struct Grant {
    pub(super) client: String,
    pub(super) account: String,
    pub(super) scopes: Vec<String>,
    pub(super) nonce: Option<String>,
    born: Timestamp,
    dead: bool,
    /// Its access tokens are dead up to this number in the order of minting.
    access_ended: u64,
    /// The id of the last refresh token that was minted for it.
    newest_refresh: Option<String>,
}

struct Code {
    id: String,
    grant: GrantNumber,
    redirect_uri: String,
    challenge: Option<String>,
    ends: Timestamp,
    used: bool,
}

struct Access {
    id: String,
    /// Its number in the order of minting.
    number: u64,
    grant: GrantNumber,
    born: Timestamp,
    ends: Timestamp,
    dead: bool,
}

struct Refresh {
    id: String,
    grant: GrantNumber,
    ends: Option<Timestamp>,
    dead: bool,
    /// When it was first used, and what it was replaced by.
    replaced: Option<(Timestamp, String)>,
}

/// A request for a code that was allowed.
pub(super) struct Allowed {
    pub(super) client: String,
    pub(super) account: String,
    pub(super) scopes: Vec<String>,
    pub(super) nonce: Option<String>,
    pub(super) redirect_uri: String,
    pub(super) challenge: Option<String>,
}

/// Tokens that are given out.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) grant: GrantNumber,
    pub(super) access: String,
    pub(super) access_id: String,
    pub(super) ends: Timestamp,
    pub(super) refresh: Option<(String, String)>,
    pub(super) refresh_ends: Option<Timestamp>,
}

impl Book {
    // === Codes ===

    pub(super) fn open_code(&mut self, allowed: Allowed, manners: &Manners, now: Timestamp) -> String {
        let Allowed { client, account, scopes, nonce, redirect_uri, challenge } = allowed;
        let grant = self.open_grant(&client, &account, scopes, nonce, now);
        self.counts.grants += 1;
        let (id, text) = self.mint("code");
        let ends = now + manners.code_lifetime;
        self.codes.insert(text.clone(), Code { id, grant, redirect_uri, challenge, ends, used: false });
        text
    }

    /// Exchanges a code (RFC 6749 section 4.1.3). One that comes again takes everything with it that came of it.
    pub(super) fn exchange_code(
        &mut self,
        (code, client): (&str, &str),
        (redirect_uri, verifier): (Option<&str>, Option<&str>),
        manners: &Manners,
        now: Timestamp,
    ) -> Result<Issued, Refusal> {
        let code = self.codes.get_mut(code).ok_or(Refusal::InvalidGrant)?;
        let grant = code.grant;
        if self.grants[grant].client != client {
            return Err(Refusal::InvalidGrant);
        }
        if code.used {
            self.counts.code_replays += 1;
            self.kill(grant);
            return Err(Refusal::InvalidGrant);
        }
        // A wrong try spends it, too.
        code.used = true;
        let proven = match (&code.challenge, verifier) {
            _ if manners.pkce == Pkce::Ignored => true,
            (Some(expected), Some(verifier)) => *expected == challenge(verifier),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !proven || redirect_uri != Some(code.redirect_uri.as_str()) || code.ends <= now {
            return Err(Refusal::InvalidGrant);
        }
        Ok(self.issue(grant, manners, now))
    }

    // === Grants ===

    pub(super) fn open_grant(
        &mut self,
        client: &str,
        account: &str,
        scopes: Vec<String>,
        nonce: Option<String>,
        now: Timestamp,
    ) -> GrantNumber {
        let number = self.grants.len();
        self.grants.push(Grant {
            client: client.to_owned(),
            account: account.to_owned(),
            scopes,
            nonce,
            born: now,
            dead: false,
            access_ended: 0,
            newest_refresh: None,
        });
        self.accounts.entry(account.to_owned()).or_default().insert(number);
        number
    }

    /// Makes a grant that of another account.
    fn move_grant(&mut self, number: GrantNumber, account: &str) {
        let before = std::mem::replace(&mut self.grants[number].account, account.to_owned());
        self.accounts.entry(before).or_default().remove(&number);
        self.accounts.entry(account.to_owned()).or_default().insert(number);
    }

    /// The grant of an account that was opened last.
    pub(super) fn latest_grant(&self, account: &str) -> Option<GrantNumber> {
        self.accounts.get(account)?.last().copied()
    }

    /// The id of the last refresh token that a grant was given.
    pub(super) fn newest_refresh(&self, grant: GrantNumber) -> Option<String> {
        self.grants[grant].newest_refresh.clone()
    }

    pub(super) fn grant(&self, number: GrantNumber) -> &Grant {
        &self.grants[number]
    }

    fn kill(&mut self, grant: GrantNumber) {
        self.grants[grant].dead = true;
    }

    /// Ends every grant of an account, and says how many there were.
    pub(super) fn kill_account(&mut self, account: &str) -> usize {
        let mut killed = 0;
        for &number in self.accounts.get(account).into_iter().flatten() {
            killed += usize::from(!self.grants[number].dead);
            self.grants[number].dead = true;
        }
        killed
    }

    pub(super) fn lives(&self, grant: GrantNumber, manners: &Manners, now: Timestamp) -> bool {
        let grant = &self.grants[grant];
        !grant.dead && manners.grant_lifetime.is_none_or(|lifetime| now < grant.born + lifetime)
    }

    // === Tokens ===

    /// The first tokens of a grant.
    pub(super) fn issue(&mut self, grant: GrantNumber, manners: &Manners, now: Timestamp) -> Issued {
        let refresh = match manners.refresh_tokens {
            RefreshTokens::Never => None,
            _ => Some(self.mint_refresh(grant, manners, now)),
        };
        self.issue_with(grant, refresh, manners, now)
    }

    /// An access token alone, as for a client that acts for itself.
    pub(super) fn issue_access(&mut self, grant: GrantNumber, manners: &Manners, now: Timestamp) -> Issued {
        self.issue_with(grant, None, manners, now)
    }

    /// Refreshes a grant (RFC 6749 section 6), as its reuse class has it.
    pub(super) fn refresh(
        &mut self,
        (text, client): (&str, &str),
        manners: &Manners,
        now: Timestamp,
    ) -> Result<Issued, Refusal> {
        let grant = self.grant_of_refresh(text).ok_or(Refusal::InvalidGrant)?;
        if self.grants[grant].client != client {
            return Err(Refusal::InvalidGrant);
        }
        if self.superseded(text).is_some_and(|superseded| !may_come_again(superseded, manners.reuse, now)) {
            self.counts.replays += 1;
            self.kill(grant);
        }
        let ended = token_ended(self.refreshes.get(text), now);
        if ended || !self.lives(grant, manners, now) {
            return Err(Refusal::InvalidGrant);
        }
        self.counts.refreshes += 1;
        if manners.refresh_ends_access {
            self.grants[grant].access_ended = self.minted;
        }
        if let Some(account) = &manners.account_after_refresh {
            self.move_grant(grant, account);
        }
        let refresh = self.next_refresh(text, manners, now);
        Ok(self.issue_with(grant, refresh, manners, now))
    }

    fn next_refresh(&mut self, text: &str, manners: &Manners, now: Timestamp) -> Option<String> {
        let Refresh { grant, replaced, .. } = &self.refreshes[text];
        match (manners.refresh_tokens, replaced) {
            (RefreshTokens::Same, _) => Some(text.to_owned()),
            (RefreshTokens::FirstOnly | RefreshTokens::Never, _) => None,
            (RefreshTokens::Rotate, Some((_, replacement))) => Some(replacement.clone()),
            (RefreshTokens::Rotate, None) => {
                let grant = *grant;
                let next = self.mint_refresh(grant, manners, now);
                if manners.reuse != Reuse::Static {
                    let replaced = Some((now, next.clone()));
                    self.refreshes.entry(text.to_owned()).and_modify(|token| token.replaced = replaced);
                }
                Some(next)
            }
        }
    }

    /// What has become of a refresh token, if it was replaced.
    pub(super) fn superseded(&self, text: &str) -> Option<Superseded> {
        let (since, replacement) = self.refreshes.get(text)?.replaced.as_ref()?;
        let replacement_used = self.refreshes.get(replacement)?.replaced.is_some();
        Some(Superseded { since: *since, replacement_used })
    }

    fn mint_refresh(&mut self, grant: GrantNumber, manners: &Manners, now: Timestamp) -> String {
        let (id, text) = self.mint("rt");
        let ends = manners.refresh_lifetime.map(|lifetime| now + lifetime);
        self.grants[grant].newest_refresh = Some(id.clone());
        self.refreshes.insert(text.clone(), Refresh { id, grant, ends, dead: false, replaced: None });
        text
    }

    fn issue_with(
        &mut self,
        grant: GrantNumber,
        refresh: Option<String>,
        manners: &Manners,
        now: Timestamp,
    ) -> Issued {
        let (id, text) = self.mint("at");
        let ends = now + manners.access_lifetime;
        let access = Access { id: id.clone(), number: self.minted, grant, born: now, ends, dead: false };
        self.accesses.insert(text.clone(), access);
        let refresh_ends = refresh.as_ref().and_then(|text| self.refreshes.get(text)?.ends);
        let refresh = refresh.map(|text| (self.id_of(&text), text));
        Issued { grant, access: text, access_id: id, ends, refresh, refresh_ends }
    }

    /// The grant of an access token that is good.
    pub(super) fn check_access(
        &self,
        text: &str,
        manners: &Manners,
        now: Timestamp,
    ) -> Result<GrantNumber, Refusal> {
        let access = self.accesses.get(text).ok_or(Refusal::InvalidToken)?;
        let good = !self.was_ended(access) && now < access.ends && self.lives(access.grant, manners, now);
        if good { Ok(access.grant) } else { Err(Refusal::InvalidToken) }
    }

    fn was_ended(&self, access: &Access) -> bool {
        access.dead || access.number <= self.grants[access.grant].access_ended
    }

    /// When an access token was given out.
    pub(super) fn born(&self, text: &str) -> Option<Timestamp> {
        self.accesses.get(text).map(|access| access.born)
    }

    /// Revokes a token of a client (RFC 7009): a refresh token with its whole grant, an access token alone.
    /// A token that is unknown or dead already is no error.
    pub(super) fn revoke(&mut self, text: &str, client: &str) {
        let mut alive = false;
        if let Some(refresh) = self.refreshes.get_mut(text)
            && self.grants[refresh.grant].client == client
        {
            alive = !refresh.dead && !self.grants[refresh.grant].dead;
            refresh.dead = true;
            self.grants[refresh.grant].dead = true;
        } else if let Some(access) = self.accesses.get(text)
            && self.grants[access.grant].client == client
        {
            alive = !self.was_ended(access) && !self.grants[access.grant].dead;
            self.accesses.entry(text.to_owned()).and_modify(|access| access.dead = true);
        }
        self.counts.revocations += u64::from(alive);
    }

    // === Names ===

    /// The id of a code or token.
    pub(super) fn id_of(&self, text: &str) -> String {
        let code = self.codes.get(text).map(|code| &code.id);
        let access = || self.accesses.get(text).map(|access| &access.id);
        let refresh = || self.refreshes.get(text).map(|refresh| &refresh.id);
        code.or_else(access).or_else(refresh).cloned().unwrap_or_else(|| "unknown".to_owned())
    }

    /// The grant of a refresh token, whether that is good or not.
    pub(super) fn grant_of_refresh(&self, text: &str) -> Option<GrantNumber> {
        self.refreshes.get(text).map(|refresh| refresh.grant)
    }

    /// The text of every code and token that was ever made.
    pub(super) fn secrets(&self) -> Vec<String> {
        self.codes.keys().chain(self.accesses.keys()).chain(self.refreshes.keys()).cloned().collect()
    }

    /// The text of a code or token, by its id.
    pub(super) fn text_of(&self, id: &str) -> Option<String> {
        let start = format!("{id}.");
        let code = self.codes.range(start.clone()..).next().map(|(text, _)| text);
        let access = self.accesses.range(start.clone()..).next().map(|(text, _)| text);
        let refresh = self.refreshes.range(start.clone()..).next().map(|(text, _)| text);
        [code, access, refresh].into_iter().flatten().find(|text| text.starts_with(&start)).cloned()
    }

    /// A new id, and the text that has it.
    pub(super) fn mint(&mut self, kind: &str) -> (String, String) {
        self.minted += 1;
        let id = format!("{kind}-{}", self.minted);
        let text = format!("{id}.{}", random_hex());
        (id, text)
    }
}

/// Whether a refresh token that was replaced is still good.
fn may_come_again(superseded: Superseded, reuse: Reuse, now: Timestamp) -> bool {
    match reuse {
        Reuse::None => false,
        Reuse::Static => true,
        Reuse::Window(length) | Reuse::UntilUsed(length) => {
            !superseded.replacement_used && now <= superseded.since + length
        }
    }
}

fn token_ended(token: Option<&Refresh>, now: Timestamp) -> bool {
    token.is_none_or(|token| token.dead || token.ends.is_some_and(|ends| ends <= now))
}
