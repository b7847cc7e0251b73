//! An OAuth 2.0 provider on this machine: right in every point until it is told to behave otherwise, and then
//! as nasty as the providers of this world have been seen to be.
//!
//! It is a real HTTP/1.1 server on loopback, on a thread of its own, and can be used from any test. It
//! remembers every call ([`Provider::history`], and [`Provider::refreshes`] for long runs) and counts what
//! must not happen ([`Provider::counts`]). What it says can be bent in its [`Manners`], one call can be
//! spoilt on its way by an [`Effect`], or be held at a [`Gate`].
//!
//! | Endpoint | |
//! |---|---|
//! | `GET /authorize` | RFC 6749 with PKCE (RFC 7636) and `iss` (RFC 9207): a page for a person, or `auto=allow` |
//! | `POST /token` | codes, refresh tokens, client credentials, device codes, JWTs |
//! | `POST /device_authorization`, `GET /device` | RFC 8628; the page for the person |
//! | `POST /revoke` | RFC 7009 |
//! | `GET /userinfo` | whose a token is |
//! | `GET /exchange`, `GET /refresh_long_lived` | long-lived tokens, as Instagram has them |
//! | `POST /app/installations/{id}/access_tokens` | tokens of an app's installation, as GitHub has them |
//! | `GET /.well-known/oauth-authorization-server` | RFC 8414 |
//!
//! Tokens have ids: `rt-7.6f1c…` is a refresh token, and the history calls it `rt-7`. It never checks the
//! signature of a JWT, never keeps anything on disk, and must not be reachable from another machine.
//!
//! ```
//! use std::sync::Arc;
//!
//! use keyholder_domain::SystemClock;
//! use keyholder_testkit::browser::Browser;
//! use keyholder_testkit::provider::{Client, Provider};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! # runtime.block_on(async {
//! let provider = Provider::start(Arc::new(SystemClock)).unwrap();
//! provider.register(Client::confidential("me", "my secret", "http://127.0.0.1:9/callback"));
//! let query = "client_id=me&response_type=code&redirect_uri=http://127.0.0.1:9/callback&state=1&auto=allow\
//!     &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256";
//! let mut browser = Browser::new();
//! let stop = "http://127.0.0.1:9/";
//! let page = browser.get_until(&provider.url(&format!("/authorize?{query}")), stop).await.unwrap();
//! assert!(page.parameter("code").unwrap().starts_with("code-1."));
//! # });
//! ```

mod answer;
mod ask;
mod authorize;
mod book;
mod chance;
mod client;
mod desk;
mod device;
mod fault;
mod gate;
mod history;
pub mod hostile;
mod manners;
mod reply;
mod rest;
mod serve;
mod socket;
mod token;
mod tokens;
mod user;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use keyholder_domain::Clock;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub use client::{Authentication, Client};
pub use fault::{Effect, Stage};
pub use gate::Gate;
pub use history::{Call, Counts, Endpoint, Outcome, Refreshed, Superseded};
pub use manners::{Consent, Expiry, Format, Issuer, Limit, Manners, Pkce, RefreshTokens, Reuse, ScopeShape};
pub use tokens::Tokens;
pub use user::User;

use desk::Desk;
use serve::{Fault, Shared, router};
use socket::Sockets;

