//! `imports`: a guest that asks for a clock. It folds like any other and must be
//! refused all the same, by name of the import: `bad:clock/wall@0.1.0`.

#[cfg(target_arch = "wasm32")]
mod glue {
    wit_bindgen::generate!({
        inline: "
            package bad:clock@0.1.0;
            interface wall { now: func() -> u64; }
            world reconciler {
                import wall;
                export kinfold:reconciler/reconcile@1.0.0;
            }
        ",
        path: "../../../wit",
        world: "bad:clock/reconciler",
        generate_all,
    });

    use exports::kinfold::reconciler::reconcile::{Description, Guest, Item, Outcome, Sibling};

    struct Clock;

    impl Guest for Clock {
        fn describe() -> Description {
            Description {
                summary: "Answers with the time, which no fold may know".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                eager: false,
            }
        }

        fn fold(_: Item, _: Vec<Sibling>) -> Result<Outcome, String> {
            Ok(Outcome::Merged(
                bad::clock::wall::now().to_string().into_bytes(),
            ))
        }
    }

    export!(Clock);
}
