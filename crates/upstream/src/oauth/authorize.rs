use std::borrow::Cow;

use keyholder_domain::Scopes;
use keyholder_vault::{ExposeSecret as _, SecretString};
use oauth2::{
    AuthUrl, ClientId, CsrfToken, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, basic::BasicClient,
};
use url::Url;

use super::{Server, TokenFault};

/// What an owner is asked to consent to.
#[derive(Debug)]
pub struct Consent<'a> {
    /// Where the server sends the browser back to.
    pub redirect_uri: &'a str,
    /// 256 random bits that come back (RFC 6749, section 10.12).
    pub state: &'a SecretString,
    /// Binds an ID token to this flow (OpenID Connect Core 1.0, section 3.1.2.1).
    pub nonce: &'a SecretString,
    /// What only we know when the code comes (RFC 7636).
    pub verifier: &'a SecretString,
    /// What is asked for.
    pub scopes: &'a Scopes,
}

impl Server<'_> {
    /// The address that a browser is sent to (RFC 6749, section 4.1.1). Always `response_type=code`.
    pub fn authorization_url(&self, consent: &Consent<'_>) -> Result<String, TokenFault> {
        let authorize =
            self.recipe.authorize.as_ref().ok_or(TokenFault::Unrenderable("there is no authorize"))?;
        let endpoint = AuthUrl::new(self.url(&authorize.url)?.to_string())
            .map_err(|_| TokenFault::Unrenderable("the authorization URL is no URL"))?;
        let redirect = RedirectUrl::new(consent.redirect_uri.to_owned())
            .map_err(|_| TokenFault::Unrenderable("the redirect URI is no URL"))?;
        let client = BasicClient::new(ClientId::new(self.client.id.clone())).set_auth_uri(endpoint);
        let state = consent.state.expose_secret().to_owned();
        let mut request =
            client.authorize_url(|| CsrfToken::new(state)).set_redirect_uri(Cow::Owned(redirect));
        if authorize.pkce {
            let verifier = PkceCodeVerifier::new(consent.verifier.expose_secret().to_owned());
            request = request.set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
        }
        let scopes = self.joined(consent.scopes);
        if !scopes.is_empty() {
            request = request.add_extra_param("scope", scopes);
        }
        if self.recipe.account.as_ref().is_some_and(|account| account.in_id_token) {
            request = request.add_extra_param("nonce", consent.nonce.expose_secret().to_owned());
        }
        for (name, value) in self.parameters(&authorize.parameters)? {
            request = request.add_extra_param(name, value);
        }
        let (url, _state) = request.url();
        Ok(self.renamed(url).to_string())
    }

    /// The scopes as the server wants them in one text.
    pub(super) fn joined(&self, scopes: &Scopes) -> String {
        scopes.iter().collect::<Vec<_>>().join(&self.recipe.scope_separator)
    }

    /// The URL with the server's own names for the parameters.
    fn renamed(&self, mut url: Url) -> Url {
        if self.recipe.names.is_empty() {
            return url;
        }
        let pairs: Vec<(String, String)> = url
            .query_pairs()
            .map(|(name, value)| (self.recipe.name(&name).to_owned(), value.into_owned()))
            .collect();
        url.query_pairs_mut().clear().extend_pairs(pairs);
        url
    }
}
