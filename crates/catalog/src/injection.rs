//! Putting a credential on a request.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::field::{check_header_name, check_token, is_cookie_text, is_header_text};
use crate::template::{Reference, Source, Template};
use crate::{Field, Method, Provider, check_https_url};

/// How a method puts its credential on a request.
#[derive(Debug, Clone, Default)]
pub struct Http {
    /// Headers, name and value.
    pub headers: Vec<(Template, Template)>,
    /// Query parameters, name and value.
    pub query_parameters: Vec<(Template, Template)>,
    /// Cookies, name and value.
    pub cookies: Vec<(Template, Template)>,
    /// A base URL that holds a part of the credential; takes the place of the provider's own.
    pub base_url: Option<Template>,
    /// HTTP Basic authentication (RFC 7617).
    pub basic: Option<Basic>,
}

/// HTTP Basic authentication (RFC 7617).
#[derive(Debug, Clone)]
pub struct Basic {
    /// The user name.
    pub username: Template,
    /// The password.
    pub password: Template,
}

/// A user name and a password.
pub type UsernamePassword = (Zeroizing<String>, Zeroizing<String>);

/// A credential, ready to be put on a request. `Debug` prints the type's name and nothing else.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Injection {
    /// Headers, name and value. Values are visible ASCII and spaces.
    pub headers: Vec<(String, Zeroizing<String>)>,
    /// Query parameters, name and value, not yet percent-encoded.
    pub query_parameters: Vec<(String, Zeroizing<String>)>,
    /// Cookies, name and value.
    pub cookies: Vec<(String, Zeroizing<String>)>,
    /// Where requests go. Can hold a secret, as Telegram's does.
    pub base_url: Option<Zeroizing<String>>,
}

impl fmt::Debug for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Injection")
    }
}

/// Why a credential cannot be put on a request. Names fields, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// A field that the method's templates need has no value.
    #[error("the field {0} has no value")]
    Missing(String),
    /// A name or value came out as something that its place cannot carry.
    #[error("a rendered {0} holds characters that it cannot carry")]
    Unsafe(&'static str),
    /// The base URL, or the URL of a test, came out as something that is not an https URL.
    #[error("the rendered URL is refused: it {0}")]
    Url(&'static str),
}

/// The values of one connection, with the provider's defaults behind its config.
pub(crate) struct Values<'a, 'v> {
    pub(crate) credential: Lookup<'a, 'v>,
    pub(crate) config: Lookup<'a, 'v>,
    pub(crate) fields: &'a [Field],
}

/// Gives the value of a field by its name.
pub type Lookup<'a, 'v> = &'a (dyn Fn(&str) -> Option<&'v str> + 'a);

impl Provider {
    /// Where requests go, by the provider's own base URL and the connection's config. Nothing where the
    /// provider has none, or has left it to an optional field that is not given. Without a slash at the end.
    pub fn render_base_url<'v>(
        &self,
        config: &dyn Fn(&str) -> Option<&'v str>,
    ) -> Result<Option<Zeroizing<String>>, RenderError> {
        let values = Values { credential: &|_| None, config, fields: &self.config };
        let Some(template) = &self.base_url else { return Ok(None) };
        if template.sole_reference().is_some_and(|reference| values.get(reference).is_none()) {
            return Ok(None);
        }
        let mut url = values.render_base_url(template)?;
        let length = url.trim_end_matches('/').len();
        url.truncate(length);
        Ok(Some(url))
    }
}

