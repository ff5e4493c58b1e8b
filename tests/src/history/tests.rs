//! The checker must be able to fail: a history for each promise that breaks it, and some that look odd and
//! break none. And a store that keeps its promises, run at random, is never accused.

use super::*;

const KEY: &str = "k";

/// A put or delete by replica `r` from `at.0` to `at.1`.
fn write(r: usize, value: Option<&str>, at: (u64, u64), outcome: Outcome) -> Operation {
    let action = value.map_or(Action::Delete, |value| Action::Put(value.to_owned()));
    operation(r, action, at, outcome)
}

fn put(r: usize, value: &str, at: (u64, u64)) -> Operation {
    write(r, Some(value), at, Outcome::Written)
}

fn delete(r: usize, at: (u64, u64)) -> Operation {
    write(r, None, at, Outcome::Written)
}

fn get(r: usize, found: Option<&str>, at: (u64, u64)) -> Operation {
    operation(r, Action::Get, at, Outcome::Read(found.map(str::to_owned)))
}

fn operation(r: usize, action: Action, at: (u64, u64), outcome: Outcome) -> Operation {
    Operation {
        replica: Replica(r),
        key: KEY.to_owned(),
        action,
        invoked_ns: at.0,
        completed_ns: at.1,
        outcome,
    }
}

fn holding(r: usize, value: Option<&str>) -> Holding {
    let pair = value.map(|value| (KEY.to_owned(), value.to_owned()));
    Holding { replica: Replica(r), values: pair.into_iter().collect() }
}

/// The names of the promises that are found broken.
fn broken(operations: &[Operation], holdings: &[Holding]) -> Vec<&'static str> {
    let name = |violation: &Violation| match violation {
        Violation::Lost(_) => "lost",
        Violation::Reappeared(_) => "reappeared",
        Violation::OwnWriteUnread(_) => "own write",
        Violation::WentBack(_) => "went back",
        Violation::RefusedWriteRead(_) => "refused",
        Violation::Phantom(_) => "phantom",
        Violation::Disagreement { .. } => "disagreement",
    };
    check(operations, holdings).iter().map(name).collect()
}

#[test]
fn an_acknowledged_write_must_not_be_lost() {
    let writes = [put(0, "a", (0, 10)), put(0, "b", (20, 30))];
    for (found, expected) in [(Some("b"), &[][..]), (Some("a"), &["lost"]), (None, &["lost"])] {
        assert_eq!(broken(&writes, &[holding(1, found)]), expected, "{found:?}");
    }
    // One that was read somewhere was in the log, whatever its writer was told.
    let unknown = write(0, Some("b"), (20, 30), Outcome::Unknown);
    let read = [put(0, "a", (0, 10)), unknown.clone(), get(1, Some("b"), (40, 50))];
    assert_eq!(broken(&read, &[holding(1, Some("a"))]), ["lost"]);
    assert_eq!(broken(&[put(0, "a", (0, 10)), unknown], &[holding(1, Some("a"))]), [""; 0]);
}

#[test]
fn a_deleted_key_must_not_come_back() {
    let writes = vec![put(0, "a", (0, 10)), delete(1, (20, 30))];
    assert_eq!(broken(&writes, &[holding(0, None)]), [""; 0]);
    assert_eq!(broken(&writes, &[holding(0, Some("a"))]), ["reappeared"]);
    // A replica that has shown the absence, or acknowledged it, does not show the value again.
    let mut seen = writes.clone();
    seen.extend([get(0, Some("a"), (31, 32)), get(0, None, (40, 50)), get(0, Some("a"), (60, 70))]);
    assert_eq!(broken(&seen, &[]), ["reappeared"]);
    let mut own = writes;
    own.push(get(1, Some("a"), (40, 50)));
    assert_eq!(broken(&own, &[]), ["reappeared"]);
}

