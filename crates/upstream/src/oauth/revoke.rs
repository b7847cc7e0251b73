use http::{HeaderValue, Method, header};
use keyholder_catalog::oauth2::{RefreshWith, RequestFormat, Revoke, RevokeAuthentication, RevokeRequest};
use keyholder_domain::Timestamp;
use keyholder_egress::Request;
use keyholder_vault::{Credential, ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::{Server, TokenFault};
use crate::Upstream;

/// What came of giving tokens back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// The provider has taken them back, or does not know them any more.
    Done,
    /// The provider has no way to do so.
    Unsupported,
}

impl Upstream {
    /// Gives tokens back: the refresh token first, then the access token (RFC 7009), or as the recipe says.
    ///
    /// # Errors
    /// The tokens may still be alive: try again later.
    pub async fn revoke(
        &self,
        server: &Server<'_>,
        tokens: &Credential,
        now: Timestamp,
    ) -> Result<Revoked, TokenFault> {
        let Some(recipe) = &server.recipe.revoke else { return Ok(Revoked::Unsupported) };
        let access_token = tokens.get("access_token");
        let given_back = match recipe.token {
            RefreshWith::RefreshToken => vec![tokens.get("refresh_token"), access_token],
            RefreshWith::AccessToken => vec![access_token],
        };
        for token in given_back.into_iter().flatten() {
            self.give_back(server, recipe, (token, access_token), now).await?;
        }
        Ok(Revoked::Done)
    }

    /// Gives one token back; where the server does not take the client's newest secret, with the one before it.
    async fn give_back(
        &self,
        server: &Server<'_>,
        recipe: &Revoke,
        tokens: (&SecretString, Option<&SecretString>),
        now: Timestamp,
    ) -> Result<(), TokenFault> {
        let proofs = match recipe.authentication {
            RevokeAuthentication::Client => server.proofs(),
            RevokeAuthentication::Basic => server.client.secrets.len().max(1),
            RevokeAuthentication::Bearer | RevokeAuthentication::None => 1,
        };
        let mut passing = TokenFault::Passing { retry_after: None };
        for number in 0..proofs {
            let request = self.revocation(server, recipe, tokens, number, now)?;
            let answer = self.send(request, now).await?;
            if recipe.good.contains(&answer.status) {
                return Ok(());
            }
            // 503 and every other answer say that the token may still be alive (RFC 7009, section 2.2.1).
            passing = TokenFault::Passing { retry_after: answer.retry_after };
            let refused =
                answer.status == 401 || server.read(&answer, None, now).err() == Some(TokenFault::Client);
            if !refused {
                break;
            }
        }
        Err(passing)
    }

    fn revocation(
        &self,
        server: &Server<'_>,
        recipe: &Revoke,
        (token, access_token): (&SecretString, Option<&SecretString>),
        number: usize,
        now: Timestamp,
    ) -> Result<Request, TokenFault> {
        let mut parameters: Vec<(String, SecretString)> = server
            .parameters(&recipe.parameters)?
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect();
        parameters.push((recipe.token_name.clone(), token.clone()));
        let authorization = match recipe.authentication {
            RevokeAuthentication::None => None,
            RevokeAuthentication::Basic => Some(server.basic_proof(number)?),
            RevokeAuthentication::Bearer => {
                let token = access_token.unwrap_or(token).expose_secret();
                Some(SecretString::from(format!("Bearer {token}")))
            }
            RevokeAuthentication::Client => {
                let proof = server.proof(number, now)?;
                let proofs = proof.parameters.into_iter();
                parameters.extend(proofs.map(|(name, value)| (server.recipe.name(name).to_owned(), value)));
                proof.header
            }
        };
        let url = server.url(&recipe.url)?;
        let mut request = match recipe.request {
            RevokeRequest::Form => self.parametrised(&url, RequestFormat::Form, &parameters)?,
            RevokeRequest::Json => self.parametrised(&url, RequestFormat::Json, &parameters)?,
            RevokeRequest::DeleteJson => {
                self.parametrised(&url, RequestFormat::Json, &parameters)?.with_method(Method::DELETE)
            }
            RevokeRequest::Delete => {
                self.parametrised(&url, RequestFormat::Form, &[])?.with_method(Method::DELETE)
            }
            RevokeRequest::Query => {
                self.parametrised(&url, RequestFormat::Query, &parameters)?.with_method(Method::POST)
            }
        };
        request = request.header(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(value) = authorization {
            let value = Zeroizing::new(value.expose_secret().as_bytes().to_vec());
            request = request.secret_header(header::AUTHORIZATION, value)?;
        }
        Ok(request)
    }
}
