//! The provider's whole state, and which endpoint answers what.

use std::collections::BTreeMap;

use keyholder_domain::Timestamp;

use super::ask::Ask;
use super::authorize::Wish;
use super::book::Book;
use super::client::Client;
use super::device::Device;
use super::history::{Endpoint, Outcome, Refreshed};
use super::manners::Manners;
use super::reply::Reply;

#[derive(Default)]
pub(super) struct Desk {
    pub(super) issuer: String,
    pub(super) manners: Manners,
    pub(super) clients: Vec<Client>,
    pub(super) book: Book,
    /// Requests that wait for a person, by the secret of their page.
    pub(super) wishes: BTreeMap<String, Wish>,
    /// By device code.
    pub(super) devices: BTreeMap<String, Device>,
    /// The last second in which a client called, and its calls in it, by client.
    pub(super) windows: BTreeMap<String, (i64, u32)>,
}

impl Desk {
    pub(super) fn answer(&mut self, ask: &Ask, now: Timestamp) -> Reply {
        match ask.endpoint {
            Endpoint::Authorize if ask.method == http::Method::POST => self.decide_page(ask, now),
            Endpoint::Authorize => self.authorize(ask, now),
            Endpoint::Token => self.token(ask, now),
            Endpoint::DeviceAuthorization => self.authorize_device(ask, now),
            Endpoint::Device => self.device_page(ask),
            Endpoint::Revoke => self.revoke(ask),
            Endpoint::UserInfo => self.user_info(ask, now),
            Endpoint::Exchange => self.long_lived(ask, false, now),
            Endpoint::RefreshLongLived => self.long_lived(ask, true, now),
            Endpoint::Installation => self.installation(ask, now),
            Endpoint::Metadata => self.metadata(),
            Endpoint::Other => Reply::page(404, "<h1>Demo provider</h1>\n<p>There is nothing here.</p>"),
        }
    }

    pub(super) fn client(&self, id: Option<&str>) -> Option<&Client> {
        self.clients.iter().find(|client| Some(client.id.as_str()) == id)
    }

    /// The id of the code or token that a request presents.
    pub(super) fn presented(&self, ask: &Ask) -> Option<String> {
        let parameters = ["code", "refresh_token", "device_code", "token", "access_token"];
        let presented = parameters.into_iter().find_map(|name| ask.get(name));
        let bearer = || ask.authorization("Bearer").filter(|_| ask.endpoint == Endpoint::UserInfo);
        let text = presented.or_else(bearer)?;
        if self.devices.contains_key(text) {
            return text.split_once('.').map(|(id, _)| id.to_owned());
        }
        Some(self.book.id_of(text))
    }

    /// The refresh that the call with a number asks for, on its arrival.
    pub(super) fn refreshed(&self, ask: &Ask, number: u64, now: Timestamp) -> Option<Refreshed> {
        let text = ask.get("refresh_token").filter(|_| ask.endpoint == Endpoint::Token)?;
        Some(Refreshed {
            number,
            at: now,
            answered: None,
            grant: self.book.grant_of_refresh(text)?,
            presented: self.book.id_of(text),
            superseded: self.book.superseded(text),
            outcome: Outcome::Nothing,
        })
    }
}
