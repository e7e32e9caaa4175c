//! `cart-union`: the cart of the Dynamo paper. See [`merge`] for what it promises.

#[forbid(unsafe_code)]
pub mod merge;

kinfold_guest::export_reconciler! {
    merge: merge,
    summary: "The Dynamo paper's cart: the union of items, the larger quantity of each; a removed item can come back",
    eager: false,
}
