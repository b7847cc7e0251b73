use keyholder_catalog::Injection;
use keyholder_domain::AuthMethod;
use keyholder_vault::{Credential, ExposeSecret, OpenError};

use super::{Chosen, ReleasedCredential};
use crate::connections::setting;
use crate::oauth::ACCESS_TOKEN;

/// The credential in the shape of its auth method, and as it goes on a request.
pub(super) fn render(
    chosen: &Chosen<'_>,
    credential: &Credential,
) -> Result<(ReleasedCredential, Injection), OpenError> {
    let field = |name: &str| credential.get(name).map(ExposeSecret::expose_secret);
    let config = |name: &str| setting(&chosen.candidate.stored.connection, name);
    let http =
        chosen.method.render(chosen.provider, &field, &config).map_err(|_| OpenError::UnexpectedContent)?;
    let basic = chosen
        .method
        .render_basic(chosen.provider, &field, &config)
        .map_err(|_| OpenError::UnexpectedContent)?;
    let fields =
        || credential.names().filter_map(|name| Some((name.to_owned(), credential.get(name)?.clone())));
    let secret = chosen.method.secret_field().map(|field| field.name.as_str());
    let main = || secret.and_then(|name| credential.get(name)).cloned().ok_or(OpenError::UnexpectedContent);
    let released = match chosen.method.method {
        AuthMethod::ApiKey => ReleasedCredential::ApiKey {
            api_key: main()?,
            other_fields: fields().filter(|(name, _)| Some(name.as_str()) != secret).collect(),
        },
        AuthMethod::Bearer => ReleasedCredential::Bearer { token: main()? },
        AuthMethod::Basic => {
            let (username, password) = basic.ok_or(OpenError::UnexpectedContent)?;
            ReleasedCredential::Basic {
                username: username.as_str().into(),
                password: password.as_str().into(),
            }
        }
        AuthMethod::Custom => ReleasedCredential::Custom { fields: fields().collect() },
        AuthMethod::OAuth2Code
        | AuthMethod::OAuth2Device
        | AuthMethod::OAuth2ClientCredentials
        | AuthMethod::JwtBearer => ReleasedCredential::OAuth2 {
            access_token: credential.get(ACCESS_TOKEN).cloned().ok_or(OpenError::UnexpectedContent)?,
        },
    };
    Ok((released, http))
}
