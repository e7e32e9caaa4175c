//! The macros that make a module of a merge.
//!
//! Promises: they convert and do not decide; they need nothing of the crate that
//! calls them but a type. In a native build they export nothing, and only check
//! that the type has what the module needs. One call to a crate: a module has
//! one `fold`.

/// Makes this crate a module that folds with a [`Reconciler`](crate::Reconciler)
/// (or a [`JsonMerge`](crate::JsonMerge), which is one).
#[macro_export]
macro_rules! export {
    ($merge:ty) => {
        #[allow(dead_code)]
        const _: () = {
            struct Exported;

            impl $crate::Package for Exported {
                type Merge = $merge;
                const VERSION: &'static str = env!("CARGO_PKG_VERSION");
            }

            const fn is_a_reconciler<M: $crate::Reconciler>() {}
            is_a_reconciler::<$merge>();

            #[cfg(target_arch = "wasm32")]
            $crate::bindings::reconciler::export_reconciler!(
                Exported with_types_in $crate::bindings::reconciler
            );
        };
    };
}

/// Makes this crate a module of a [`DataType`](crate::DataType) (or a
/// [`JsonDataType`](crate::JsonDataType), which is one).
#[macro_export]
macro_rules! export_data_type {
    ($merge:ty) => {
        #[allow(dead_code)]
        const _: () = {
            struct Exported;

            impl $crate::Package for Exported {
                type Merge = $merge;
                const VERSION: &'static str = env!("CARGO_PKG_VERSION");
            }

            const fn is_a_data_type<M: $crate::DataType>() {}
            is_a_data_type::<$merge>();

            #[cfg(target_arch = "wasm32")]
            $crate::bindings::data_type::export_data_type!(
                Exported with_types_in $crate::bindings::data_type
            );
        };
    };
}

/// What a macro says of the crate that it is called in. Not for authors.
#[doc(hidden)]
pub trait Package {
    type Merge;
    /// The crate's, which this crate cannot see.
    const VERSION: &'static str;
}

#[cfg(target_arch = "wasm32")]
mod reconciler {
    use super::Package;
    use crate::bindings::reconciler::exports::kinfold::reconciler::{reconcile, samples};
    use crate::{Item, Outcome, Reconciler, Sibling};

    impl<P: Package<Merge: Reconciler>> reconcile::Guest for P {
        fn describe() -> reconcile::Description {
            reconcile::Description {
                summary: P::Merge::SUMMARY.to_owned(),
                version: P::VERSION.to_owned(),
                eager: P::Merge::EAGER,
            }
        }

        fn fold(item: Item, siblings: Vec<Sibling>) -> Result<Outcome, String> {
            P::Merge::fold(&item, &siblings)
        }
    }

    impl<P: Package<Merge: Reconciler>> samples::Guest for P {
        fn generate(seed: u64, count: u32) -> Vec<Vec<u8>> {
            P::Merge::samples(seed, count)
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod data_type {
    use super::Package;
    use crate::bindings::data_type::exports::kinfold::reconciler::{data_type, reconcile};
    use crate::{DataType, Event, Item, Outcome, Sibling};

    impl<P: Package<Merge: DataType>> reconcile::Guest for P {
        fn describe() -> reconcile::Description {
            reconcile::Description {
                summary: P::Merge::SUMMARY.to_owned(),
                version: P::VERSION.to_owned(),
                eager: P::Merge::EAGER,
            }
        }

        fn fold(item: Item, siblings: Vec<Sibling>) -> Result<Outcome, String> {
            P::Merge::fold(&item, &siblings)
        }
    }

    impl<P: Package<Merge: DataType>> data_type::Guest for P {
        fn apply(
            item: Item,
            state: Option<Vec<u8>>,
            operation: Vec<u8>,
            event: data_type::Event,
        ) -> Result<Vec<u8>, String> {
            let event = Event {
                dot: event.dot,
                written_at: event.written_at,
            };
            P::Merge::apply(&item, state.as_deref(), &operation, &event)
        }

        fn render(state: Vec<u8>) -> Result<data_type::View, String> {
            let view = P::Merge::render(&state)?;
            Ok(data_type::View {
                body: view.body,
                content_type: view.content_type.to_owned(),
            })
        }

        fn operations(seed: u64, count: u32) -> Vec<Vec<u8>> {
            P::Merge::operations(seed, count)
        }
    }
}
