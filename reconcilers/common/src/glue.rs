//! The WIT side of a guest: macros that tie merge logic to `wit/reconciler.wit`.
//!
//! Promises: they convert and do not decide. Outside the wasm build they expand
//! to nothing, so a guest's merge logic is an ordinary library. The module of
//! merge logic, a sibling of the macro's call, has:
//!
//! - `fold(&[Sibling]) -> Result<Outcome, String>`, always;
//! - `samples(seed: u64, count: u32) -> Vec<Vec<u8>>`, for
//!   [`export_reconciler!`](crate::export_reconciler);
//! - `apply(Option<&[u8]>, &[u8], &Event) -> Result<Vec<u8>, String>`,
//!   `render(&[u8]) -> Result<View, String>` and `operations(u64, u32)`, for
//!   [`export_data_type!`](crate::export_data_type).

/// Exports the world `checked-reconciler` from a module of merge logic.
#[macro_export]
macro_rules! export_reconciler {
    (merge: $merge:ident, summary: $summary:literal, eager: $eager:literal $(,)?) => {
        #[cfg(target_arch = "wasm32")]
        mod glue {
            $crate::wit_bindgen::generate!({
                path: "../../wit",
                world: "checked-reconciler",
                runtime_path: "kinfold_guest::wit_bindgen::rt",
            });
            $crate::export_fold!($merge, $summary, $eager);

            impl exports::kinfold::reconciler::samples::Guest for Guest {
                fn generate(seed: u64, count: u32) -> Vec<Vec<u8>> {
                    super::$merge::samples(seed, count)
                }
            }

            export!(Guest);
        }
    };
}

/// Exports the world `data-type-reconciler` from a module of merge logic.
#[macro_export]
macro_rules! export_data_type {
    (merge: $merge:ident, summary: $summary:literal, eager: $eager:literal $(,)?) => {
        #[cfg(target_arch = "wasm32")]
        mod glue {
            $crate::wit_bindgen::generate!({
                path: "../../wit",
                world: "data-type-reconciler",
                runtime_path: "kinfold_guest::wit_bindgen::rt",
            });
            $crate::export_fold!($merge, $summary, $eager);

            use exports::kinfold::reconciler::data_type;

            impl data_type::Guest for Guest {
                fn apply(
                    _: data_type::Item,
                    state: Option<Vec<u8>>,
                    operation: Vec<u8>,
                    event: data_type::Event,
                ) -> Result<Vec<u8>, String> {
                    let event = $crate::Event {
                        dot: $crate::Dot { actor: event.dot.actor, counter: event.dot.counter },
                        written_at: event.written_at,
                    };
                    super::$merge::apply(state.as_deref(), &operation, &event)
                }

                fn render(state: Vec<u8>) -> Result<data_type::View, String> {
                    let view = super::$merge::render(&state)?;
                    Ok(data_type::View {
                        body: view.body,
                        content_type: view.content_type.to_owned(),
                    })
                }

                fn operations(seed: u64, count: u32) -> Vec<Vec<u8>> {
                    super::$merge::operations(seed, count)
                }
            }

            export!(Guest);
        }
    };
}

/// The interface that every world has. Not for guests: the macros above use it.
#[doc(hidden)]
#[macro_export]
macro_rules! export_fold {
    ($merge:ident, $summary:literal, $eager:literal) => {
        use exports::kinfold::reconciler::reconcile;

        struct Guest;

        impl reconcile::Guest for Guest {
            fn describe() -> reconcile::Description {
                reconcile::Description {
                    summary: $summary.to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    eager: $eager,
                }
            }

            fn fold(
                _: reconcile::Item,
                siblings: Vec<reconcile::Sibling>,
            ) -> Result<reconcile::Outcome, String> {
                let siblings: Vec<$crate::Sibling> = siblings
                    .into_iter()
                    .map(|sibling| $crate::Sibling {
                        value: sibling.value,
                        written_at: sibling.written_at,
                        dot: $crate::Dot {
                            actor: sibling.dot.actor,
                            counter: sibling.dot.counter,
                        },
                    })
                    .collect();
                super::$merge::fold(&siblings).map(|outcome| match outcome {
                    $crate::Outcome::Merged(value) => reconcile::Outcome::Merged(value),
                    $crate::Outcome::Deleted => reconcile::Outcome::Deleted,
                })
            }
        }
    };
}
