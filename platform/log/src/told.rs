//! What is told in the log of the program, noted for tests.

use std::sync::Arc;

use parking_lot::Mutex;
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Notes the levels of what is told by a module, in order.
pub(crate) struct LevelsTold {
    /// What the module's path ends with.
    by: &'static str,
    levels: Mutex<Vec<Level>>,
}

impl LevelsTold {
    pub(crate) fn by(module: &'static str) -> Arc<Self> {
        Arc::new(Self { by: module, levels: Mutex::default() })
    }

    /// How often something was told at this level.
    pub(crate) fn times(&self, level: Level) -> usize {
        self.levels.lock().iter().filter(|told| **told == level).count()
    }
}

impl Subscriber for LevelsTold {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().ends_with(self.by)
    }

    fn event(&self, event: &Event<'_>) {
        self.levels.lock().push(*event.metadata().level());
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}
    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}
    fn enter(&self, _span: &span::Id) {}
    fn exit(&self, _span: &span::Id) {}
}
