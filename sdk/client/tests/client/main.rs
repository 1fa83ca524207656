//! The client against a broker made of scripts, in a simulated world: what it does when brokers fail, refuse, or vanish.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admin;
mod connection;
mod consumer;
mod delivery;
mod exchange;
mod fake;
#[cfg(feature = "local-routing")]
mod local;
mod paused;
mod producer;
mod subscriptions;

use std::time::Duration;

use millstream_client::{Client, ClientOptions, ConnectError};
use millstream_env::sim::World;

use fake::FakeBroker;

/// A world with latency, a broker in it, and a client of it.
fn setting(seed: u64) -> (World, FakeBroker, Client) {
    setting_with(seed, None)
}

/// As [`setting`], with a broker that pushes records.
fn setting_with(seed: u64, pushes: Option<fake::Pushes>) -> (World, FakeBroker, Client) {
    let mut world = World::new(seed);
    world.set_latency(Duration::from_micros(50), Duration::from_micros(500));
    let broker = FakeBroker::start(&mut world);
    broker.state.lock().pushes = pushes;
    let client = world.run_until(connect(&world)).unwrap();
    (world, broker, client)
}

async fn connect(world: &World) -> Result<Client, ConnectError> {
    let brokers = vec![fake::ADDRESS.to_owned()];
    Client::connect_over(world.env(), world.net(), brokers, ClientOptions::default()).await
}

#[test]
fn nobody_waits_for_a_broker_that_is_not_there() {
    let world = World::new(1);
    let error = world.run_until(connect(&world)).unwrap_err();
    assert!(matches!(error, ConnectError::Call(_)), "{error}");
    assert!(world.env().clock.now().0 < Duration::from_secs(1));
}

#[test]
fn no_address_is_said() {
    let world = World::new(1);
    let connect = Client::connect_over(world.env(), world.net(), Vec::new(), ClientOptions::default());
    assert!(matches!(world.run_until(connect).unwrap_err(), ConnectError::NoBroker));
}
