//! Places for connections: so many in all, and so many for one address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use millstream_env::network;

use crate::Limits;

/// Part of [`Limits::handshakes_max`] that one address may have under way: one that only begins them does not keep others out.
const ADDRESS_SHARE: usize = 4;

/// A listener's places. Cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    taken: Arc<Mutex<Taken>>,
    max: usize,
    per_address_max: usize,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
    /// How many found none.
    refused: u64,
}

/// A place that is taken, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    address: IpAddr,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPlace {
    #[error("there are {0} connections already")]
    Full(usize),
    #[error("its address has {0} connections already")]
    AddressFull(usize),
}

impl Places {
    pub(crate) fn new(limits: &Limits) -> Self {
        let (max, per_address_max) = (limits.connections_max, limits.connections_per_address_max);
        Self { taken: Arc::default(), max, per_address_max }
    }

    /// Places for handshakes, which connections have beside their own until they stand.
    pub(crate) fn for_handshakes(limits: &Limits) -> Self {
        let max = limits.handshakes_max;
        Self { taken: Arc::default(), max, per_address_max: (max / ADDRESS_SHARE).max(1) }
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).all
    }

    /// A place for a connection from `address`. IPv6 hosts own whole networks of 64 bits, which count as one address.
    pub(crate) fn take(&self, address: IpAddr) -> Result<Place, NoPlace> {
        let address = network(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.max {
            taken.refused += 1;
            return Err(NoPlace::Full(self.max));
        }
        let of_address = taken.by_address.entry(address).or_default();
        if *of_address >= self.per_address_max {
            taken.refused += 1;
            return Err(NoPlace::AddressFull(self.per_address_max));
        }
        *of_address += 1;
        taken.all += 1;
        Ok(Place { places: self.clone(), address })
    }

    /// Notes one more that is refused, for another reason than places.
    pub(crate) fn note_refused(&self) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).refused += 1;
    }

    /// How many were refused so far.
    pub(crate) fn refused(&self) -> u64 {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).refused
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(of_address) = taken.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_all_places_and_gives_back_what_it_took() {
        let limits = Limits { connections_max: 3, connections_per_address_max: 2, ..Limits::default() };
        let places = Places::new(&limits);
        let take = |address: &str| places.take(address.parse().unwrap());
        let first = take("10.0.0.1").unwrap();
        let _second = take("::ffff:10.0.0.1").unwrap();
        assert_eq!(take("10.0.0.1").unwrap_err(), NoPlace::AddressFull(2));
        let _third = take("10.0.0.2").unwrap();
        assert_eq!(take("10.0.0.3").unwrap_err(), NoPlace::Full(3));
        drop(first);
        let _again = take("10.0.0.1").unwrap();
        assert_eq!(places.refused(), 2);
        assert_eq!(places.taken.lock().unwrap().by_address.len(), 2, "refused addresses leave nothing behind");
    }

    #[test]
    fn one_address_has_a_quarter_of_the_handshakes() {
        let handshakes = Places::for_handshakes(&Limits { handshakes_max: 8, ..Limits::default() });
        let take = |address: &str| handshakes.take(address.parse().unwrap());
        let _two = [take("10.0.0.1").unwrap(), take("10.0.0.1").unwrap()];
        assert_eq!(take("10.0.0.1").unwrap_err(), NoPlace::AddressFull(2));
        let _third = take("10.0.0.2").unwrap();
        assert_eq!(handshakes.taken(), 3);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let limits = Limits { connections_max: 9, connections_per_address_max: 1, ..Limits::default() };
        let places = Places::new(&limits);
        let _first = places.take("2001:db8::1".parse().unwrap()).unwrap();
        assert!(places.take("2001:db8::ffff:1".parse().unwrap()).is_err());
        assert!(places.take("2001:db8:0:1::1".parse().unwrap()).is_ok());
    }
}
