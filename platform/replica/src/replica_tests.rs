//! The rules as scripts, one for each, and what must hold whatever happens.

use proptest::prelude::*;

use super::*;

const ME: BrokerId = BrokerId(0);
const B: BrokerId = BrokerId(1);
const C: BrokerId = BrokerId(2);

fn replica(durability: Durability, min: u32) -> Replica {
    Replica::new(ReplicaOptions { broker: ME, durability, insync_replicas_min: min }, Offset(0))
}

fn lead(epoch: i32, isr: &[BrokerId], log_end: i64, flushed_end: i64) -> Leadership {
    Leadership {
        leader: Some(ME),
        epoch: LeaderEpoch(epoch),
        isr: isr.to_vec(),
        log_end: Offset(log_end),
        flushed_end: Offset(flushed_end),
    }
}

fn at(appended: i64, flushed: i64) -> Progress {
    Progress { appended: Offset(appended), flushed: Offset(flushed) }
}

fn effects(replica: &mut Replica) -> Vec<Effect> {
    std::iter::from_fn(|| replica.poll_effect()).collect()
}

#[test]
fn alone_under_fsync_the_watermark_is_the_flushed_end() {
    let mut r = replica(Durability::Fsync, 1);
    r.handle_leadership(lead(3, &[ME], 10, 10)).unwrap();
    assert_eq!(effects(&mut r), [Effect::HighWatermark(Offset(10))]);
    r.handle_appended(Offset(15));
    assert_eq!((r.high_watermark(), effects(&mut r)), (Offset(10), vec![]));
    r.handle_flushed(Offset(12));
    r.handle_flushed(Offset(15));
    // Told once: the first was overtaken.
    assert_eq!(effects(&mut r), [Effect::HighWatermark(Offset(15))]);
    for acks in [Acks::Leader, Acks::All] {
        assert_eq!(r.acknowledged_end(acks), Some(Offset(15)));
    }
    assert_eq!(r.acknowledged_end(Acks::None), None);
}

#[test]
fn alone_under_replicated_the_watermark_is_the_appended_end() {
    let mut r = replica(Durability::Replicated, 1);
    r.handle_leadership(lead(0, &[ME], 0, 0)).unwrap();
    r.handle_appended(Offset(7));
    assert_eq!(r.high_watermark(), Offset(7));
    assert_eq!(r.acknowledged_end(Acks::Leader), Some(Offset(7)));
}

#[test]
fn other_settings_move_the_watermark_on_and_never_back() {
    let mut r = replica(Durability::Fsync, 1);
    r.handle_leadership(lead(0, &[ME], 0, 0)).unwrap();
    r.handle_appended(Offset(7));
    r.handle_flushed(Offset(3));
    r.handle_appended(Offset(8));
    assert_eq!(r.high_watermark(), Offset(3));
    r.handle_settings(Durability::Replicated, 1);
    assert_eq!(r.high_watermark(), Offset(8));
    r.handle_settings(Durability::Fsync, 1);
    assert_eq!(r.high_watermark(), Offset(8));
    r.handle_appended(Offset(9));
    assert_eq!(r.high_watermark(), Offset(8));
    r.handle_settings(Durability::Replicated, 2);
    assert_eq!(r.high_watermark(), Offset(8), "one replica is not enough");
    assert!(matches!(r.admits(Acks::All, LeaderEpoch::UNKNOWN), Err(AppendRefused::NotEnoughReplicas { .. })));
    r.handle_settings(Durability::Replicated, 1);
    assert_eq!(r.high_watermark(), Offset(9));
}

#[test]
fn a_flush_that_is_heard_of_before_its_append_counts_as_both() {
    let mut r = replica(Durability::Fsync, 1);
    r.handle_leadership(lead(0, &[ME], 0, 0)).unwrap();
    r.handle_flushed(Offset(3));
    r.handle_appended(Offset(3));
    assert_eq!((r.own(), r.high_watermark()), (at(3, 3), Offset(3)));
}

#[test]
fn the_watermark_waits_for_the_slowest_of_the_isr_by_what_it_flushed() {
    let mut r = replica(Durability::Fsync, 2);
    r.handle_leadership(lead(1, &[ME, B], 5, 5)).unwrap();
    assert_eq!(r.high_watermark(), Offset(0), "nothing is known of B in this epoch");
    r.handle_acknowledged(B, LeaderEpoch(1), at(5, 3)).unwrap();
    assert_eq!(r.high_watermark(), Offset(3));
    assert!(!r.answers_reads(), "the epoch starts at 5");
    r.handle_acknowledged(B, LeaderEpoch(1), at(5, 5)).unwrap();
    assert!(r.answers_reads());
    assert_eq!(r.high_watermark(), Offset(5));
}

