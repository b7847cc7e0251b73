//! A small browser for tests: it follows redirects and keeps cookies as browsers do, and runs no script.
//!
//! It speaks HTTP in the clear, to loopback and to nowhere else.

mod cookies;

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use keyholder_domain::{Clock as _, SystemClock};
use url::{Host, Url, form_urlencoded};

pub use cookies::Cookie;
use cookies::Jar;

/// How many redirects in a row are followed.
const MAX_REDIRECTS: usize = 20;

/// The largest body that is read.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with its cookies. [`Browser::new`] makes another, which knows nothing of this one.
#[derive(Debug, Default)]
pub struct Browser {
    jar: Jar,
    headers: HeaderMap,
}

/// Where the browser ended up.
#[derive(Debug, Clone)]
pub struct Page {
    /// The status; nothing if the browser stopped before it asked.
    pub status: Option<StatusCode>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
    /// The URL, as the address bar shows it.
    pub url: Url,
    /// Every URL that redirected on the way, the first one first.
    pub visited: Vec<Url>,
}

impl Page {
    /// A parameter of the URL.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// A header, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The value of a hidden field of a form in the body.
    pub fn field(&self, name: &str) -> Option<String> {
        let mut tags = self.body.split('<').filter(|tag| tag.starts_with("input"));
        let tag = tags.find(|tag| tag.contains(&format!("name=\"{name}\"")))?;
        let (_, value) = tag.split_once("value=\"")?;
        let value = value.split('"').next()?;
        Some(value.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    }
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum BrowserError {
    /// The URL, or where it redirects to, is none, or is not HTTP on loopback.
    #[error("not a plain HTTP URL of loopback: {0}")]
    Url(String),
    /// The server could not be reached, or broke off.
    #[error("the server could not be asked")]
    Server(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server took longer than a minute.
    #[error("the server took too long")]
    Patience,
    /// More than 20 redirects in a row.
    #[error("too many redirects")]
    Redirects,
}

impl Browser {
    /// A browser without a cookie.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends a header with every request from now on, such as `Accept-Language`.
    ///
    /// # Panics
    ///
    /// If it cannot be a header.
    pub fn set_header(&mut self, name: &str, value: &str) {
        let name = HeaderName::try_from(name).expect("a test knows what a header may be called");
        self.headers.insert(name, HeaderValue::try_from(value).expect("a test knows what a header may hold"));
    }

    /// Opens a URL and follows where it leads.
    pub async fn get(&mut self, url: &str) -> Result<Page, BrowserError> {
        self.follow(url, None, None).await
    }

    /// Opens a URL and follows where it leads, but stops before it asks for a URL that begins with `stop`.
    pub async fn get_until(&mut self, url: &str, stop: &str) -> Result<Page, BrowserError> {
        self.follow(url, None, Some(stop)).await
    }

    /// Opens a URL and follows nothing.
    pub async fn get_once(&mut self, url: &str) -> Result<Page, BrowserError> {
        self.follow(url, None, Some("")).await
    }

    /// Sends a form and follows where it leads.
    pub async fn post(&mut self, url: &str, form: &[(&str, &str)]) -> Result<Page, BrowserError> {
        self.follow(url, Some(form), None).await
    }

    /// Sends a form and follows where it leads, but stops before it asks for a URL that begins with `stop`.
    pub async fn post_until(
        &mut self,
        url: &str,
        form: &[(&str, &str)],
        stop: &str,
    ) -> Result<Page, BrowserError> {
        self.follow(url, Some(form), Some(stop)).await
    }

    /// The cookies that would be sent to a URL.
    pub fn cookies(&self, url: &str) -> Vec<Cookie> {
        Url::parse(url).map(|url| self.jar.for_url(&url, SystemClock.now())).unwrap_or_default()
    }

    /// Forgets every cookie.
    pub fn clear(&mut self) {
        self.jar = Jar::default();
    }

    async fn follow(
        &mut self,
        url: &str,
        form: Option<&[(&str, &str)]>,
        stop: Option<&str>,
    ) -> Result<Page, BrowserError> {
        let mut url = Url::parse(url).map_err(|_| BrowserError::Url(url.to_owned()))?;
        let mut form =
            form.map(|form| form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish());
        let mut visited = Vec::new();
        while visited.len() <= MAX_REDIRECTS {
            let page = self.ask(&url, form.as_deref()).await?;
            let Some(next) = target(&page) else { return Ok(Page { visited, ..page }) };
            let next = next?;
            let keeps_method = matches!(page.status.map(|status| status.as_u16()), Some(307 | 308));
            form = form.filter(|_| keeps_method);
            match stop {
                Some("") => return Ok(Page { visited, ..page }),
                Some(stop) if next.as_str().starts_with(stop) => {
                    visited.push(url);
                    let (headers, body) = (HeaderMap::new(), String::new());
                    return Ok(Page { status: None, headers, body, url: next, visited });
                }
                _ => visited.push(std::mem::replace(&mut url, next)),
            }
        }
        Err(BrowserError::Redirects)
    }

    async fn ask(&mut self, url: &Url, form: Option<&str>) -> Result<Page, BrowserError> {
        if !is_loopback(url) {
            return Err(BrowserError::Url(url.to_string()));
        }
        let answer = tokio::time::timeout(PATIENCE, async {
            let client: Client<HttpConnector, Full<Bytes>> =
                Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
            let (head, body) = client.request(self.request(url, form)?).await.map_err(server)?.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await.map_err(BrowserError::Server)?;
            Ok::<_, BrowserError>((head, body.to_bytes()))
        });
        let (head, body) = answer.await.map_err(|_| BrowserError::Patience)??;
        for cookie in head.headers.get_all(SET_COOKIE) {
            self.jar.keep(url, &String::from_utf8_lossy(cookie.as_bytes()), SystemClock.now());
        }
        Ok(Page {
            status: Some(head.status),
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
            url: url.clone(),
            visited: Vec::new(),
        })
    }

    fn request(&self, url: &Url, form: Option<&str>) -> Result<Request<Full<Bytes>>, BrowserError> {
        let mut bare = url.clone();
        bare.set_fragment(None);
        let mut request = Request::new(Full::from(form.unwrap_or_default().to_owned()));
        *request.uri_mut() = bare.as_str().parse().map_err(|_| BrowserError::Url(url.to_string()))?;
        *request.headers_mut() = self.headers.clone();
        let cookies = self.jar.for_url(url, SystemClock.now());
        let cookies: Vec<_> =
            cookies.iter().map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        if let (false, Ok(cookies)) = (cookies.is_empty(), cookies.join("; ").parse()) {
            request.headers_mut().insert(COOKIE, cookies);
        }
        if form.is_some() {
            *request.method_mut() = Method::POST;
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers_mut().insert(CONTENT_TYPE, kind);
        }
        Ok(request)
    }
}

/// Where an answer sends the browser.
fn target(page: &Page) -> Option<Result<Url, BrowserError>> {
    let redirects = matches!(page.status?.as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = page.headers.get(LOCATION).filter(|_| redirects)?;
    let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
    Some(page.url.join(&location).map_err(|_| BrowserError::Url(location)))
}

fn is_loopback(url: &Url) -> bool {
    let here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    here && url.scheme() == "http"
}

fn server(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BrowserError {
    BrowserError::Server(error.into())
}

#[cfg(test)]
mod tests;
