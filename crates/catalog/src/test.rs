//! The request that proves a static credential, and what its answer says about it.

mod judge;

use std::fmt;

use keyholder_domain::TestClass;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::injection::{Lookup, Values};
use crate::{Injection, Method, Provider, RenderError, Template, check_https_url};

/// The request that proves a credential: one that every valid credential may send, that costs nothing and
/// changes nothing.
///
/// [`Method::render_test`] makes the request; [`Test::judge`] reads the answer. An answer that was not sent
/// by the provider, such as a redirect that was followed elsewhere, must not be judged: nothing says then
/// that it is about the credential.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Test {
    /// The request's method.
    pub http_method: HttpMethod,
    /// Where it goes: a path behind the base URL, or an absolute https URL.
    pub target: Template,
    /// Headers beside those of the credential, name and value. Not secret.
    pub headers: Vec<(String, String)>,
    /// The body, only for POST. Its type is among the headers. Not secret.
    pub body: Option<String>,
    pub(crate) good: Vec<u16>,
    pub(crate) dead: Vec<u16>,
    pub(crate) forbidden: Vec<u16>,
    pub(crate) answer: Option<Answer>,
    pub(crate) account: AccountPointers,
}

/// A method that a test may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpMethod {
    /// GET.
    Get,
    /// HEAD; its answer has no body.
    Head,
    /// POST, for providers that ask with nothing else.
    Post,
}

/// A test's request, ready to be sent. `Debug` prints the type's name and nothing else.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TestRequest {
    /// The method.
    pub http_method: HttpMethod,
    /// The whole URL, but for the credential's query parameters. Can hold a secret, as Telegram's does.
    pub url: Zeroizing<String>,
    /// The credential, with the test's own headers behind its headers. Its base URL is empty: the URL has it.
    pub injection: Injection,
    /// The body, whose type is among the headers. A POST without one has an empty body.
    pub body: Option<String>,
}

/// What an answer says about the credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestOutcome {
    /// What it says; never [`TestClass::Refused`], since there is an answer.
    pub class: TestClass,
    /// Whose the credential is, as far as the provider tells. Only with [`TestClass::Good`].
    pub account: Option<TestedAccount>,
}

/// The account that a credential belongs to, in the provider's words: at most 256 characters each, none of
/// them a control character. `Debug` prints the type's name and nothing else, since it tells of people.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TestedAccount {
    /// The provider's id of the account.
    pub id: Option<String>,
    /// The account's name, as people know it.
    pub name: Option<String>,
    /// The account's e-mail address.
    pub email: Option<String>,
}

/// What an answer's JSON must hold, for providers whose status alone does not say it.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) ok: Option<Expected>,
    pub(crate) error: Option<ErrorCodes>,
}

/// A value that an answer holds exactly when it is a good one.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) pointer: String,
    pub(crate) equals: Value,
}

/// Where an answer holds an error's code, and what the codes say.
#[derive(Debug, Clone)]
pub(crate) struct ErrorCodes {
    pub(crate) pointer: String,
    pub(crate) dead: Vec<Value>,
    pub(crate) forbidden: Vec<Value>,
    pub(crate) limited: Vec<Value>,
}

/// Where an answer tells whose the credential is (RFC 6901).
#[derive(Debug, Clone, Default)]
pub(crate) struct AccountPointers {
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) email: Option<String>,
}

// === impl HttpMethod ===

impl HttpMethod {
    /// Every method that a test may have.
    pub const ALL: [Self; 3] = [Self::Get, Self::Head, Self::Post];

    /// The method's name (RFC 9110, section 9.1).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
        }
    }
}

// === impl TestRequest and TestedAccount ===

impl fmt::Debug for TestRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TestRequest")
    }
}

impl fmt::Debug for TestedAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TestedAccount")
    }
}

// === impl Method ===

impl Method {
    /// The request that proves a credential.
    ///
    /// Nothing where the definition has no test, or has left it, or the base URL, to a config field that is
    /// not given. Fails as [`Method::render`] does, and where base URL and path together are too long.
    pub fn render_test<'v>(
        &self,
        provider: &Provider,
        credential: Lookup<'_, 'v>,
        config: Lookup<'_, 'v>,
    ) -> Result<Option<TestRequest>, RenderError> {
        let Some(test) = &self.test else { return Ok(None) };
        let mut injection = self.render(provider, credential, config)?;
        let base_url = injection.base_url.take();
        let values = Values { credential, config, fields: &provider.config };
        let Some(url) = test.url(&values, base_url.as_ref().map(|url| url.as_str()))? else {
            return Ok(None);
        };
        let own = test.headers.iter().map(|(name, value)| (name.clone(), Zeroizing::new(value.clone())));
        injection.headers.extend(own);
        Ok(Some(TestRequest { http_method: test.http_method, url, injection, body: test.body.clone() }))
    }
}

// === impl Test ===

impl Test {
    /// Whether the test goes to a URL of its own, and not to a path behind the base URL.
    pub(crate) fn is_absolute(&self) -> bool {
        self.target.as_str().starts_with("https://")
    }

    fn url(
        &self,
        values: &Values<'_, '_>,
        base_url: Option<&str>,
    ) -> Result<Option<Zeroizing<String>>, RenderError> {
        if self.target.sole_reference().is_some_and(|reference| values.get(reference).is_none()) {
            return Ok(None);
        }
        let target = values.render(&self.target)?;
        let url = match base_url {
            _ if self.is_absolute() => target,
            None => return Ok(None),
            Some(base_url) => join(base_url, &target)?,
        };
        check_https_url(&url).map_err(RenderError::Url)?;
        Ok(Some(url))
    }
}

/// Puts a path behind a base URL, whose own path stays.
fn join(base_url: &str, path: &str) -> Result<Zeroizing<String>, RenderError> {
    // Without the slash, the path could become a part of the host's name.
    if !path.starts_with('/') {
        return Err(RenderError::Unsafe("path"));
    }
    let base_url = base_url.trim_end_matches('/');
    let mut url = Zeroizing::new(String::with_capacity(base_url.len() + path.len()));
    url.push_str(base_url);
    url.push_str(path);
    Ok(url)
}

#[cfg(test)]
mod tests;
