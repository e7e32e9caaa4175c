//! `misbehave`: a guest that does on request what a sandbox is for.
//!
//! The value of the first sibling is the request:
//!
//! | value | what happens |
//! | --- | --- |
//! | `trap` | a panic, that is `unreachable` |
//! | `spin` | no end |
//! | `hog` | memory without end |
//! | `huge` | 8 MiB of output |
//! | `error` | the error `asked to fail` |
//! | `unresolved` | `unresolved` |
//! | `delete` | `deleted` |
//! | `remember` | how often this instance was asked before, in decimal: always `0` where instances are fresh |
//!
//! Any other value: all the values, one after the other, as they come. That
//! minds the order, so the law check has something to find.

#[cfg(target_arch = "wasm32")]
mod glue {
    use std::sync::atomic::{AtomicU32, Ordering};

    wit_bindgen::generate!({ path: "../../../wit", world: "reconciler" });

    use exports::kinfold::reconciler::reconcile::{Description, Guest, Item, Outcome, Sibling};

    static ASKED: AtomicU32 = AtomicU32::new(0);

    struct Misbehave;

    impl Guest for Misbehave {
        fn describe() -> Description {
            Description {
                summary: "Misbehaves on request, for tests".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                eager: false,
            }
        }

        fn fold(_: Item, siblings: Vec<Sibling>) -> Result<Outcome, String> {
            let asked_before = ASKED.fetch_add(1, Ordering::Relaxed);
            let request = siblings
                .first()
                .and_then(|sibling| sibling.value.as_deref());
            match request.unwrap_or_default() {
                b"trap" => panic!("asked to trap"),
                b"spin" => loop {
                    std::hint::spin_loop();
                },
                b"hog" => {
                    let mut hoard: Vec<Vec<u8>> = Vec::new();
                    loop {
                        hoard.push(vec![1; 1 << 16]);
                        std::hint::black_box(&hoard);
                    }
                }
                b"huge" => Ok(Outcome::Merged(vec![b'x'; 8 << 20])),
                b"error" => Err("asked to fail".to_owned()),
                b"unresolved" => Ok(Outcome::Unresolved),
                b"delete" => Ok(Outcome::Deleted),
                b"remember" => Ok(Outcome::Merged(asked_before.to_string().into_bytes())),
                _ => {
                    let values = siblings.into_iter().filter_map(|sibling| sibling.value);
                    Ok(Outcome::Merged(values.flatten().collect()))
                }
            }
        }
    }

    export!(Misbehave);
}
