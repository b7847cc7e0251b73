use http::{HeaderName, HeaderValue, Method, header};
use keyholder_catalog::Template;
use keyholder_catalog::oauth2::{Assertion, Endpoint, JwtAlgorithm, RefreshWith, RequestFormat};
use keyholder_domain::{Scopes, Timestamp};
use keyholder_egress::{Request, Response, Target};
use keyholder_vault::{Credential, ExposeSecret as _, SecretString, SigningAlgorithm, SigningKey};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::client::Proof;
use super::{Server, TokenAnswer, TokenFault};
use crate::Upstream;
use crate::test::ENCODED;

/// How long an assertion is good. Servers take up to ten minutes or an hour; clocks differ by less than this.
const ASSERTION_SECONDS: i64 = 300;

/// What tokens are asked for with.
#[derive(Debug)]
pub enum TokenRequest<'a> {
    /// A code that a browser brought (RFC 6749, section 4.1.3).
    Code {
        /// The code.
        code: &'a SecretString,
        /// Where the browser was sent back to.
        redirect_uri: &'a str,
        /// The verifier of the challenge (RFC 7636), which is sent if and only if a challenge was.
        verifier: &'a SecretString,
    },
    /// A device code (RFC 8628, section 3.4).
    Device {
        /// The code.
        device_code: &'a SecretString,
    },
    /// A refresh token, or the access token where the recipe says so (RFC 6749, section 6).
    Refresh {
        /// The token.
        token: &'a SecretString,
        /// What was granted: no more is ever asked for.
        scopes: &'a Scopes,
        /// Where the browser was sent back to, for the servers that want to hear it again; empty if no browser was.
        redirect_uri: &'a str,
    },
    /// A short-lived access token, for one that lives longer.
    Exchange {
        /// The token.
        token: &'a SecretString,
    },
    /// The client itself (RFC 6749, section 4.4).
    Client {
        /// What is asked for.
        scopes: &'a Scopes,
    },
    /// An assertion made of what the owner typed in (RFC 7523, section 2.1).
    Assertion {
        /// What the owner typed in.
        fields: &'a Credential,
        /// What is asked for.
        scopes: &'a Scopes,
    },
}

/// A request, before it is put on the wire.
struct Draft<'a> {
    url: Zeroizing<String>,
    format: RequestFormat,
    /// By their standard names.
    parameters: Vec<(String, SecretString)>,
    headers: &'a [(String, Template)],
    /// An `Authorization` header that takes the place of the client's proof.
    authorization: Option<SecretString>,
}

impl Upstream {
    /// Asks for tokens, and returns the answer as it came: make it durable, then [`Server::read`] it.
    ///
    /// Sends a request once. Only where the server did not take the client, and so looked at nothing else, is it
    /// sent again with the client's other secret.
    pub async fn ask_for_tokens(
        &self,
        server: &Server<'_>,
        request: &TokenRequest<'_>,
        now: Timestamp,
    ) -> Result<TokenAnswer, TokenFault> {
        let proofs = server.proofs();
        for number in 0..proofs {
            let draft = server.draft(request, now)?;
            // An assertion may say by itself who asks; then there is no client to prove.
            let nobody = draft.authorization.is_some() || server.client.id.is_empty();
            let proof = if nobody { None } else { Some(server.proof(number, now)?) };
            let answer = self.post(server, draft, proof, now).await?;
            let refused = matches!(server.read(&answer, None, now), Err(TokenFault::Client));
            if number + 1 == proofs || !refused {
                return Ok(answer);
            }
            tracing::info!(provider_id = %server.provider.id, "the newest client secret is not taken; trying the one before it");
        }
        Err(TokenFault::Unrenderable("the client has no proof"))
    }

