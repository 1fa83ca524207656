//! Whether records may be sent to a broker now: for load balancers, and for whoever restarts brokers in turn.

use futures::FutureExt;

use crate::{Broker, BrokerFailed};

/// What a broker that is ready tells besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Partitions that it leads and serves.
    pub partitions_led: usize,
    /// Partitions that it should lead and that are out of service until the next start. The others are served all the same.
    pub partitions_out_of_service: usize,
}

/// Why a broker would not acknowledge a record.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// It was told to stop: what it has taken is answered, nothing new is taken.
    #[error("the broker is stopping")]
    Stopping,
    /// It cannot keep its word any more, and stops by itself.
    #[error(transparent)]
    Failed(#[from] BrokerFailed),
    /// Records and new topics are refused until there is room; what is there is read.
    #[error("the disk is full: records and new topics are refused. Make room, by deleting topics or otherwise")]
    Full,
}

impl Broker {
    /// Whether it may acknowledge records now. Asks the file system for its room, and waits for nothing else.
    ///
    /// # Errors
    /// [`NotReady`]: why not.
    pub fn readiness(&self) -> Result<Readiness, NotReady> {
        let shared = self.shared();
        if let Some(failed) = self.failed().now_or_never() {
            return Err(failed.into());
        }
        if shared.stop.is_cancelled() {
            return Err(NotReady::Stopping);
        }
        if !shared.storage.has_room(0) {
            return Err(NotReady::Full);
        }
        let (partitions_led, partitions_out_of_service) = shared.partitions.counts();
        Ok(Readiness { partitions_led, partitions_out_of_service })
    }
}

#[cfg(test)]
mod tests {
    use std::{io::IoSlice, path::Path};

    use millstream_env::{
        OpenMode,
        sim::{DiskOperation, Fault, World},
    };

    use super::*;
    use crate::testing::{append, create, start};

    /// Ready or in words why not.
    fn told(broker: &Broker) -> String {
        match broker.readiness() {
            Ok(Readiness { partitions_led, partitions_out_of_service }) => {
                format!("leads {partitions_led}, {partitions_out_of_service} out of service")
            }
            Err(reason) => reason.to_string(),
        }
    }

    #[test]
    fn a_full_disk_makes_it_unready_until_there_is_room_and_a_stop_for_good() {
        let world = World::new(5);
        let broker = start(&world);
        assert_eq!(told(&broker), "leads 0, 0 out of service");
        world.run_until(create(&broker, 3));
        assert_eq!(told(&broker), "leads 3, 0 out of service");
        world.disk().set_capacity(Some(world.disk().used_bytes()));
        // What must be written is written into the room that is set aside: from then on nothing new is taken.
        let file = broker.shared().storage.disk().open(Path::new("/data/must"), OpenMode::Create).unwrap();
        file.write_at(&[IoSlice::new(b"be written")], 0).unwrap();
        assert!(told(&broker).starts_with("the disk is full"), "{}", told(&broker));
        world.disk().set_capacity(None);
        world.run_for(std::time::Duration::from_secs(20));
        assert!(told(&broker).starts_with("leads "), "{}", told(&broker));
        world.run_until(broker.shutdown()).unwrap();
        assert_eq!(told(&broker), "the broker is stopping");
    }

    #[test]
    fn a_journal_that_has_stopped_is_told_with_its_reason() {
        let world = World::new(6);
        let broker = start(&world);
        world.run_until(create(&broker, 1));
        world.disk().inject(Fault::nth(DiskOperation::SyncData, 1).on("journal"));
        world.run_until(append(&broker, 0).commit).unwrap_err();
        assert!(told(&broker).contains("sync"), "{}", told(&broker));
    }
}
