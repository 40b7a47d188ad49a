//! What seeds have found: each defect's smallest schedule under its name. A failing seed prints one for the next.

use lockstep_tests::sim::replay;

/// What a source had answered alone was not in its image after a restart until somebody wrote again.
#[test]
fn a_source_without_its_mirror_shows_after_a_restart_what_it_answered_alone() {
    replay(
        "noise 1 policy sync ack durable timeout 400 interval 5000
           50 create-bucket 0
          300 crash b
          400 put 0 0
         2000 crash a
         2050 restart a
         6000 read a 0",
    );
}

/// One step of a collection was all that a consistency point brought: what was dropped faster stayed for ever.
#[test]
fn everything_that_was_dropped_between_two_consistency_points_is_collected() {
    replay(
        "noise 2 policy sync ack durable timeout 1000 interval 60000
           50 create-bucket 0
          300 put 0 2
          310 put 0 2
          320 put 0 2
          330 put 0 2
          340 put 0 2
          350 put 0 2
          360 put 0 2
          370 put 0 2
          380 put 0 2
          390 put 0 2
          400 put 0 2
          410 put 0 2
          420 put 0 2
          430 put 0 2
          440 delete 0",
    );
}
