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

/// A source that had to adopt records from its mirror let readers see its image before these were in it, and a copy was
/// made of what an answered write had replaced.
#[test]
fn nobody_reads_a_source_before_it_holds_what_it_adopted() {
    replay(
        "noise 5768761697313679075 policy sync ack durable timeout 400 interval 5000
             50 create-bucket 0
             50 create-bucket 1
             79 delete 0 at b
             79 put 4 0 require durable
            456 complete 0
            457 copy 3 0
            457 create-upload 0
            460 slow-disk a
            464 put 4 0
            465 put 1 0
            470 put 3 0
            474 put 2 1
            483 crash a
            483 restart a
            483 fast-disk a
            483 order b sync
            948 copy 4 1",
    );
}

/// A source that answers alone had begun to adopt when its mirror went away: it refused readers until somebody wrote.
#[test]
fn a_source_that_answers_alone_can_be_read_when_an_adoption_is_cut_short() {
    replay(
        "noise 5974711599049461752 policy async ack durable timeout 1000 interval 300
            263 part 1 2 1
            309 put 3 2
            310 crash a
            352 restart a
            358 cut a
          10811 read a 3",
    );
}

/// An operator who has the wrong end rebuilt: the only source would have given the origin up, and its peer is fenced.
#[test]
fn a_source_is_not_rebuilt_from_a_peer_that_is_none() {
    replay(
        "noise 14224687019142526817 policy async ack received timeout 400 interval 5000
           4008 order b promote-lossy
           4686 order b rebuild-lossy",
    );
}

/// A damaged source must not begin a new epoch to give a baseline: what it lacks may have been answered.
#[test]
fn a_source_with_damaged_records_waits_also_for_a_mirror_that_begins_anew() {
    replay(
        "noise 7 policy sync ack durable timeout 1000 interval 5000
             50 create-bucket 0
             60 put 0 0
            300 put 1 1
            310 put 2 1
            320 put 3 1
            330 put 0 1
            340 put 1 0
            420 rot a
            430 renew b
            900 restart a",
    );
}

/// A source gave up damaged records that an epoch began after: its table of epochs did not rise any more, and no mirror took
/// it.
#[test]
fn epochs_of_records_that_are_given_up_go_with_them() {
    replay(
        "noise 3797284176430063138 policy sync ack durable timeout 3000 interval 300 way-back
             50 create-bucket 0
            235 order a sync
            270 part 0 2 4
            785 put 3 1 require durable
            833 slow-disk a
            840 put 1 1
            841 put 3 0 require received
            842 put 0 1
            845 put 4 0
            859 fast-disk a
            859 crash a
            916 restart a
            970 cut b
           4285 rot a
           5015 renew b",
    );
}

/// A source that took its offer back told its peer of the new epoch before that was durable, and lost power: the peer was
/// deposed by an epoch that nobody had, and both were fenced.
#[test]
fn nobody_is_deposed_by_an_epoch_that_is_not_stored() {
    replay(
        "noise 972293244647877592 policy sync ack durable timeout 1000 interval 300 way-back
           4918 part 1 2 1
           4918 put 0 16
           4931 crash-after b 2
           4947 put 1 2
           4978 put 4 0
           5006 put 2 0
           5016 put 2 1
          10020 complete 1 require durable
          10023 crash a
          10063 order b promote
          10108 abandon 1 at b
          10108 restart a
          11832 put 2 1
          12201 create-upload 0
          12204 cut b
          12231 put 4 0 require received
          12271 put 0 2
          12296 delete 3
          12296 part 1 1 1
          12355 create-bucket 1
          12386 copy 2 3
          12408 heal
          12408 crash-after b 24
          12408 copy 0 2
          12409 complete 0
          12466 abandon 2
          13008 crash-after a 61
          13022 put 2 0
          13027 part 0 2 1 require received
          14595 part 0 2 1
          14598 copy 3 0 at b
          14598 create-upload 0 require applied
          14601 abort 0
          14636 put 4 4 at a
          16145 crash-after b 18
          16145 order b failback
          16248 order b promote-lossy
          16248 restart a",
    );
}

/// A source that had begun an epoch lost the end of its log before it: the mirror, which had some of that end, refused it for
/// ever because the two tables of epochs named no common point.
#[test]
fn a_source_that_lost_records_before_its_newest_epoch_gets_them_back() {
    replay(
        "noise 17370781930151909382 policy sync ack applied timeout 3000 interval 300 way-back
         4025 put 0 2
         4025 put 1 1
         4035 put-if 1 2 at b
         4188 create-upload 1
         4204 part 1 1 1
         4206 copy 0 0
         4350 create-upload 1
         4796 put-if 0 0
         4806 part 1 1 2
         4904 abandon 1
         4935 complete 1
         4973 copy 4 1
         5040 put-if 1 2 at b
         5059 abandon 1
         5061 delete 0
         5063 put 2 0
         5103 put 1 0
         5704 abort 1
         5704 put-if 1 0
         5762 delete-bucket 1
         5764 part 0 1 1
         5764 delete 4
         5812 part 1 1 1
         5875 create-upload 1 require durable
         5918 put 0 2
         5918 put 3 0
         5919 fail-persist a
         6522 restart a
         6645 rot a",
    );
}

/// A source that had never flushed lost all of its log: it was taken for one whose data directory is gone, although its mirror
/// has everything.
#[test]
fn a_source_that_lost_all_of_a_young_log_gets_it_back() {
    replay(
        "noise 15205007986540245245 policy sync ack applied timeout 1000 interval 300 way-back backlog 20000
           50 create-bucket 0
           50 create-bucket 1
           53 part 1 1 1
           80 put 1 1
           82 put 3 0 at b require applied
           84 put 3 0
          100 put 2 0
          110 put 2 1
          125 put 2 1
          177 shear a",
    );
}

/// A deposed source set its own records aside, and of an object that had begun before them only the rest of the bytes.
#[test]
fn an_object_that_had_begun_before_a_tail_is_set_aside_whole() {
    replay(
        "noise 12707405391860838223 policy async ack durable timeout 400 interval 300 way-back
             50 create-bucket 1
           1518 put-if 4 16 at a
           1537 crash b
           4348 restart b
           4752 order b promote-lossy",
    );
}
