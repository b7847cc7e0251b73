use http::{HeaderName, HeaderValue, Method, header};
use keyholder_catalog::{HttpMethod, Test, TestRequest, TestedAccount};
use keyholder_domain::TestClass;
use keyholder_egress::{EgressError, Request, Response, Target};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use crate::{Upstream, log_refused};

/// What is unreserved in a URL (RFC 3986, section 2.3) stays; everything else is encoded.
pub(crate) const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What came of a test.
#[derive(Debug)]
pub struct Tested {
    /// What it says about the credential.
    pub class: TestClass,
    /// The answer's status, if there was an answer.
    pub http_status: Option<u16>,
    /// Whose the credential is, as far as the provider tells.
    pub account: Option<TestedAccount>,
    /// Why there was no answer.
    pub failure: Option<EgressError>,
}

impl Upstream {
    /// Tries a credential: sends the request that its definition says proves it, once, and judges the answer.
    pub async fn test(&self, test: &Test, request: TestRequest) -> Tested {
        match self.ask(request).await {
            Ok(response) => {
                let status = response.status.as_u16();
                let outcome = test.judge(status, &response.body);
                Tested {
                    class: outcome.class,
                    http_status: Some(status),
                    account: outcome.account,
                    failure: None,
                }
            }
            Err(error) => {
                self.count(error.reason());
                let class = match error {
                    EgressError::Refused(_) if !error.is_retryable() => TestClass::Refused,
                    _ => TestClass::Unavailable,
                };
                Tested { class, http_status: None, account: None, failure: Some(error) }
            }
        }
    }

    async fn ask(&self, request: TestRequest) -> Result<Response, EgressError> {
        let url = with_query(request.url, &request.injection.query_parameters);
        let target = Target::parse(&url, self.egress.rules())
            .inspect_err(|refusal| log_refused(&url, refusal.reason()))?;
        let method = match request.http_method {
            HttpMethod::Get => Method::GET,
            HttpMethod::Head => Method::HEAD,
            HttpMethod::Post => Method::POST,
        };
        let mut call = Request::new(method, target)
            .header(header::ACCEPT, HeaderValue::from_static("application/json"))
            .header(header::USER_AGENT, HeaderValue::from_static("keyholder"));
        for (name, value) in request.injection.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| EgressError::Request)?;
            call = call.secret_header(name, bytes(&value))?;
        }
        if let Some(cookies) = cookies(&request.injection.cookies) {
            call = call.secret_header(header::COOKIE, cookies)?;
        }
        if let Some(body) = request.body {
            call = call.body(Zeroizing::new(body.into_bytes()));
        }
        self.egress.send(call).await
    }
}

/// The URL with the credential's query parameters behind its own.
fn with_query(url: Zeroizing<String>, parameters: &[(String, Zeroizing<String>)]) -> Zeroizing<String> {
    let mut url = url;
    for (name, value) in parameters {
        let separator = if url.contains('?') { '&' } else { '?' };
        let pair = Zeroizing::new(format!(
            "{separator}{}={}",
            utf8_percent_encode(name, ENCODED),
            utf8_percent_encode(value, ENCODED)
        ));
        url = Zeroizing::new([url.as_str(), pair.as_str()].concat());
    }
    url
}

/// The `Cookie` header (RFC 6265, section 5.4).
fn cookies(cookies: &[(String, Zeroizing<String>)]) -> Option<Zeroizing<Vec<u8>>> {
    let pairs: Vec<Zeroizing<String>> =
        cookies.iter().map(|(name, value)| Zeroizing::new(format!("{name}={}", value.as_str()))).collect();
    let texts: Vec<&str> = pairs.iter().map(|pair| pair.as_str()).collect();
    (!texts.is_empty()).then(|| Zeroizing::new(texts.join("; ").into_bytes()))
}

fn bytes(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    #[test]
    fn a_query_parameter_cannot_become_two() {
        let parameters = [("key".to_owned(), secret("a&b=c#d e")), ("k 2".to_owned(), secret("x"))];
        let url = with_query(secret("https://api.example.com/me"), &parameters);
        assert_eq!(url.as_str(), "https://api.example.com/me?key=a%26b%3Dc%23d%20e&k%202=x");
        let url = with_query(secret("https://api.example.com/me?v=1"), &parameters[1..]);
        assert_eq!(url.as_str(), "https://api.example.com/me?v=1&k%202=x");
    }

    #[test]
    fn cookies_go_into_one_header() {
        assert_eq!(cookies(&[]), None);
        let two = [("a".to_owned(), secret("1")), ("b".to_owned(), secret("2"))];
        assert_eq!(cookies(&two).unwrap().as_slice(), b"a=1; b=2");
    }
}
