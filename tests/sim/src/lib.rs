//! A broker in a simulated world: started, stopped, killed, cut from its power, and started again on what its disk kept.
//!
//! The broker is the program's own, with the catalog's projection left out (sled knows no other disk than the real one) and
//! modules compiled in the process. Its address, its disk and its tasks are those of one [`Machine`].

use std::{path::PathBuf, sync::Arc};

use futures::FutureExt;
use millstream_broker::{Broker, BrokerOptions, StartError};
use millstream_client::{Client, ClientOptions, ConnectError};
use millstream_env::{
    Env, Net, Task,
    sim::{Machine, World},
};
use millstream_log::Recovered;
use millstream_model::BrokerId;
use millstream_wasm::Compiler;
use tokio::sync::oneshot;

/// Where clients find the broker.
pub const ADDRESS: &str = "broker:9092";
const DATA_DIR: &str = "/data";

/// A broker's machine, and the broker if it runs.
pub struct SimBroker {
    machine: Machine,
    running: Option<(oneshot::Sender<()>, Task)>,
}

impl SimBroker {
    /// A machine with an empty disk; nothing runs on it yet.
    pub fn new(world: &mut World) -> Self {
        Self { machine: world.machine("broker"), running: None }
    }

    /// The machine: its disk takes faults.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Starts the broker on what the disk holds, and waits until it serves.
    ///
    /// # Errors
    /// As a program's start.
    ///
    /// # Panics
    /// When the machine dies under it.
    #[expect(clippy::expect_used, reason = "a test that cannot go on has failed")]
    pub fn start(&mut self, world: &World) -> Result<Recovered, Box<StartError>> {
        let (told, started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let (env, net) = (self.machine.env(), self.machine.net());
        // As a task of the machine, so that everything the broker starts is the machine's too.
        let task = self.machine.env().spawn.spawn("broker", run(env, net, told, stopped).boxed());
        self.running = Some((stop, task));
        world.run_until(started).expect("the broker says how its start went")
    }

    /// Stops the broker as SIGTERM does: waits until it has written everything down, and its process ends.
    pub fn stop(&mut self, world: &World) {
        if let Some((stop, task)) = self.running.take() {
            let _ = stop.send(());
            world.run_until(task.join());
            self.machine.kill();
        }
    }

    /// The process is killed; what it wrote can be read, though it need not be durable.
    pub fn kill(&mut self) {
        self.machine.kill();
        self.running = None;
    }

    /// The power fails; what was not synced may be lost or torn.
    pub fn cut_power(&mut self) {
        self.machine.crash();
        self.running = None;
    }
}

async fn run(
    env: Env,
    net: Arc<dyn Net>,
    told: oneshot::Sender<Result<Recovered, Box<StartError>>>,
    stopped: oneshot::Receiver<()>,
) {
    let Ok(listener) = net.listen(([0, 0, 0, 0], 9092).into()).await else { return };
    let options = BrokerOptions {
        advertise: ADDRESS.parse().ok(),
        compiler: Compiler::InProcess,
        projection_dir: None,
        ..BrokerOptions::new(BrokerId(0), PathBuf::from(DATA_DIR))
    };
    match Broker::start(options, env, vec![listener]).await {
        Ok((broker, recovered)) => {
            let _ = told.send(Ok(recovered));
            let _ = stopped.await;
            let _ = broker.shutdown().await;
        }
        Err(error) => drop(told.send(Err(Box::new(error)))),
    }
}

/// A client on the world's first machine, which outlives the broker's.
///
/// # Errors
/// As everywhere.
pub async fn client(world: &World) -> Result<Client, ConnectError> {
    Client::connect_over(world.env(), world.net(), vec![ADDRESS.into()], ClientOptions::default()).await
}