#[test]
fn too_small_an_isr_refuses_acks_all_and_holds_the_watermark() {
    let mut r = replica(Durability::Fsync, 2);
    r.handle_leadership(lead(1, &[ME], 5, 5)).unwrap();
    r.handle_flushed(Offset(9));
    assert_eq!(r.high_watermark(), Offset(0));
    let refused = AppendRefused::NotEnoughReplicas { in_sync: 1, min: 2 };
    assert_eq!(r.admits(Acks::All, LeaderEpoch::UNKNOWN), Err(refused));
    assert_eq!(r.admits(Acks::Leader, LeaderEpoch::UNKNOWN), Ok(()));
}

#[test]
fn a_proposed_isr_counts_until_it_is_answered() {
    let mut r = replica(Durability::Replicated, 1);
    r.handle_leadership(lead(1, &[ME], 0, 0)).unwrap();
    r.handle_acknowledged(C, LeaderEpoch(1), at(0, 0)).unwrap();
    assert!(r.may_join(C));
    r.handle_isr_proposed(Some(vec![ME, C]));
    r.handle_appended(Offset(4));
    assert_eq!(r.high_watermark(), Offset(0), "C may be in the ISR already, and has not got it");
    r.handle_isr_proposed(None);
    assert_eq!(r.high_watermark(), Offset(4));
}

#[test]
fn only_who_caught_up_in_this_epoch_may_join() {
    let mut r = replica(Durability::Fsync, 1);
    r.handle_leadership(lead(1, &[ME], 8, 8)).unwrap();
    assert!(!r.may_join(B), "never heard of");
    r.handle_acknowledged(B, LeaderEpoch(1), at(8, 7)).unwrap();
    assert!(!r.may_join(B), "not flushed up to the watermark");
    r.handle_acknowledged(B, LeaderEpoch(1), at(8, 8)).unwrap();
    assert!(r.may_join(B));
    r.handle_leadership(lead(2, &[ME], 8, 8)).unwrap();
    assert!(!r.may_join(B), "heard of in another epoch only");
}

#[test]
fn old_epochs_are_refused_and_change_nothing() {
    let mut r = replica(Durability::Fsync, 1);
    r.handle_leadership(lead(5, &[ME], 0, 0)).unwrap();
    let stale = HandleError::StaleEpoch { given: LeaderEpoch(4), current: LeaderEpoch(5) };
    assert_eq!(r.handle_leadership(lead(4, &[ME, B], 3, 3)), Err(stale));
    assert_eq!(r.handle_acknowledged(B, LeaderEpoch(4), at(3, 3)), Err(stale));
    assert_eq!((r.isr(), r.own()), ([ME].as_slice(), at(0, 0)));
}

#[test]
fn clients_of_another_epoch_are_told_so() {
    let mut r = replica(Durability::Fsync, 1);
    assert_eq!(r.leads(LeaderEpoch(0)), Err(AppendRefused::NotLeader { leader: None }));
    r.handle_leadership(lead(5, &[ME], 0, 0)).unwrap();
    assert_eq!(r.leads(LeaderEpoch(5)), Ok(()));
    let current = LeaderEpoch(5);
    assert_eq!(r.leads(LeaderEpoch(4)), Err(AppendRefused::Fenced { given: LeaderEpoch(4), current }));
    assert_eq!(r.leads(LeaderEpoch(6)), Err(AppendRefused::Unknown { given: LeaderEpoch(6), current }));
}

#[test]
fn a_leader_that_loses_its_place_answers_nobody() {
    let mut r = replica(Durability::Fsync, 1);
    r.handle_leadership(lead(1, &[ME], 4, 4)).unwrap();
    r.handle_leadership(Leadership { leader: Some(B), ..lead(2, &[B], 4, 4) }).unwrap();
    assert_eq!((r.role(), r.answers_reads()), (Role::Follower, false));
    assert_eq!(r.leads(LeaderEpoch(2)), Err(AppendRefused::NotLeader { leader: Some(B) }));
    r.handle_flushed(Offset(9));
    assert_eq!(r.high_watermark(), Offset(4), "a follower's watermark is the leader's to tell");
    r.handle_high_watermark(LeaderEpoch(2), Offset(20)).unwrap();
    assert_eq!(r.high_watermark(), Offset(9), "never past its own end");
}

