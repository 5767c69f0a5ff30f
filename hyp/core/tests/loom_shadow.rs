//! The shadow's sequence lock, the ready flag, the kick and the request slot under loom, which tries every interleaving with as many
//! preemptions as it is told, 2 by xtask, and every value that the C11 memory model lets a load return.
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p hyp-core --release --test loom_shadow`
//!
//! The production code must reach the good outcomes, all of them, and no other. Each `variant!` compiles the same sources once more with
//! one ordering, one fence or one check changed, and must reach a bad outcome: so we know that the model looks closely enough.
#![cfg(loom)]
// Loading one source several times is what a variant is.
#![allow(clippy::duplicate_mod)]

use model_types::{Answer, Outcomes};
use std::fmt::Debug;

#[path = "../../abi/src/sync.rs"]
#[allow(dead_code, unused_imports)]
mod reader_sync;

mod model_types {
    use std::collections::BTreeSet;

    /// The outcomes that a model reached.
    pub(crate) type Outcomes<T> = BTreeSet<T>;

    /// What became of a withdrawn request.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) enum Answer {
        Untouched,
        Abandoned,
        Finished(u64, u64),
    }
}

/// The code that ships.
#[path = "."]
mod production {
    pub(crate) use hyp_abi::shadow as page;
    pub(crate) use hyp_core::kick as ticket;
    pub(crate) use hyp_core::kick as request;
    pub(crate) use hyp_core::kick as wait;
    pub(crate) use hyp_core::shadow as ready;
    pub(crate) use hyp_core::shadow as writer;

    #[path = "loom_shadow/model.rs"]
    pub(crate) mod model;
}

/// The same sources, with something in `sync` changed.
macro_rules! variant {
    ($(#[$doc:meta])* $name:ident { sync { $($sync:item)* } order { $($order:item)* } }) => {
        $(#[$doc])*
        #[path = "."]
        #[allow(dead_code, unused_imports, missing_docs, unreachable_pub)]
        mod $name {
            mod sync {
                pub use crate::reader_sync::*;
                pub use hyp_core::sync::*;
                $($sync)*
                pub mod order {
                    use loom::sync::atomic::Ordering;
                    pub use crate::reader_sync::order::*;
                    pub use hyp_core::sync::order::*;
                    $($order)*
                }
            }
            #[path = "../../abi/src/shadow.rs"]
            pub mod page;
            #[path = "../src/shadow/writer.rs"]
            pub mod writer;
            #[path = "../src/shadow/ready.rs"]
            pub mod ready;
            #[path = "../src/kick/ticket.rs"]
            pub mod ticket;
            #[path = "../src/kick/request.rs"]
            pub mod request;
            #[path = "../src/kick/wait.rs"]
            pub mod wait;
            #[path = "loom_shadow/model.rs"]
            pub mod model;
        }
    };
    ($(#[$doc:meta])* $name:ident: $($order:item)*) => {
        variant! { $(#[$doc])* $name { sync {} order { $($order)* } } }
    };
}

variant! {
    /// Nothing changed: what the variants are compared with.
    unchanged:
}

fn exactly<T: Copy + Debug + Ord>(reached: &Outcomes<T>, good: &[T]) {
    assert_eq!(*reached, good.iter().copied().collect());
}

/// Of two publications of a record, a reader sees one, the state before, or the writer at work.
const RECORDS: &[Option<[u64; 5]>] = &[None, Some([0; 5]), Some([1; 5]), Some([2; 5])];

#[test]
fn a_record_is_never_torn() {
    exactly(&production::model::records(RECORDS), RECORDS);
}

variant! {
    /// The writer does not show that it is at work.
    no_odd_phase {
        sync { pub const ODD_PHASE: bool = false; }
        order {}
    }
}
variant! {
    /// The reader takes an odd count for an even one.
    no_odd_check {
        sync {
            pub const fn undisturbed(before: u64, after: u64) -> bool {
                before == after
            }
        }
        order {}
    }
}
variant! {
    /// The reader does not look at the count again.
    no_second_look {
        sync {
            pub const fn undisturbed(before: u64, _after: u64) -> bool {
                before & 1 == 0
            }
        }
        order {}
    }
}
variant! {
    /// The odd count may be seen after the record's words.
    no_write_fence {
        sync {
            pub fn fence(ordering: Ordering) {
                if ordering != order::WRITE_FENCE {
                    hyp_core::sync::fence(ordering);
                }
            }
        }
        order {}
    }
}
variant! {
    /// The second look at the count may be older than the record's words.
    no_read_fence {
        sync {
            pub fn fence(ordering: Ordering) {
                if ordering != order::READ_FENCE {
                    hyp_core::sync::fence(ordering);
                }
            }
        }
        order {}
    }
}
variant! {
    /// The even count may be seen before the record's words.
    relaxed_even_count:
    pub const WRITE_SEQ_EVEN: Ordering = Ordering::Relaxed;
}
variant! {
    /// The record's words may be older than the first look at the count.
    relaxed_first_look:
    pub const READ_SEQ_FIRST: Ordering = Ordering::Relaxed;
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_writer_without_the_odd_phase_tears() {
    no_odd_phase::model::records(RECORDS);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_reader_that_takes_odd_for_even_tears() {
    no_odd_check::model::records(RECORDS);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_reader_that_does_not_look_again_tears() {
    no_second_look::model::records(RECORDS);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_writer_without_its_fence_tears() {
    no_write_fence::model::records(RECORDS);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_reader_without_its_fence_tears() {
    no_read_fence::model::records(RECORDS);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_even_count_tears() {
    relaxed_even_count::model::records(RECORDS);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_first_look_tears() {
    relaxed_first_look::model::records(RECORDS);
}

/// Generation and in-guest flag of the word, then the generation of a record read after it.
const WORDS: &[(u64, bool, Option<u64>)] = &[
    (0, false, None),
    (0, false, Some(0)),
    (0, false, Some(1)),
    (1, false, Some(1)),
    (1, true, Some(1)),
];

#[test]
fn a_record_is_as_new_as_the_word_read_before_it() {
    exactly(&production::model::words(WORDS), WORDS);
    exactly(&unchanged::model::words(WORDS), WORDS);
    exactly(&production::model::rests(WORDS), WORDS);
    exactly(&unchanged::model::rests(WORDS), WORDS);
}

variant! {
    /// The word may be seen before its record.
    relaxed_word_store:
    pub const WRITE_WORD: Ordering = Ordering::Relaxed;
}
variant! {
    /// The word on the way into the guest, or of one that waits, may be seen before its record.
    relaxed_enter:
    pub const WRITE_WORD_ENTER: Ordering = Ordering::Relaxed;
}
variant! {
    /// The record may be older than the word.
    relaxed_word_load:
    pub const READ_WORD: Ordering = Ordering::Relaxed;
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_word_store_outruns_its_record() {
    relaxed_word_store::model::words(WORDS);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_enter_outruns_its_record() {
    relaxed_enter::model::words(WORDS);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_word_of_one_that_waits_outruns_its_record() {
    relaxed_enter::model::rests(WORDS);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_word_load_finds_an_older_record() {
    relaxed_word_load::model::words(WORDS);
}

/// Not ready yet, or the template, and the word that holds it.
const READY: &[Option<[u64; 2]>] = &[None, Some([production::model::TEMPLATE; 2])];
/// Not ready yet, or the template.
const TEMPLATES: &[Option<u64>] = &[None, Some(production::model::TEMPLATE)];

#[test]
fn whoever_finds_the_vgic_ready_finds_the_template() {
    exactly(&production::model::ready(READY), READY);
    exactly(&production::model::ready_word(TEMPLATES), TEMPLATES);
    exactly(&unchanged::model::ready(READY), READY);
    exactly(&unchanged::model::ready_word(TEMPLATES), TEMPLATES);
}

variant! {
    /// The ready flag may be seen before the template.
    relaxed_ready_store:
    pub const READY_PUBLISH: Ordering = Ordering::Relaxed;
}
variant! {
    /// The template may be older than the ready flag.
    relaxed_ready_load:
    pub const READY_CHECK: Ordering = Ordering::Relaxed;
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_ready_store_outruns_the_template() {
    relaxed_ready_store::model::ready(READY);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_ready_load_finds_an_older_template() {
    relaxed_ready_load::model::ready(READY);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_word_load_finds_an_older_template() {
    relaxed_word_load::model::ready_word(TEMPLATES);
}

/// Both asked, both got the other's fresh value.
const BOTH_FRESH: &[[Option<u64>; 2]] = &[[Some(1), Some(1)]];

#[test]
fn two_pcpus_that_ask_each_other_both_get_fresh_values() {
    exactly(&production::model::kicks(production::model::RULES, BOTH_FRESH), BOTH_FRESH);
    exactly(&unchanged::model::kicks(unchanged::model::RULES, BOTH_FRESH), BOTH_FRESH);
}

#[test]
fn two_pcpus_that_ask_each_other_and_serve_nobody_both_time_out() {
    use production::model::{RULES, Rules, kicks};
    const NEITHER: &[[Option<u64>; 2]] = &[[None, None]];
    exactly(&kicks(Rules { serves: false, ..RULES }, NEITHER), NEITHER);
}

/// The answer then covers an older ticket, and the asker waits for ever: so does the model.
#[test]
#[should_panic(expected = "Model exceeded maximum number of branches")]
fn a_kick_without_the_barrier_before_its_sgi_is_lost() {
    use production::model::{RULES, Rules, kicks};
    kicks(Rules { barrier: false, ..RULES }, BOTH_FRESH);
}

variant! {
    /// The acknowledgement may be seen before what was published.
    relaxed_acknowledge:
    pub const KICK_ACKNOWLEDGE: Ordering = Ordering::Relaxed;
}
variant! {
    /// What was published may be seen older than the acknowledgement.
    relaxed_answered:
    pub const KICK_ANSWERED: Ordering = Ordering::Relaxed;
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_acknowledgement_outruns_the_value() {
    relaxed_acknowledge::model::kicks(relaxed_acknowledge::model::RULES, BOTH_FRESH);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_look_for_the_answer_finds_an_older_value() {
    relaxed_answered::model::kicks(relaxed_answered::model::RULES, BOTH_FRESH);
}

/// Whether the ticket was answered, and whether the answerer saw what was stored before the ticket was drawn.
const NOTES: &[(bool, u64)] = &[(false, 0), (false, 1), (true, 1)];

#[test]
fn whoever_answers_a_ticket_sees_what_was_stored_before_it() {
    exactly(&production::model::notes(NOTES), NOTES);
    exactly(&unchanged::model::notes(NOTES), NOTES);
}

variant! {
    /// The ticket may be seen before what the asker stored.
    relaxed_raise:
    pub const KICK_RAISE: Ordering = Ordering::Relaxed;
}
variant! {
    /// What the asker stored may be seen older than the ticket.
    relaxed_observe:
    pub const KICK_OBSERVE: Ordering = Ordering::Relaxed;
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_ticket_outruns_what_was_stored_before_it() {
    relaxed_raise::model::notes(NOTES);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_observation_misses_what_was_stored_before_the_ticket() {
    relaxed_observe::model::notes(NOTES);
}

/// What the target performed, what the requester was told, and whether the slot was free again at the end.
const REQUESTS: &[(Option<u64>, Answer, bool)] = &[
    (None, Answer::Untouched, true),
    (Some(6), Answer::Abandoned, true),
    (Some(6), Answer::Finished(6, 7), true),
];

#[test]
fn a_request_is_performed_whole_or_withdrawn_and_leaves_a_free_slot() {
    exactly(&production::model::requests(REQUESTS), REQUESTS);
    exactly(&unchanged::model::requests(REQUESTS), REQUESTS);
}

variant! {
    /// The request may be taken before its arguments are there.
    relaxed_submit:
    pub const REQUEST_SUBMIT: Ordering = Ordering::Relaxed;
}
variant! {
    /// The arguments may be older than the request.
    relaxed_take:
    pub const REQUEST_TAKE: Ordering = Ordering::Relaxed;
}
variant! {
    /// The request may be finished before its result is there.
    relaxed_finish:
    pub const REQUEST_FINISH: Ordering = Ordering::Relaxed;
}
variant! {
    /// The result may be older than the news that it is there.
    relaxed_poll:
    pub const REQUEST_POLL: Ordering = Ordering::Relaxed;
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_submission_loses_its_arguments() {
    relaxed_submit::model::requests(REQUESTS);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_take_finds_older_arguments() {
    relaxed_take::model::requests(REQUESTS);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_finish_loses_its_result() {
    relaxed_finish::model::requests(REQUESTS);
}

#[test]
#[should_panic(expected = "a bad outcome")]
fn a_relaxed_poll_finds_an_older_result() {
    relaxed_poll::model::requests(REQUESTS);
}

/// Two requesters, each with its own result; or one that found the slot taken.
const CONTENTION: &[[Option<u64>; 2]] = &[[Some(1), Some(2)], [None, Some(2)], [Some(1), None]];

#[test]
fn of_two_requesters_each_gets_its_own_result_or_finds_the_slot_taken() {
    exactly(&production::model::contention(CONTENTION), CONTENTION);
}
