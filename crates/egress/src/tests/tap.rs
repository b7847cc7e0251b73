//! A watch on the sockets: every address that is handed to `connect`, in order.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
pub(crate) struct Tap(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    dialled: Vec<SocketAddr>,
    /// Where every socket leads, in place of the address that was dialled.
    leads_to: Option<SocketAddr>,
    /// Whether the peer is said to be who it really is, in place of the address that was dialled.
    honest: bool,
}

impl Tap {
    /// All sockets lead to one server.
    pub(crate) fn leading_to(server: SocketAddr) -> Self {
        let state = State { leads_to: Some(server), ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The same, and the peer's address shows it.
    pub(crate) fn hijacked_to(server: SocketAddr) -> Self {
        let state = State { leads_to: Some(server), honest: true, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn dialled(&self) -> Vec<SocketAddr> {
        self.0.lock().unwrap().dialled.clone()
    }

    pub(crate) fn reroute(&self, address: SocketAddr) -> SocketAddr {
        let mut state = self.0.lock().unwrap();
        state.dialled.push(address);
        state.leads_to.unwrap_or(address)
    }

    pub(crate) fn peer(&self, peer: SocketAddr, dialled: SocketAddr) -> SocketAddr {
        let state = self.0.lock().unwrap();
        if state.leads_to.is_some() && !state.honest { dialled } else { peer }
    }
}
