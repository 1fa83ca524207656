//! Is a module pure? Its output may not depend on where batches are cut, nor on how old its instance is: a broker may cut and
//! recycle at any time, and replays must repeat exactly.

use millstream_model::ModuleKind;
use millstream_wasm::Freshness;

use crate::{Error, Opened, Output, Record};

/// Two ways to run the same records that gave different results.
#[derive(Debug, thiserror::Error)]
#[error("record {record} gives something else when {way}: the module's output depends on more than its input")]
pub struct Impure {
    /// How the second run was cut.
    pub way: String,
    /// The first record whose results differ.
    pub record: usize,
}

/// Why a check of purity ended early.
#[derive(Debug, thiserror::Error)]
pub enum PurityError {
    /// The module is not pure.
    #[error(transparent)]
    Impure(#[from] Impure),
    /// A run failed.
    #[error(transparent)]
    Run(#[from] Error),
}

/// What a record led to, whatever the module's kind.
#[derive(Clone, Debug, PartialEq)]
enum Result1 {
    Selected(bool),
    Assigned(i32),
    Emitted(Vec<Output>),
}

/// Partitions that an assigner is asked about.
const PARTITIONS: u32 = 12;

impl Opened {
    /// Runs the records as one batch, one by one, in random cuts, and on a new instance for every cut (mappers), and
    /// compares what each record led to. The same `seed` makes the same cuts.
    ///
    /// # Errors
    /// [`PurityError::Impure`] with the first difference; [`PurityError::Run`] when a run fails.
    pub async fn check_purity(&self, records: &[Record], seed: u64) -> Result<(), PurityError> {
        let whole = self.run(records, &[records.len()], Freshness::Any).await?;
        let ones = vec![1; records.len()];
        let cuts = cut(records.len(), seed);
        for (way, parts, freshness) in [
            ("run a second time", &[records.len()][..], Freshness::Any),
            ("run record by record", &ones, Freshness::Any),
            (&format!("cut at random (seed {seed})"), &cuts, Freshness::Any),
            ("each cut has a new instance", &cuts, Freshness::Fresh),
        ] {
            let other = self.run(records, parts, freshness).await?;
            if let Some(record) = (0..records.len()).find(|at| whole.get(*at) != other.get(*at)) {
                return Err(Impure { way: way.into(), record }.into());
            }
        }
        Ok(())
    }

    async fn run(&self, records: &[Record], parts: &[usize], freshness: Freshness) -> Result<Vec<Result1>, Error> {
        let mut results = Vec::with_capacity(records.len());
        for part in parts {
            let first = results.len();
            let part = &records[first..first + part];
            match self.pool.options().kind {
                ModuleKind::Filter => results.extend(self.select(part).await?.into_iter().map(Result1::Selected)),
                ModuleKind::Partitioner => {
                    results.extend(self.assign(part, PARTITIONS).await?.into_iter().map(Result1::Assigned));
                }
                ModuleKind::Mapper | ModuleKind::Transform => {
                    let mut by_source = vec![Vec::new(); part.len()];
                    for output in self.process_part(part, first, freshness).await? {
                        if let Some(outputs) = by_source.get_mut(output.source - first) {
                            outputs.push(output);
                        }
                    }
                    results.extend(by_source.into_iter().map(Result1::Emitted));
                }
            }
        }
        Ok(results)
    }
}

/// Lengths of random parts that add up to `len`.
fn cut(len: usize, seed: u64) -> Vec<usize> {
    let (mut state, mut rest, mut parts) = (seed, len, Vec::new());
    while rest > 0 {
        // SplitMix64: a generator of one line, the same on every machine.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let part = 1 + (word ^ word >> 31) as usize % rest.min(50);
        parts.push(part);
        rest -= part;
    }
    parts
}

#[cfg(test)]
mod tests {
    #[test]
    fn cuts_add_up_and_repeat() {
        for seed in 0..100 {
            let parts = super::cut(777, seed);
            assert_eq!(parts.iter().sum::<usize>(), 777);
            assert!(parts.iter().all(|part| *part > 0));
            assert_eq!(parts, super::cut(777, seed));
        }
        assert!(super::cut(0, 1).is_empty());
    }
}