impl Method {
    /// Puts a credential on a request.
    ///
    /// For the methods that ask an OAuth server as a client, that is `oauth2_code`, `oauth2_device` and
    /// `oauth2_client_credentials`, `config` also answers to `client_id`: with the id of the client that the
    /// token was issued to. It is no field of the provider's config; some providers want it on each request.
    ///
    /// Never gives out a header, a cookie or a URL that could be read as more than one: what the
    /// definition and [`Field::check`] should have kept out is refused here once more.
    pub fn render<'v>(
        &self,
        provider: &Provider,
        credential: &dyn Fn(&str) -> Option<&'v str>,
        config: &dyn Fn(&str) -> Option<&'v str>,
    ) -> Result<Injection, RenderError> {
        let values = Values { credential, config, fields: &provider.config };
        let mut headers =
            values.render_pairs(&self.http.headers, "header", check_header_name, is_header_text)?;
        if let Some((username, password)) = self.render_basic(provider, credential, config)? {
            headers.push(("Authorization".to_owned(), basic_authorization(&username, &password)?));
        }
        let printable = |text: &str| !text.chars().any(char::is_control);
        Ok(Injection {
            headers,
            query_parameters: values.render_pairs(
                &self.http.query_parameters,
                "query parameter",
                check_token,
                printable,
            )?,
            cookies: values.render_pairs(&self.http.cookies, "cookie", check_token, is_cookie_text)?,
            base_url: match &self.http.base_url {
                Some(template) => Some(values.render_base_url(template)?),
                None => provider.render_base_url(config)?,
            },
        })
    }

    /// The user name and the password, if the method is injected as HTTP Basic authentication.
    pub fn render_basic<'v>(
        &self,
        provider: &Provider,
        credential: &dyn Fn(&str) -> Option<&'v str>,
        config: &dyn Fn(&str) -> Option<&'v str>,
    ) -> Result<Option<UsernamePassword>, RenderError> {
        let values = Values { credential, config, fields: &provider.config };
        let Some(basic) = &self.http.basic else { return Ok(None) };
        Ok(Some((values.render(&basic.username)?, values.render(&basic.password)?)))
    }
}

impl Values<'_, '_> {
    pub(crate) fn get(&self, reference: &Reference) -> Option<&str> {
        match reference.source {
            Source::Credential => (self.credential)(&reference.field),
            Source::Config => (self.config)(&reference.field).or_else(|| {
                self.fields.iter().find(|field| field.name == reference.field)?.default.as_deref()
            }),
        }
    }

    pub(crate) fn render(&self, template: &Template) -> Result<Zeroizing<String>, RenderError> {
        template
            .render(&|reference| self.get(reference))
            .map_err(|missing| RenderError::Missing(missing.field.clone()))
    }

    fn render_base_url(&self, template: &Template) -> Result<Zeroizing<String>, RenderError> {
        let url = self.render(template)?;
        // One without references was checked when the definition was loaded.
        if !template.is_literal() {
            check_https_url(&url).map_err(RenderError::Url)?;
        }
        Ok(url)
    }

    fn render_pairs(
        &self,
        pairs: &[(Template, Template)],
        place: &'static str,
        check_name: fn(&str) -> Result<(), &'static str>,
        is_value: impl Fn(&str) -> bool,
    ) -> Result<Vec<(String, Zeroizing<String>)>, RenderError> {
        let mut rendered = Vec::with_capacity(pairs.len());
        for (name, value) in pairs {
            let (mut name, value) = (self.render(name)?, self.render(value)?);
            if check_name(&name).is_err() || !is_value(&value) {
                return Err(RenderError::Unsafe(place));
            }
            rendered.push((std::mem::take(&mut *name), value));
        }
        Ok(rendered)
    }
}

fn basic_authorization(username: &str, password: &str) -> Result<Zeroizing<String>, RenderError> {
    if username.contains(':') || username.chars().chain(password.chars()).any(char::is_control) {
        return Err(RenderError::Unsafe("user name or password"));
    }
    let mut pair = Zeroizing::new(String::with_capacity(username.len() + 1 + password.len()));
    pair.push_str(username);
    pair.push(':');
    pair.push_str(password);
    let scheme = "Basic ";
    let mut header = Zeroizing::new(String::with_capacity(scheme.len() + pair.len().div_ceil(3) * 4));
    header.push_str(scheme);
    STANDARD.encode_string(pair.as_bytes(), &mut header);
    Ok(header)
}

#[cfg(test)]
mod tests;
