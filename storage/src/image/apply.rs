//! stub
use super::{Engine, ImageError};
use crate::{
    id::{Position, Seq},
    record::Record,
};
pub(super) fn append(_: &dyn Engine, _: &[Record]) -> Result<Position, ImageError> {
    todo!()
}
pub(super) fn apply(_: &dyn Engine, _: Seq, _: usize) -> Result<Position, ImageError> {
    todo!()
}
pub(super) fn trim(_: &dyn Engine, _: Seq) -> Result<(), ImageError> {
    todo!()
}
pub(super) fn cut(_: &dyn Engine, _: Position) -> Result<(), ImageError> {
    todo!()
}
pub(super) fn collect(_: &dyn Engine, _: Seq, _: usize) -> Result<usize, ImageError> {
    todo!()
}