    async fn post(
        &self,
        server: &Server<'_>,
        draft: Draft<'_>,
        proof: Option<Proof>,
        now: Timestamp,
    ) -> Result<TokenAnswer, TokenFault> {
        let mut parameters = draft.parameters;
        let mut authorization = draft.authorization;
        if let Some(proof) = proof {
            authorization = authorization.or(proof.header);
            parameters.extend(proof.parameters.into_iter().map(|(name, value)| (name.to_owned(), value)));
        }
        for (name, _) in &mut parameters {
            *name = server.recipe.name(name).to_owned();
        }
        let mut request = self.parametrised(&draft.url, draft.format, &parameters)?;
        request = request
            .header(header::ACCEPT, HeaderValue::from_static("application/json"))
            .header(header::USER_AGENT, HeaderValue::from_static("keyholder"));
        for (name, template) in draft.headers {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| TokenFault::Unrenderable("a header has no valid name"))?;
            let value = HeaderValue::from_str(&server.text(template)?)
                .map_err(|_| TokenFault::Unrenderable("a header has no valid value"))?;
            request = request.header(name, value);
        }
        if let Some(value) = authorization {
            let value = Zeroizing::new(value.expose_secret().as_bytes().to_vec());
            request = request.secret_header(header::AUTHORIZATION, value)?;
        }
        self.send(request.patient(), now).await
    }

    /// A request with parameters where their format wants them.
    pub(super) fn parametrised(
        &self,
        url: &str,
        format: RequestFormat,
        parameters: &[(String, SecretString)],
    ) -> Result<Request, TokenFault> {
        let rules = self.egress.rules();
        let target = |url: &str| Target::parse(url, rules).map_err(keyholder_egress::EgressError::from);
        let request = match format {
            RequestFormat::Form => {
                let mut body = Zeroizing::new(Vec::with_capacity(encoded_len(parameters)));
                push_pairs(&mut body, parameters);
                Request::new(Method::POST, target(url)?)
                    .header(
                        header::CONTENT_TYPE,
                        HeaderValue::from_static("application/x-www-form-urlencoded"),
                    )
                    .body(body)
            }
            RequestFormat::Json => {
                let object: Map<String, Value> = parameters
                    .iter()
                    .map(|(name, value)| (name.clone(), value.expose_secret().into()))
                    .collect();
                let body = serde_json::to_vec(&object).unwrap_or_default();
                Request::new(Method::POST, target(url)?)
                    .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
                    .body(Zeroizing::new(body))
            }
            RequestFormat::Query => {
                let mut query = Zeroizing::new(Vec::with_capacity(url.len() + 1 + encoded_len(parameters)));
                query.extend_from_slice(url.as_bytes());
                query.push(b'?');
                push_pairs(&mut query, parameters);
                let url =
                    str::from_utf8(&query).map_err(|_| TokenFault::Unrenderable("the query is no text"))?;
                Request::new(Method::GET, target(url)?)
            }
        };
        Ok(request)
    }

    /// Sends a request, and counts it if it does not come to an answer.
    pub(super) async fn send(&self, request: Request, now: Timestamp) -> Result<TokenAnswer, TokenFault> {
        let answer = self.egress.send(request).await;
        if let Err(error) = &answer {
            self.count(error.reason());
        }
        Ok(TokenAnswer::of(&answer?, now))
    }
}