#[test]
fn reads_of_a_replica_must_not_go_back() {
    let writes = [put(0, "a", (0, 10)), put(0, "b", (20, 30))];
    let reads = |replica: usize| {
        let mut all = writes.to_vec();
        all.extend([get(1, Some("b"), (40, 50)), get(replica, Some("a"), (60, 70))]);
        all
    };
    assert_eq!(broken(&reads(1), &[]), ["went back"]);
    assert_eq!(broken(&reads(2), &[]), [""; 0], "another replica may be behind");
    let mut absent = writes.to_vec();
    absent.extend([get(1, Some("a"), (40, 50)), get(1, None, (60, 70))]);
    assert_eq!(broken(&absent, &[]), ["went back"]);
    // Reads at the same time may end in any order.
    let mut together = writes.to_vec();
    together.extend([get(1, Some("b"), (40, 50)), get(1, Some("a"), (45, 70))]);
    assert_eq!(broken(&together, &[]), [""; 0]);
}

/// Writes at the same time may have any order, but every replica has to agree on one.
#[test]
fn replicas_must_agree_on_one_order() {
    let mut all = vec![put(0, "a", (0, 10)), put(1, "b", (0, 10))];
    all.extend([get(2, Some("a"), (20, 30)), get(2, Some("b"), (40, 50))]);
    assert_eq!(broken(&all, &[holding(2, Some("b"))]), [""; 0]);
    assert_eq!(broken(&all, &[holding(2, Some("a"))]), ["lost"]);
    all.extend([get(3, Some("b"), (20, 30)), get(3, Some("a"), (40, 50))]);
    assert_eq!(broken(&all, &[]), ["went back"]);
}

#[test]
fn a_replica_must_show_its_own_writes() {
    let all = |reader| {
        vec![put(0, "a", (0, 10)), put(1, "b", (20, 30)), get(reader, Some("a"), (40, 50))]
    };
    assert_eq!(broken(&all(1), &[]), ["own write"]);
    assert_eq!(broken(&all(0), &[]), [""; 0]);
    assert_eq!(broken(&[put(1, "a", (0, 10)), get(1, None, (20, 30))], &[]), ["own write"]);
    // A read that began before the acknowledgement need not.
    let early = [put(0, "a", (0, 10)), put(1, "b", (20, 30)), get(1, Some("a"), (25, 50))];
    assert_eq!(broken(&early, &[]), [""; 0]);
}

#[test]
fn what_was_refused_or_never_asked_for_must_not_be_read() {
    let refused = write(0, Some("a"), (0, 10), Outcome::Failed);
    assert_eq!(broken(&[refused.clone(), get(0, Some("a"), (20, 30))], &[]), ["refused"]);
    assert_eq!(broken(&[refused], &[holding(0, Some("a"))]), ["refused"]);
    assert_eq!(broken(&[get(0, Some("x"), (20, 30))], &[]), ["phantom"]);
    let early = [get(0, Some("a"), (0, 10)), put(0, "a", (20, 30))];
    assert_eq!(broken(&early, &[]), ["phantom"]);
    assert_eq!(broken(&[], &[holding(0, Some("x"))]), ["phantom"]);
    let refused_delete = write(0, None, (20, 30), Outcome::Failed);
    let all = [put(0, "a", (0, 10)), refused_delete, get(0, None, (40, 50))];
    assert_eq!(broken(&all, &[]), ["own write"]);
}

#[test]
fn replicas_must_end_alike() {
    let writes = [put(0, "a", (0, 10)), put(1, "b", (0, 10))];
    let held = [holding(0, Some("a")), holding(1, Some("b"))];
    assert_eq!(broken(&writes, &held), ["lost", "disagreement"]);
    assert_eq!(broken(&writes, &[holding(0, Some("b")), holding(1, Some("b"))]), [""; 0]);
}

/// A write without an answer may take effect late, after others that were asked for later, or never.
#[test]
fn unknown_outcomes_are_believed() {
    let late = write(0, None, (0, 10), Outcome::Unknown);
    let all = [late, put(1, "a", (20, 30)), get(1, Some("a"), (40, 50)), get(1, None, (60, 70))];
    assert_eq!(broken(&all, &[holding(0, None), holding(1, None)]), [""; 0]);
    // Once it was seen it does not take effect a second time.
    let mut again = all.to_vec();
    again.extend([put(1, "b", (80, 90)), get(1, None, (100, 110))]);
    assert_eq!(broken(&again, &[]), ["own write"]);
}

