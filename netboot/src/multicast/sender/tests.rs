use proptest::prelude::*;

use super::*;

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn status(sender: &Sender, has: u64, deficits: &[(u32, u16)]) -> Status {
    let until = sender.begun() + 8;
    let deficits = deficits.to_vec();
    Status { seen: sender.sequence(), until, loss: 0.0, page: 0, words: vec![has], deficits }
}

fn sent(next: Next) -> Train {
    match next {
        Next::Send(train) => train,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_has_no_room_does_not_keep_others_from_theirs() {
    let mut sender = Sender::new(vec![100; 3]);
    sender.join(1, Blocks::none(3), 0, at(0));
    assert_eq!(sender.next(at(0)), Next::Wait(at(25)));
    sender.join(2, Blocks::none(3), 8, at(0));
    let report = status(&sender, 3, &[]);
    sender.hear(2, &report, at(0));
    let train = sent(sender.next(at(0)));
    assert!(train.block == 2 && train.begins);
}

#[test]
fn who_comes_late_does_not_wait_long_for_the_report_of_one_that_died() {
    let mut sender = Sender::new(vec![100]);
    sender.join(1, Blocks::none(1), 8, at(0));
    assert_eq!(sent(sender.next(at(0))).block, 0);
    sender.join(2, Blocks::none(1), 8, at(10));
    for now in (10..1000).step_by(50) {
        let report = status(&sender, 0, &[]);
        sender.hear(2, &report, at(now));
        assert!(matches!(sender.next(at(now)), Next::Wait(_)), "{now}");
    }
    // Then one more wait.
    let began = (1000..1500).step_by(50).any(|now| {
        let report = status(&sender, 0, &[]);
        sender.hear(2, &report, at(now));
        matches!(sender.next(at(now)), Next::Send(_))
    });
    assert!(began);
}

#[test]
fn a_block_that_cannot_be_had_is_sent_to_nobody() {
    let mut sender = Sender::new(vec![100; 2]);
    sender.join(1, Blocks::none(2), 8, at(0));
    assert_eq!(sender.ahead(8), [0, 1]);
    assert_eq!(sent(sender.next(at(0))).block, 0);
    sender.withdraw(0);
    assert_eq!(sender.ahead(8), [1]);
    assert_eq!(sent(sender.next(at(0))).block, 1);
    let report = status(&sender, 2, &[]);
    sender.hear(1, &report, at(100));
    // Also for who comes later.
    assert_eq!(sender.next(at(1000)), Next::Idle);
    sender.join(2, Blocks::none(2), 8, at(1000));
    assert_eq!(sender.ahead(8), [1]);
    // Once it can be had, both get it.
    sender.restore(0);
    assert_eq!(sender.ahead(8), [0, 1]);
    sender.leave(1);
    sender.leave(2);
    sender.withdraw(0);
    sender.restore(0);
    assert_eq!(sender.next(at(1000)), Next::Idle, "nobody lacks it");
}

#[test]
fn what_was_not_sent_is_lost_to_nobody() {
    let mut sender = Sender::new(vec![100; 2]);
    sender.join(1, Blocks::none(2), 8, at(0));
    let train = sent(sender.next(at(0)));
    sender.withdraw(train.block);
    sender.unsent(train);
    let next = sent(sender.next(at(0)));
    assert_eq!((next.block, next.sequence, next.begun), (1, train.sequence, train.begun));
}

#[test]
fn blocks_come_in_order_then_what_is_lacking_of_them() {
    let mut sender = Sender::new(vec![100; 2]);
    sender.join(1, Blocks::none(2), 8, at(0));
    for block in 0..2 {
        let train = sent(sender.next(at(0)));
        assert_eq!((train.block, train.first, train.count, train.begins), (block, 0, 100, true));
    }
    assert!(matches!(sender.next(at(1)), Next::Wait(_)));
    // The second block is whole, of the first one three symbols are missing.
    let said = status(&sender, 0b10, &[(0, 3)]);
    sender.hear(1, &said, at(30));
    let train = sent(sender.next(at(70)));
    assert_eq!((train.block, train.first, train.count, train.begins), (0, 100, 3, false));
    let said = status(&sender, 0b11, &[]);
    sender.hear(1, &said, at(100));
    assert!(matches!(sender.next(at(200)), Next::Idle));
}

#[test]
fn those_who_are_nearly_done_do_not_wait_for_reports() {
    let mut sender = Sender::new(vec![100; 5]);
    sender.join(1, Blocks::none(5), 8, at(0));
    (0..4).for_each(|_| assert!(sent(sender.next(at(0))).begins));
    let report = status(&sender, 0, &[(0, 4), (1, 4), (2, 4), (3, 4)]);
    sender.hear(1, &report, at(50));
    (0..4).for_each(|block| assert_eq!(sent(sender.next(at(70))).block, block));
    // Of the last block it says nothing until then; what it may lack comes at once, and once.
    assert_eq!(sent(sender.next(at(70))).block, 4);
    let train = sent(sender.next(at(70)));
    assert!(train.block == 4 && !train.begins && (3..8).contains(&train.count), "{train:?}");
    assert!(matches!(sender.next(at(71)), Next::Wait(_)));
}

#[test]
fn what_few_lack_comes_behind_what_nearly_all_may_lack() {
    let mut sender = Sender::new(vec![100; 3]);
    (1..20).for_each(|slot| sender.join(slot, Blocks::none(3), 8, at(0)));
    (0..2).for_each(|_| assert!(sent(sender.next(at(0))).begins));
    let report = status(&sender, 0, &[(0, 4), (1, 4)]);
    (1..20).for_each(|slot| sender.hear(slot, &report, at(50)));
    (0..2).for_each(|block| assert_eq!(sent(sender.next(at(70))).block, block));
    let report = status(&sender, 3, &[]);
    (1..20).for_each(|slot| sender.hear(slot, &report, at(100)));
    assert_eq!(sent(sender.next(at(140))).block, 2);
    // Two come late, and have that one.
    let mut has = Blocks::none(3);
    has.add(2);
    (20..22).for_each(|slot| sender.join(slot, has.clone(), 8, at(140)));
    let next = [(); 2].map(|()| sent(sender.next(at(140))));
    assert_eq!(next.map(|train| (train.block, train.begins)), [(2, false), (0, true)]);
}

#[test]
fn nothing_is_begun_for_whom_has_no_room() {
    let mut sender = Sender::new(vec![100; 3]);
    sender.join(1, Blocks::none(3), 1, at(0));
    sent(sender.next(at(0)));
    assert!(matches!(sender.next(at(1)), Next::Wait(_)));
    let said = Status { until: 2, ..status(&sender, 1, &[]) };
    sender.hear(1, &said, at(10));
    assert_eq!(sent(sender.next(at(11))).block, 1);
}

#[test]
fn who_is_silent_counts_until_it_speaks() {
    let mut sender = Sender::new(vec![100]);
    sender.join(1, Blocks::none(1), 8, at(0));
    assert!(matches!(sender.next(at(10_001)), Next::Idle));
    let said = status(&sender, 0, &[]);
    sender.hear(1, &said, at(20_000));
    assert_eq!(sent(sender.next(at(20_001))).block, 0);
}

proptest! {
    /// Whatever clients say, the server goes on: it neither ends nor sends what there is not.
    #[test]
    fn any_reports_are_borne(said in proptest::collection::vec(
        (0_u16..4, any::<(u32, u32, u32, u64)>(), 0.0_f32..=1.0,
         proptest::collection::vec((0_u32..9, any::<u16>()), 0..4)), 0..60)) {
        let mut sender = Sender::new(vec![745, 745, 3, 1, 745]);
        (0..3).for_each(|slot| sender.join(slot, Blocks::none(5), 2, at(0)));
        for (now, (slot, (seen, until, page, word), loss, deficits)) in (0..).zip(said) {
            let page = page % 3;
            let status = Status { seen, until, loss, page, words: vec![word], deficits };
            sender.hear(slot, &status, at(now * 20));
            sender.look_at_losses();
            if let Next::Send(train) = sender.next(at(now * 20 + 10)) {
                let k = sender.symbols[train.block as usize];
                prop_assert!(train.count > 0 && train.count <= k + parity(k));
                prop_assert!(train.first < k + parity(k));
            }
        }
    }
}

#[test]
fn blocks_that_wait_for_a_disk_are_told_from_those_that_lack_symbols() {
    let mut sender = Sender::new(vec![100; 99]);
    sender.join(1, Blocks::none(99), 8, at(0));
    let spare = |sender: &Sender| sender.clients(at(0))[0].spare;
    assert_eq!(spare(&sender), None);
    let report = status(&sender, 0, &[(0, 5), (1, 5), (2, 5)]);
    sender.hear(1, &report, at(0));
    assert_eq!(spare(&sender), Some(11.0));
    let full = Status { until: sender.begun(), ..status(&sender, 0, &[]) };
    (0..20).for_each(|_| sender.hear(1, &full, at(0)));
    assert!(spare(&sender) < Some(0.1));
}