impl<'a> Server<'a> {
    fn draft(&self, request: &TokenRequest<'_>, now: Timestamp) -> Result<Draft<'a>, TokenFault> {
        let recipe = self.recipe;
        match request {
            TokenRequest::Code { code, redirect_uri, verifier } => {
                let mut draft = self.to(&recipe.token, "authorization_code")?;
                draft.push("code", (*code).clone());
                draft.push("redirect_uri", (*redirect_uri).into());
                if recipe.authorize.as_ref().is_some_and(|authorize| authorize.pkce) {
                    draft.push("code_verifier", (*verifier).clone());
                }
                Ok(draft)
            }
            TokenRequest::Device { device_code } => {
                let mut draft = self.to(&recipe.token, "urn:ietf:params:oauth:grant-type:device_code")?;
                draft.push("device_code", (*device_code).clone());
                Ok(draft)
            }
            TokenRequest::Refresh { token, scopes, redirect_uri } => {
                let mut draft = self.to(&recipe.refresh.endpoint, "refresh_token")?;
                match recipe.refresh.with {
                    RefreshWith::RefreshToken => draft.push("refresh_token", (*token).clone()),
                    RefreshWith::AccessToken => draft.push("access_token", (*token).clone()),
                }
                if recipe.refresh.sends_scope && !scopes.is_empty() {
                    draft.push("scope", self.joined(scopes).into());
                }
                if recipe.refresh.sends_redirect_uri && !redirect_uri.is_empty() {
                    draft.push("redirect_uri", (*redirect_uri).into());
                }
                Ok(draft)
            }
            TokenRequest::Exchange { token } => {
                let exchange =
                    recipe.exchange.as_ref().ok_or(TokenFault::Unrenderable("there is no exchange"))?;
                let mut draft = self.to(&exchange.endpoint, "")?;
                draft.push(&exchange.token_name, (*token).clone());
                Ok(draft)
            }
            TokenRequest::Client { scopes } => {
                let mut draft = self.to(&recipe.token, "client_credentials")?;
                if !scopes.is_empty() {
                    draft.push("scope", self.joined(scopes).into());
                }
                Ok(draft)
            }
            TokenRequest::Assertion { fields, scopes } => self.assertion(fields, scopes, now),
        }
    }

    fn assertion(
        &self,
        fields: &Credential,
        scopes: &Scopes,
        now: Timestamp,
    ) -> Result<Draft<'a>, TokenFault> {
        let recipe =
            self.recipe.assertion.as_ref().ok_or(TokenFault::Unrenderable("there is no assertion"))?;
        let token = self.signed(recipe, fields, scopes, now)?;
        let url = match &recipe.url {
            Some(url) => self.url_with(url, fields)?,
            None => self.url(&self.recipe.token.url)?,
        };
        if recipe.as_bearer {
            let bearer = SecretString::from(format!("Bearer {}", token.expose_secret()));
            return Ok(Draft {
                url,
                format: RequestFormat::Form,
                parameters: Vec::new(),
                headers: &self.recipe.token_headers,
                authorization: Some(bearer),
            });
        }
        let mut draft = self.to(&self.recipe.token, "urn:ietf:params:oauth:grant-type:jwt-bearer")?;
        draft.url = url;
        draft.push("assertion", token);
        Ok(draft)
    }

    fn signed(
        &self,
        recipe: &Assertion,
        fields: &Credential,
        scopes: &Scopes,
        now: Timestamp,
    ) -> Result<SecretString, TokenFault> {
        let algorithm = match recipe.algorithm {
            JwtAlgorithm::Rs256 => SigningAlgorithm::Rs256,
            JwtAlgorithm::Es256 => SigningAlgorithm::Es256,
        };
        let pem = fields.get(&recipe.key).ok_or(TokenFault::Unrenderable("there is no private key"))?;
        let key = SigningKey::from_pem(algorithm, pem)
            .map_err(|_| TokenFault::Unrenderable("the private key cannot sign"))?;
        let text = |template: &Template| self.text_with(template, fields);
        let mut header = json!({ "alg": algorithm.as_str(), "typ": "JWT" });
        if let Some(id) = recipe.key_id.as_ref().map(text).transpose()?.flatten() {
            header["kid"] = id.as_str().into();
        }
        // A minute back: a server whose clock is late refuses what is from the future.
        let seconds = now.unix_timestamp() - 60;
        let mut claims = json!({ "iat": seconds, "exp": seconds + 60 + ASSERTION_SECONDS });
        let named = [
            ("iss", Some(&recipe.issuer)),
            ("sub", recipe.subject.as_ref()),
            ("aud", recipe.audience.as_ref()),
        ];
        for (claim, template) in named {
            if let Some(value) = template.map(text).transpose()?.flatten() {
                claims[claim] = value.as_str().into();
            }
        }
        if recipe.scope && !scopes.is_empty() {
            claims["scope"] = self.joined(scopes).into();
        }
        Ok(key.sign(&header.to_string(), &claims.to_string()))
    }