/// Of several deletions that explain an absence, none is assumed but the oldest.
#[test]
fn an_absence_is_explained_generously() {
    let writes = [put(0, "a", (0, 1)), delete(0, (2, 3)), put(0, "b", (4, 5)), delete(0, (6, 7))];
    let read = |value| {
        let reads = [get(1, Some("a"), (8, 9)), get(1, None, (10, 11)), get(1, value, (12, 13))];
        broken(&[&writes[..], &reads].concat(), &[])
    };
    assert_eq!(read(Some("b")), [""; 0], "it was the first deletion");
    assert_eq!(read(Some("a")), ["reappeared"]);
}

#[test]
fn an_operation_without_an_end_is_unknown() {
    let history = History::default();
    drop(history.begin(Replica(0), KEY, Action::Delete));
    history.begin(Replica(1), KEY, Action::Get).end(Outcome::Failed);
    let operations = history.operations();
    let outcomes: Vec<_> = operations.iter().map(|operation| &operation.outcome).collect();
    assert_eq!(outcomes, [&Outcome::Unknown, &Outcome::Failed]);
    assert!(operations.iter().all(|operation| operation.invoked_ns <= operation.completed_ns));
}

/// A log, and replicas at random places of it.
struct Store {
    random: u64,
    log: Vec<Option<String>>,
    places: [usize; 3],
}

impl Store {
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % limit as u64) as usize
    }

    fn shown(&self, place: usize) -> Option<String> {
        place.checked_sub(1).and_then(|last| self.log[last].clone())
    }

    /// One operation from `now` on. What is acknowledged or read is shown from then on.
    fn operation(&mut self, now: u64) -> Operation {
        let replica = self.below(3);
        let at = (now, now + 1 + self.below(8) as u64);
        let value = (self.below(3) > 0).then(|| format!("v{now}"));
        match self.below(8) {
            0 => write(replica, value.as_deref(), at, Outcome::Failed),
            1 => write(replica, value.as_deref(), at, Outcome::Unknown),
            kind @ 2..4 => {
                self.log.push(value.clone());
                let acknowledged = kind == 2;
                let outcome = if acknowledged { Outcome::Written } else { Outcome::Unknown };
                if acknowledged {
                    self.places[replica] = self.log.len();
                }
                write(replica, value.as_deref(), at, outcome)
            }
            _ => {
                let ahead = self.log.len() - self.places[replica];
                self.places[replica] += self.below(ahead + 1);
                get(replica, self.shown(self.places[replica]).as_deref(), at)
            }
        }
    }

    fn run(seed: u64) -> (Vec<Operation>, Self) {
        let mut store = Self { random: seed, log: Vec::new(), places: [0; 3] };
        // Every operation takes effect at once when it begins.
        let operations = (0..300).map(|step| store.operation(step * 3)).collect();
        (operations, store)
    }
}

#[test]
fn a_good_store_is_never_accused_and_a_forgetful_one_is() {
    let (mut accused, mut lost) = (0, 0);
    for seed in 1..200 {
        let (operations, store) = Store::run(seed * 0x9e37_79b9);
        let held = |place| {
            let value = store.shown(place);
            (0..3).map(|replica| holding(replica, value.as_deref())).collect::<Vec<_>>()
        };
        let found = check(&operations, &held(store.log.len()));
        assert_eq!(found, [], "seed {seed}");
        // The same, but the log lost its last third. A key that is then absent may have been deleted late, by
        // somebody who was not told.
        let place = store.log.len() * 2 / 3;
        if store.shown(place).is_some() {
            lost += 1;
            accused += usize::from(!check(&operations, &held(place)).is_empty());
        }
    }
    assert!(lost > 100 && accused > lost * 3 / 4, "only {accused} of {lost} losses are found");
}
