//! `cart-union`: the cart of the Dynamo paper. See [`merge`] for what it promises.

#[forbid(unsafe_code)]
pub mod merge;

kinfold_reconciler::export!(merge::CartUnion);