    fn to(&self, endpoint: &Endpoint, grant_type: &str) -> Result<Draft<'a>, TokenFault> {
        let own = self.parameters(&endpoint.parameters)?;
        let mut parameters: Vec<(String, SecretString)> = Vec::with_capacity(own.len() + 4);
        if !grant_type.is_empty() && !own.iter().any(|(name, _)| name == "grant_type") {
            parameters.push(("grant_type".to_owned(), grant_type.into()));
        }
        parameters.extend(own.into_iter().map(|(name, value)| (name, value.into())));
        Ok(Draft {
            url: self.url(&endpoint.url)?,
            format: endpoint.format,
            parameters,
            headers: &self.recipe.token_headers,
            authorization: None,
        })
    }

    /// The URL of an endpoint.
    pub(super) fn url(&self, template: &Template) -> Result<Zeroizing<String>, TokenFault> {
        self.provider
            .render_url(template, &|_| None, &self.setting())
            .map_err(|_| TokenFault::Unrenderable("an endpoint's URL cannot be made"))
    }

    fn url_with(&self, template: &Template, fields: &Credential) -> Result<Zeroizing<String>, TokenFault> {
        let field = |name: &str| fields.get(name).map(keyholder_vault::ExposeSecret::expose_secret);
        self.provider
            .render_url(template, &field, &self.setting())
            .map_err(|_| TokenFault::Unrenderable("an endpoint's URL cannot be made"))
    }

    /// A text of the recipe.
    pub(super) fn text(&self, template: &Template) -> Result<String, TokenFault> {
        let text = self.provider.render_text(template, &|_| None, &self.setting());
        match text {
            Ok(Some(text)) => Ok(text.to_string()),
            Ok(None) | Err(_) => Err(TokenFault::Unrenderable("a parameter cannot be made")),
        }
    }

    fn text_with(
        &self,
        template: &Template,
        fields: &Credential,
    ) -> Result<Option<Zeroizing<String>>, TokenFault> {
        let field = |name: &str| fields.get(name).map(keyholder_vault::ExposeSecret::expose_secret);
        self.provider
            .render_text(template, &field, &self.setting())
            .map_err(|_| TokenFault::Unrenderable("a part of the assertion cannot be made"))
    }

    /// The further parameters of an endpoint; one whose optional setting is not given is left out.
    pub(super) fn parameters(
        &self,
        parameters: &[(String, Template)],
    ) -> Result<Vec<(String, String)>, TokenFault> {
        let mut rendered = Vec::with_capacity(parameters.len());
        for (name, template) in parameters {
            let text = self
                .provider
                .render_text(template, &|_| None, &self.setting())
                .map_err(|_| TokenFault::Unrenderable("a parameter cannot be made"))?;
            rendered.extend(text.map(|text| (name.clone(), text.to_string())));
        }
        Ok(rendered)
    }
}

impl Draft<'_> {
    fn push(&mut self, name: &str, value: SecretString) {
        self.parameters.push((name.to_owned(), value));
    }
}

impl TokenAnswer {
    fn of(response: &Response, now: Timestamp) -> Self {
        let header = |name| response.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let content_type = header(header::CONTENT_TYPE).unwrap_or_default();
        let retry_after = header(header::RETRY_AFTER).and_then(|text| super::answer::retry_after(text, now));
        Self {
            status: response.status.as_u16(),
            content_type: content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase(),
            retry_after,
            body: Zeroizing::new(response.body.to_vec()),
        }
    }
}

fn encoded_len(parameters: &[(String, SecretString)]) -> usize {
    parameters.iter().map(|(name, value)| 3 * (name.len() + value.expose_secret().len()) + 2).sum()
}

/// Pushes parameters in form encoding, without ever growing the buffer. A space becomes `%20`, which every reader of
/// forms understands.
fn push_pairs(out: &mut Vec<u8>, parameters: &[(String, SecretString)]) {
    for (number, (name, value)) in parameters.iter().enumerate() {
        if number > 0 {
            out.push(b'&');
        }
        for piece in percent_encoding::utf8_percent_encode(name, ENCODED) {
            out.extend_from_slice(piece.as_bytes());
        }
        out.push(b'=');
        for piece in percent_encoding::utf8_percent_encode(value.expose_secret(), ENCODED) {
            out.extend_from_slice(piece.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