/// A provider that runs until it is dropped.
pub struct Provider {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Provider {
    /// Starts a provider on a free port of loopback.
    pub fn start(clock: Arc<dyn Clock>) -> io::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), clock)
    }

    /// Starts a provider at an address, which must be of loopback.
    pub fn start_at(address: SocketAddr, clock: Arc<dyn Clock>) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "a demo provider listens on loopback only",
            ));
        }
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(clock));
        shared.lock().desk.issuer = format!("http://{address}");
        let service = router(Arc::clone(&shared)).into_make_service_with_connect_info();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("provider".to_owned())
            .spawn(move || runtime.block_on(run(listener, service, stopped)))?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    // === Where ===

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What it calls itself: its URL without a path.
    pub fn issuer(&self) -> String {
        self.url("")
    }

    // === Who ===

    /// Registers a client, in place of the one with the same id if there is one.
    pub fn register(&self, client: Client) {
        let clients = &mut self.shared.lock().desk.clients;
        clients.retain(|known| known.id != client.id);
        clients.push(client);
    }

    /// Gives a client other secrets, all of them good. Without any it is public.
    pub fn set_secrets(&self, client: &str, secrets: &[&str]) {
        let clients = &mut self.shared.lock().desk.clients;
        for known in clients.iter_mut().filter(|known| known.id == client) {
            known.secrets = secrets.iter().copied().map(str::to_owned).collect();
        }
    }

    /// Forgets a client: whatever it asks is `invalid_client` from now on.
    pub fn forget(&self, client: &str) {
        self.shared.lock().desk.clients.retain(|known| known.id != client);
    }

    // === How ===

    /// Its manners now.
    pub fn manners(&self) -> Manners {
        self.shared.lock().desk.manners.clone()
    }

    /// Changes its manners, from the next call on.
    pub fn behave(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.shared.lock().desk.manners);
    }

    /// Spoils the next calls of the token endpoint, after the faults that were ordered before.
    pub fn spoil(&self, calls: usize, stage: Stage, effect: Effect) {
        self.spoil_at(Endpoint::Token, calls, stage, effect);
    }

    /// Spoils the next calls of an endpoint, after the faults that were ordered before.
    pub fn spoil_at(&self, endpoint: Endpoint, calls: usize, stage: Stage, effect: Effect) {
        let faults = (0..calls).map(|_| Fault { endpoint, stage, effect: effect.clone() });
        self.shared.lock().faults.extend(faults);
    }

    /// Takes back the faults that have not struck yet, and says how many there were.
    pub fn forgive(&self) -> usize {
        std::mem::take(&mut self.shared.lock().faults).len()
    }

    /// Holds the next call of the token endpoint, before or after the provider did its work.
    pub fn hold(&self, stage: Stage) -> Gate {
        self.hold_at(Endpoint::Token, stage)
    }

    /// Holds the next call of an endpoint, before or after the provider did its work.
    pub fn hold_at(&self, endpoint: Endpoint, stage: Stage) -> Gate {
        let (gate, barrier) = Gate::new(stage);
        self.shared.lock().gates.push_back((endpoint, barrier));
        gate
    }

    // === What people do ===

    /// Lets an account allow the device with a user code. Says whether such a device waited.
    pub fn allow_device(&self, user_code: &str, account: &str) -> bool {
        self.shared.lock().desk.decide_device(user_code, Some(account.to_owned()))
    }

    /// Denies the device with a user code. Says whether such a device waited.
    pub fn deny_device(&self, user_code: &str) -> bool {
        self.shared.lock().desk.decide_device(user_code, None)
    }

    /// Ends every grant of an account, as its settings page would: no client is told. Says how many there were.
    pub fn withdraw(&self, account: &str) -> usize {
        self.shared.lock().desk.book.kill_account(account)
    }

    /// Opens a grant and gives its first tokens out at once, as the manners have it, without a browser.
    pub fn issue(&self, client: &str, account: &str, scopes: &[&str]) -> Tokens {
        let now = self.shared.now();
        let desk = &mut self.shared.lock().desk;
        let scopes = scopes.iter().copied().map(str::to_owned).collect();
        let grant = desk.book.open_grant(client, account, scopes, None, now);
        desk.book.counts.grants += 1;
        desk.book.issue(grant, &desk.manners, now).into()
    }

    // === What happened ===

    /// Keeps so many calls from now on, in place of 10,000. Each takes a kilobyte or two.
    pub fn remember(&self, calls: usize) {
        self.shared.lock().history.keep(calls);
    }

    /// Every refresh so far, in the order of arrival. None is ever forgotten.
    ///
    /// A refresh token that is none of ours refreshes nothing, and is in the history alone; so is one under a
    /// name of the provider's own.
    pub fn refreshes(&self) -> Vec<Refreshed> {
        self.shared.lock().history.refreshes.clone()
    }

    /// Every call so far, in the order of arrival; at the most the last 10,000, or as many as it was told to
    /// [`remember`](Self::remember).
    pub fn history(&self) -> Vec<Call> {
        self.shared.lock().history.calls()
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.shared.lock().desk.book.counts
    }

    /// The text of a code or token, by its id in the history.
    pub fn text_of(&self, id: &str) -> Option<String> {
        self.shared.lock().desk.book.text_of(id)
    }

    /// The text of every code and token that it ever made, for a search for leaks.
    pub fn secrets(&self) -> Vec<String> {
        self.shared.lock().desk.book.secrets()
    }

    /// Whether the latest grant of an account lives. Its refresh token may have ended all the same, by its
    /// lifetime.
    pub fn grant_is_alive(&self, account: &str) -> bool {
        let now = self.shared.now();
        let Desk { book, manners, .. } = &self.shared.lock().desk;
        book.latest_grant(account).is_some_and(|grant| book.lives(grant, manners, now))
    }

    /// The id of the newest refresh token of the latest grant of an account: the last one that was put in an
    /// answer, whether that arrived or not.
    pub fn current_refresh(&self, account: &str) -> Option<String> {
        let book = &self.shared.lock().desk.book;
        book.newest_refresh(book.latest_grant(account)?)
    }

    /// Whether an access token is good, and the account that it is for.
    pub fn account_of(&self, access_token: &str) -> Option<String> {
        let now = self.shared.now();
        let desk = &self.shared.lock().desk;
        let grant = desk.book.check_access(access_token, &desk.manners, now).ok()?;
        Some(desk.book.grant(grant).account.clone())
    }
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It ends by itself; if it panicked, it has said so.
            thread.join().ok();
        }
    }
}

type Service = IntoMakeServiceWithConnectInfo<axum::Router, socket::Switch>;

async fn run(listener: std::net::TcpListener, service: Service, stopped: oneshot::Receiver<()>) {
    let listener = TcpListener::from_std(listener).expect("this runtime has IO");
    tokio::select! {
        _ = axum::serve(Sockets(listener), service).into_future() => {}
        // Everybody who waits is cut off with the runtime.
        _ = stopped => {}
    }
}

#[cfg(test)]
mod tests;
