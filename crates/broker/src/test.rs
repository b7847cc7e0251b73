use keyholder_catalog::TestedAccount;
use keyholder_domain::{
    Account, Connection, ConnectionId, ConnectionState, LastTest, TestClass, Text, Timestamp,
};
use keyholder_egress::EgressError;
use keyholder_store::StoredConnection;
use keyholder_upstream::Tested;
use keyholder_vault::{Credential, Envelope, ExposeSecret, OpenError};

use crate::connections::setting;
use crate::{Broker, BrokerError, Caller};

/// How long to wait before the same connection is tested again, in seconds; more than one test takes.
const PAUSE: f64 = 15.0;

/// How many tests of one organization may be under way at once in one process: a share of what the way out takes in all
/// and to one host, so that no organization keeps the others from testing.
pub(crate) const UNDER_WAY: usize = 16;

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
        let provider = self.provider(caller, &stored.connection.provider_id)?;
        let method = provider.method(stored.connection.auth_method).ok_or(BrokerError::TestNotAvailable)?;
        let test = method.test.clone().ok_or(BrokerError::TestNotAvailable)?;
        let credential = self.open_stored(&stored).await?;
        let field = |name: &str| credential.get(name).map(ExposeSecret::expose_secret);
        let config = |name: &str| setting(&stored.connection, name);
        let request = match method.render_test(provider, &field, &config) {
            Ok(Some(request)) => request,
            Ok(None) | Err(_) => return Err(BrokerError::TestNotAvailable),
        };
        let share = self.0.tests.take(caller.organization_id).ok_or(BrokerError::RateLimited)?;
        let claim = self.store().claim_test(caller.organization_id, id, PAUSE).await?;
        let claim = claim.ok_or(BrokerError::RateLimited)?;
        // In a task of its own: once the provider is asked, the answer goes on record, also if the caller is gone.
        let (broker, workload) = (self.clone(), caller.workload.clone());
        let asking = tokio::spawn(async move {
            let tested = broker.0.upstream.test(&test, request).await;
            drop(share);
            if tested.failure == Some(EgressError::Busy) {
                // Nobody was asked, so the next test need not wait.
                broker.store().give_back_test(&stored.connection, claim).await?;
                return Err(BrokerError::RateLimited);
            }
            let caller = Caller {
                workload: &workload,
                organization_id: &stored.connection.organization_id,
                may_use: &|_| true,
            };
            broker.keep(&caller, &stored, claim, &credential, &tested).await
        });
        asking.await.unwrap_or(Err(BrokerError::Contended))
    }

    pub(crate) async fn open_stored(&self, stored: &StoredConnection) -> Result<Credential, BrokerError> {
        let connection_id = stored.connection.id;
        let unreadable = |source| BrokerError::CredentialUnreadable { connection_id, source };
        let sealed = stored.sealed.as_ref().ok_or(unreadable(OpenError::Malformed))?;
        let sealed = Envelope::parse(&sealed.credential).map_err(unreadable)?;
        let data_key = self.store().data_key(&stored.connection.organization_id, sealed.key_id()).await?;
        self.open(stored, &sealed, data_key.as_ref()).map_err(unreadable)
    }

    /// Keeps how a test went, unless the credential is another one by now.
    async fn keep(
        &self,
        caller: &Caller<'_>,
        tested: &StoredConnection,
        claim: Timestamp,
        credential: &Credential,
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
        let told = result.account.as_ref();
        let mut account = learned(&current.connection.account, told, credential);
        if account.id != current.connection.account.id {
            let known = Connection { account: account.clone(), ..current.connection.clone() };
            if change.same_account(&known, "").await?.is_some() {
                // The owner has connected this account once more under another key: both stay, one nameless.
                account.id = Text::default();
            }
        }
        if !change.record_test(tested, claim, &last_test, &account).await? {
            return Err(BrokerError::Contended);
        }
        current.connection.account = account;
        current.connection.last_test = Some(last_test);
        self.record_test(caller, &mut change, &current.connection, result.class).await?;
        change.commit().await?;
        Ok(current.connection)
    }
}

/// What is known of the account after a test: what was known before stays. What holds a part of the credential is
/// an echo, and not learned.
fn learned(known: &Account, told: Option<&TestedAccount>, credential: &Credential) -> Account {
    let Some(told) = told else { return known.clone() };
    let text = |told: &Option<String>| {
        told.as_deref()
            .filter(|told| !echoes(told, credential))
            .and_then(|told| Text::parse(told).ok())
            .unwrap_or_default()
    };
    let id = text(&told.id);
    if !known.id.is_empty() && !id.is_empty() && known.id != id {
        return known.clone();
    }
    let or = |known: &Text, told: Text| if known.is_empty() { told } else { known.clone() };
    Account {
        id: or(&known.id, id),
        name: or(&known.name, text(&told.name)),
        email: or(&known.email, text(&told.email)),
    }
}

fn echoes(told: &str, credential: &Credential) -> bool {
    let values = credential.names().filter_map(|name| credential.get(name));
    values.map(ExposeSecret::expose_secret).any(|value| value.len() >= 6 && told.contains(value))
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
        let credential = Credential::from_fields([("api_key".to_owned(), "sk-secret".into())].into());
        assert_eq!(learned(&known, None, &credential), known);
        assert!(echoes("your key is sk-secret", &credential) && !echoes("Ada", &credential));
    }
}
