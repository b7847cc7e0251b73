use keyholder_catalog::TestedAccount;
use keyholder_domain::{Account, Connection, ConnectionId, ConnectionState, LastTest, TestClass, Text};
use keyholder_store::StoredConnection;
use keyholder_upstream::Tested;
use keyholder_vault::{Credential, ExposeSecret, OpenError, Sealed};

use crate::{Broker, BrokerError, Caller};

/// How long to wait before the same connection is tested again, in seconds.
const PAUSE: f64 = 10.0;

impl Broker {
    /// Tries a connection's credential at its provider, and keeps how it went. No database connection is held while
    /// the provider is asked.
    pub async fn test_connection(
        &self,
        caller: &Caller<'_>,
        id: ConnectionId,
    ) -> Result<Connection, BrokerError> {
        let stored = self.store().connection(caller.organization_id, id).await?;
        let stored = stored.ok_or(BrokerError::ConnectionNotFound)?;
        match stored.connection.state {
            ConnectionState::Active
            | ConnectionState::Disabled
            | ConnectionState::ReauthorizationRequired => {}
            ConnectionState::Pending => return Err(BrokerError::ConnectionPending),
            ConnectionState::Deleted => return Err(BrokerError::ConnectionDeleted),
        }
        let tested = self.try_credential(caller, &stored).await?;
        self.keep(caller, &stored, &tested).await
    }

    async fn try_credential(
        &self,
        caller: &Caller<'_>,
        stored: &StoredConnection,
    ) -> Result<Tested, BrokerError> {
        let connection = &stored.connection;
        let provider = self.provider(caller, &connection.provider_id)?;
        let method = provider.method(connection.auth_method).ok_or(BrokerError::TestNotAvailable)?;
        let test = method.test.as_ref().ok_or(BrokerError::TestNotAvailable)?;
        let credential = self.open_stored(stored).await?;
        let field = |name: &str| credential.get(name).map(ExposeSecret::expose_secret);
        let config = |name: &str| connection.config.get(name).map(String::as_str);
        let request = match method.render_test(provider, &field, &config) {
            Ok(Some(request)) => request,
            Ok(None) | Err(_) => return Err(BrokerError::TestNotAvailable),
        };
        if !self.store().claim_test(caller.organization_id, connection.id, PAUSE).await? {
            return Err(BrokerError::RateLimited);
        }
        Ok(self.0.upstream.test(test, request).await)
    }

    async fn open_stored(&self, stored: &StoredConnection) -> Result<Credential, BrokerError> {
        let connection_id = stored.connection.id;
        let unreadable = |source| BrokerError::CredentialUnreadable { connection_id, source };
        let sealed = stored.sealed.as_ref().ok_or(unreadable(OpenError::Malformed))?;
        let sealed = Sealed::parse(&sealed.credential).map_err(unreadable)?;
        let data_key = self.store().data_key(&stored.connection.organization_id, sealed.key_id()).await?;
        self.open(stored, data_key.as_ref()).map_err(unreadable)
    }

    /// Keeps how a test went, unless the credential is another one by now.
    async fn keep(
        &self,
        caller: &Caller<'_>,
        tested: &StoredConnection,
        result: &Tested,
    ) -> Result<Connection, BrokerError> {
        let last_test = LastTest {
            time: self.now(),
            class: result.class,
            http_status: result.http_status,
            summary: summary(result),
        };
        let mut change = self.store().change(caller.organization_id).await?;
        let mut current =
            change.stored_connection(tested.connection.id).await?.ok_or(BrokerError::ConnectionNotFound)?;
        let mut account = learned(&current.connection.account, result.account.as_ref());
        if account.id != current.connection.account.id {
            let known = Connection { account: account.clone(), ..current.connection.clone() };
            if change.same_account(&known, "").await?.is_some() {
                // The owner has connected this account once more under another key: both stay, one nameless.
                account.id = Text::default();
            }
        }
        if !change.record_test(tested, &last_test, &account).await? {
            return Err(BrokerError::Contended);
        }
        current.connection.account = account;
        current.connection.last_test = Some(last_test);
        self.record_test(caller, &mut change, &current.connection, result.class).await?;
        change.commit().await?;
        Ok(current.connection)
    }
}

/// What is known of the account after a test: what was known before stays.
fn learned(known: &Account, told: Option<&TestedAccount>) -> Account {
    let Some(told) = told else { return known.clone() };
    let id = text(told.id.as_deref());
    if !known.id.is_empty() && !id.is_empty() && known.id != id {
        return known.clone();
    }
    let or = |known: &Text, told: Option<&str>| if known.is_empty() { text(told) } else { known.clone() };
    Account {
        id: or(&known.id, told.id.as_deref()),
        name: or(&known.name, told.name.as_deref()),
        email: or(&known.email, told.email.as_deref()),
    }
}

fn text(told: Option<&str>) -> Text {
    told.and_then(|told| Text::parse(told).ok()).unwrap_or_default()
}

/// One sentence of ours.
fn summary(result: &Tested) -> Text {
    let sentence = match (result.class, result.failure) {
        (_, Some(failure)) => format!("The provider could not be asked: {failure}."),
        (TestClass::Good, None) => "The provider takes the credential.".to_owned(),
        (TestClass::Dead, None) => {
            "The provider says that the credential is wrong, revoked or expired.".to_owned()
        }
        (TestClass::Forbidden, None) => {
            "The provider knows the credential, and does not let it do what the test asks for.".to_owned()
        }
        (TestClass::Limited, None) => "The provider asks to slow down.".to_owned(),
        (TestClass::Unavailable, None) => "The provider does not work at present.".to_owned(),
        (TestClass::Unclear | TestClass::Refused, None) => {
            "The provider's answer says nothing about the credential.".to_owned()
        }
    };
    Text::parse(&sentence).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_never_renames_an_account_that_is_known() {
        let known = Account { id: Text::parse("1").unwrap(), ..Account::default() };
        assert_eq!(learned(&known, None), known);
        assert_eq!(learned(&Account::default(), None), Account::default());
    }
}
