//! What is said to OAuth 2.0 servers: the consent that is asked for, codes and refresh tokens that are exchanged,
//! devices that are polled, assertions, and tokens that are given back.
//!
//! How a server likes to be spoken to is its recipe (`keyholder_catalog::oauth2`). Asking and reading are two steps,
//! so that an answer can be made durable before anything is made of it:
//! [`Upstream::ask_for_tokens`](crate::Upstream::ask_for_tokens) brings the answer as it came, and [`Server::read`] makes
//! tokens of it.

mod answer;
mod authorize;
mod client;
mod device;
#[cfg(test)]
mod fixture;
mod id_token;
mod revoke;
mod send;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use keyholder_catalog::oauth2::OAuth2;
use keyholder_catalog::{Provider, TestedAccount};
use keyholder_domain::{Scopes, Timestamp};
use keyholder_egress::EgressError;
use keyholder_vault::SecretString;
use zeroize::Zeroizing;

pub use authorize::Consent;
pub use client::{Client, ClientKey};
pub use device::DeviceCode;
pub use revoke::Revoked;
pub use send::TokenRequest;

/// A provider's server, as one connection speaks to it.
#[derive(Clone, Copy)]
pub struct Server<'a> {
    /// The provider.
    pub provider: &'a Provider,
    /// Its recipe.
    pub recipe: &'a OAuth2,
    /// As which client Keyholder speaks.
    pub client: &'a Client,
    /// The connection's settings.
    pub config: &'a BTreeMap<String, String>,
}

impl<'a> Server<'a> {
    /// The value of a setting. The client's id can be referred to like one.
    fn setting(&self) -> impl Fn(&str) -> Option<&'a str> + use<'a> {
        let (client, config) = (self.client, self.config);
        move |name| match name {
            "client_id" => Some(client.id.as_str()),
            name => config.get(name).map(String::as_str),
        }
    }
}

impl fmt::Debug for Server<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.provider.id)
    }
}

/// An answer of a token endpoint, as it came. Holds secrets; prints its status.
pub struct TokenAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The content type, without parameters; empty if there is none.
    pub content_type: String,
    /// How long the server wants to be left alone.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenAnswer({}, …)", self.status)
    }
}

/// Tokens, and what a server said about them. Prints as its type's name.
pub struct TokenSet {
    /// The access token.
    pub access_token: SecretString,
    /// The refresh token, if there is one in the answer.
    pub refresh_token: Option<SecretString>,
    /// What was granted. None: the server did not say, which means what was asked for (RFC 6749, section 5.1).
    pub scopes: Option<Scopes>,
    /// When the access token ends. None: nobody said.
    pub expire_time: Option<Timestamp>,
    /// When the refresh token ends, if the server says.
    pub refresh_expire_time: Option<Timestamp>,
    /// Whose the account is, if the answer says.
    pub account: Option<TestedAccount>,
    /// Settings that the answer fills in; each fits its field.
    pub config: BTreeMap<String, String>,
}

impl fmt::Debug for TokenSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSet")
    }
}

/// Why there are no tokens. Variants say whose fault it is; none holds a provider's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// The owner's permission, or the code, is gone.
    #[error("the provider says that the permission is gone")]
    Dead,
    /// The operator's: the client is wrong or blocked.
    #[error("the provider does not take the OAuth client")]
    Client,
    /// The caller's: the scopes, or something else that was asked for.
    #[error("the provider does not grant what is asked for")]
    Request,
    /// The owner said no.
    #[error("the owner said no")]
    Denied,
    /// The owner has not answered yet (RFC 8628, section 3.5).
    #[error("the owner has not answered yet")]
    Pending,
    /// The same, and the server wants to be asked less often.
    #[error("the provider wants to be asked less often")]
    SlowDown,
    /// The device code has ended.
    #[error("the code has ended")]
    Expired,
    /// It passes by itself: too many requests, or the server does not work.
    #[error("the provider does not work at present")]
    Passing {
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The provider's: an answer that holds nothing that can be used.
    #[error("the provider's answer cannot be used: {0}")]
    Unusable(&'static str),
    /// The provider's: data that does not fit what its definition allows.
    #[error("the provider returned data that is not allowed for it")]
    Config,
    /// There was no answer.
    #[error("{0}")]
    NoAnswer(#[from] EgressError),
    /// Ours: the recipe, the client and the settings make no request.
    #[error("the request cannot be made: {0}")]
    Unrenderable(&'static str),
}
