//! Whoever means harm at the other two listeners: that for operators, and that for the other site.

#[path = "listeners_hostile/admin.rs"]
mod admin;
#[path = "listeners_hostile/mirror.rs"]
mod mirror;
#[path = "../../mirror/tests/link/raw.rs"]
mod visitor;
