//! The history checker is proved on planted violations, and on random histories of a real register.

mod history {
    mod bed;
    mod planted;
    mod random;
    mod sets;
}
