//! Scenes of causality: joining sibling sets, hashing them, tokens.

use kinfold::api::token;
use kinfold::protocol::context::Context;
use kinfold::protocol::siblings::SiblingSet;

use super::{SMALL_BYTES, Scene, blind, dot, key, version};

/// How many siblings the sets have that are joined.
const SIBLINGS: [u64; 3] = [1, 4, 16];

/// All of them.
pub fn scenes() -> Vec<Scene> {
    let mut scenes = Vec::new();
    for siblings in SIBLINGS {
        let mine = blind(0..siblings, SMALL_BYTES);
        // Somebody who saw all of mine wrote since.
        let mut newer = mine.clone();
        newer.put(mine.context(), dot(7, 1), version(SMALL_BYTES));
        // As many others were written elsewhere, by writers who saw nothing.
        let concurrent = blind(siblings..2 * siblings, SMALL_BYTES);
        for (what, theirs) in [
            ("equal", mine.clone()),
            ("newer", newer),
            ("concurrent", concurrent),
        ] {
            let name = format!("sync/{siblings} siblings, {what}");
            scenes.push(sync(name, mine.clone(), theirs));
        }
    }
    for siblings in [1, 16] {
        let set = blind(0..siblings, SMALL_BYTES);
        let name = format!("state hash/{siblings} siblings");
        scenes.push(Scene::new(name, || (), move |()| set.hash()));
    }
    for actors in [3, 20] {
        let mut context = Context::new();
        for actor in 0..actors {
            for counter in 1..=4 {
                context.add(dot(actor, counter), 1_700_000_000_000_000 + counter);
            }
        }
        let key = key(1);
        let text = token::of_read(&key, &context);
        scenes.push(Scene::new(
            format!("token/encode, {actors} actors"),
            || (),
            {
                let (key, context) = (key.clone(), context.clone());
                move |()| token::of_read(&key, &context)
            },
        ));
        scenes.push(Scene::new(
            format!("token/decode, {actors} actors"),
            || (),
            move |()| token::decode(&key, &text).expect("our own token"),
        ));
    }
    scenes
}

fn sync(name: String, mine: SiblingSet, theirs: SiblingSet) -> Scene {
    Scene::new(
        name,
        move || mine.clone(),
        move |mut set| {
            set.sync(&theirs);
            set
        },
    )
}
