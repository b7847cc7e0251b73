//! How many browsers are let in at once. One address that takes every place it can get leaves half of them to others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many connections are open at once.
const CONNECTIONS: usize = 1_024;

/// How many of them from one address: a proxy in front of us is one address too.
const CONNECTIONS_OF_ONE: usize = CONNECTIONS / 2;

/// The places.
#[derive(Default)]
pub(super) struct Room(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    all: usize,
    each: HashMap<IpAddr, usize>,
}

/// A place, until it is dropped.
pub(super) struct Seat {
    room: Arc<Room>,
    address: IpAddr,
}

impl Room {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A place for a connection from an address, if there is one.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let address = who(address);
        let mut taken = self.lock();
        let of_one = taken.each.get(&address).copied().unwrap_or(0);
        if taken.all >= CONNECTIONS || of_one >= CONNECTIONS_OF_ONE {
            return None;
        }
        taken.all += 1;
        taken.each.insert(address, of_one + 1);
        Some(Seat { room: Arc::clone(self), address })
    }

    /// A panic while a number grows leaves nothing half-done.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.room.lock();
        taken.all -= 1;
        if let Some(of_one) = taken.each.get_mut(&self.address) {
            *of_one -= 1;
            if *of_one == 0 {
                taken.each.remove(&self.address);
            }
        }
    }
}

/// Whoever has one address of a /64 of IPv6 has all of it.
fn who(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_leaves_half_of_the_places_to_others() {
        let room = Room::new();
        let enter = |text: &str| room.enter(address(text));
        let mut seats: Vec<Seat> = (0..CONNECTIONS_OF_ONE).map(|_| enter("192.0.2.1").unwrap()).collect();
        assert!(enter("192.0.2.1").is_none() && enter("::ffff:192.0.2.1").is_none());
        seats.extend((0..CONNECTIONS_OF_ONE).map(|_| enter("2001:db8::1").unwrap()));
        assert!(enter("2001:db8::ffff").is_none() && enter("198.51.100.1").is_none());
        seats.pop();
        drop(enter("198.51.100.1").unwrap());
        seats.clear();
        assert!(room.lock().all == 0 && room.lock().each.is_empty(), "nothing is remembered");
        assert!(enter("192.0.2.1").is_some());
    }
}
