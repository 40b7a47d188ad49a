//! One suite for every engine: what stands above the seam must come out the same on RocksDB and on the double.

#[path = "image_conformance/baseline.rs"]
mod baseline;
#[path = "image_conformance/bed.rs"]
mod bed;
#[path = "image_conformance/cases.rs"]
mod cases;
#[path = "image_conformance/engines.rs"]
mod engines;
#[path = "image_conformance/random.rs"]
mod random;
#[path = "image_conformance/repair.rs"]
mod repair;
#[path = "image_conformance/tables.rs"]
mod tables;

macro_rules! on_both_engines {
    ($($file:ident: $($case:ident),+;)+) => {
        mod on_memory {
            $($(#[test] fn $case() { super::$file::$case(super::bed::Bed::memory()); })+)+
        }
        mod on_rocks {
            $($(#[test] fn $case() { super::$file::$case(super::bed::Bed::rocks()); })+)+
        }
    };
}

on_both_engines! {
    baseline:
        a_baseline_is_the_image_and_goes_on_as_it_does,
        a_baseline_goes_on_after_a_crash_of_either_end,
        what_is_frozen_keeps_what_is_dropped_later,
        what_is_not_whole_is_no_image,
        a_damaged_chunk_is_left_out_and_counted;
    cases:
        an_object_is_read_as_it_was_put,
        a_view_does_not_change,
        records_must_follow_each_other,
        apply_stops_where_it_is_told_and_does_nothing_twice,
        the_log_is_read_back_and_trimmed,
        only_what_is_applied_is_trimmed,
        a_corrupt_chunk_is_found,
        a_corrupt_record_stops_apply,
        what_comes_before_a_corrupt_record_is_applied,
        an_overwritten_body_is_collected_when_its_time_has_come,
        copies_share_a_body,
        a_body_that_waits_can_be_taken_again,
        many_chunks_and_many_bodies_are_collected_in_steps,
        an_upload_becomes_an_object,
        an_aborted_upload_and_a_deleted_bucket_leave_nothing,
        an_epoch_gives_up_what_the_one_before_left_open,
        what_is_not_applied_can_be_cut,
        a_flush_survives_a_crash,
        a_crash_without_a_flush_leaves_a_prefix;
    repair:
        a_damaged_chunk_gets_its_bytes_back,
        a_repair_of_what_is_collected_leaves_nothing,
        bytes_from_elsewhere_are_checked_too;
    tables:
        users_and_their_keys,
        buckets_are_listed_by_name,
        records_that_do_not_fit_change_nothing,
        objects_are_rolled_up_at_a_delimiter,
        uploads_are_listed_by_key_and_id;
}