#[test]
fn a_cut_below_the_watermark_fails_the_replica() {
    let mut r = replica(Durability::Fsync, 1);
    r.handle_leadership(lead(1, &[ME], 10, 10)).unwrap();
    assert_eq!(r.handle_truncated(Offset(10)), Err(HandleError::NotFollower));
    r.handle_leadership(Leadership { leader: Some(B), ..lead(2, &[B], 12, 12) }).unwrap();
    r.handle_truncated(Offset(10)).unwrap();
    assert_eq!(r.own(), at(10, 10));
    let failure = HandleError::TruncatedBelowHighWatermark { end: Offset(9), high_watermark: Offset(10) };
    assert_eq!(r.handle_truncated(Offset(9)), Err(failure));
    assert!(effects(&mut r).contains(&Effect::Failed));
    assert_eq!(r.leads(LeaderEpoch::UNKNOWN), Err(AppendRefused::Failed));
    assert_eq!(r.handle_leadership(lead(3, &[ME], 9, 9)), Err(HandleError::Failed));
}

#[derive(Clone, Debug)]
enum Step {
    Leadership { leader: i32, epoch_by: i32, isr: Vec<i32>, ahead: i64 },
    Appended(i64),
    Flushed(i64),
    Acknowledged { from: i32, epoch_back: i32, appended: i64, flushed: i64 },
    Proposed(Option<Vec<i32>>),
    Told { epoch_back: i32, end: i64 },
    Truncated(i64),
}

fn brokers() -> impl Strategy<Value = Vec<i32>> {
    proptest::sample::subsequence(vec![0, 1, 2], 1..=3)
}

fn step() -> impl Strategy<Value = Step> {
    let end = 0..40i64;
    prop_oneof![
        (0..3i32, -1..3i32, brokers(), 0..5i64).prop_map(|(leader, epoch_by, isr, ahead)| Step::Leadership {
            leader,
            epoch_by,
            isr,
            ahead
        }),
        end.clone().prop_map(Step::Appended),
        end.clone().prop_map(Step::Flushed),
        (1..3i32, 0..2i32, end.clone(), end.clone()).prop_map(|(from, epoch_back, appended, flushed)| {
            Step::Acknowledged { from, epoch_back, appended, flushed: flushed.min(appended) }
        }),
        proptest::option::of(brokers()).prop_map(Step::Proposed),
        (0..2i32, end.clone()).prop_map(|(epoch_back, end)| Step::Told { epoch_back, end }),
        end.prop_map(Step::Truncated),
    ]
}

fn ids(numbers: Vec<i32>) -> Vec<BrokerId> {
    numbers.into_iter().map(BrokerId).collect()
}

proptest! {
    /// Whatever happens in whatever order: the watermark never goes back, is told in order, and never passes the end
    /// that survives a power cut (nor, under `replicated`, the end of the log).
    #[test]
    fn the_watermark_never_regresses_and_never_passes_what_is_held(
        fsync in any::<bool>(),
        min in 1..3u32,
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let durability = if fsync { Durability::Fsync } else { Durability::Replicated };
        let mut r = replica(durability, min);
        let mut told = Offset(0);
        for step in steps {
            let before = r.high_watermark();
            let epoch = |back: i32| LeaderEpoch(r.epoch().0 - back);
            // Refusals are part of the rules; what is checked is what holds after them.
            let _ = match step {
                Step::Leadership { leader, epoch_by, isr, ahead } => {
                    let own = r.own();
                    let epoch = LeaderEpoch(r.epoch().0 + epoch_by);
                    r.handle_leadership(Leadership {
                        leader: Some(BrokerId(leader)), epoch, isr: ids(isr),
                        log_end: own.appended.plus(ahead), flushed_end: own.flushed,
                    })
                }
                Step::Appended(end) => { r.handle_appended(Offset(end)); Ok(()) }
                Step::Flushed(end) => { r.handle_flushed(Offset(end)); Ok(()) }
                Step::Acknowledged { from, epoch_back, appended, flushed } => {
                    let epoch = epoch(epoch_back);
                    r.handle_acknowledged(BrokerId(from), epoch, at(appended, flushed))
                }
                Step::Proposed(isr) => { r.handle_isr_proposed(isr.map(ids)); Ok(()) }
                Step::Told { epoch_back, end } => {
                    let epoch = epoch(epoch_back);
                    r.handle_high_watermark(epoch, Offset(end))
                }
                Step::Truncated(end) => r.handle_truncated(Offset(end)),
            };
            prop_assert!(r.high_watermark() >= before);
            prop_assert!(r.own().flushed <= r.own().appended);
            prop_assert!(r.high_watermark() <= r.own().counted(durability));
            while let Some(effect) = r.poll_effect() {
                if let Effect::HighWatermark(end) = effect {
                    prop_assert!(end > told && end == r.high_watermark());
                    told = end;
                }
            }
        }
    }
}
