//! What is refused, and in which words.

use super::*;

#[test]
fn refuses_what_is_no_operation_and_says_what_is() {
    for wrong in [
        "",
        "{}",
        "null",
        "{\"add\":1}",
        "{\"add\":null}",
        "{\"add\":\"a\",\"quantity\":0}",
        "{\"add\":\"a\",\"quantity\":-1}",
        "{\"add\":\"a\",\"quantity\":1.5}",
        "{\"add\":\"a\",\"quantity\":9007199254740992}",
        "{\"set\":\"a\"}",
        "{\"remove\":\"a\",\"quantity\":1}",
        "{\"add\":\"a\",\"remove\":\"b\"}",
        "{\"add\":\"a\",\"add\":\"b\"}",
        "{\"add\":\"a\",\"note\":1}",
        "{\"add\":\"a\"} x",
        "[\"a\",null,null,2]",
    ] {
        let error = OrCart::apply(&item(), None, wrong.as_bytes(), &event(1, 1)).expect_err(wrong);
        assert!(
            error.starts_with("an operation on a cart is {\"add\":"),
            "{error}"
        );
    }
}

#[test]
fn refuses_states_that_it_did_not_make() {
    let (mut a, _) = two();
    a.does(r#"{"set":"apple","quantity":2}"#)
        .does(r#"{"add":"apple"}"#);
    let good = a.state().unwrap();
    for cut in 0..good.len() {
        assert!(OrCart::render(&good[..cut]).is_err(), "cut at {cut}");
    }
    let error = OrCart::render(b"{\"apple\":1}").unwrap_err();
    assert!(
        error.starts_with("this is not the state of an or-cart: "),
        "{error}"
    );
    assert!(
        OrCart::render(&[good, &[0]].concat()).is_err(),
        "bytes left over"
    );
    // Version 1, no actors, and a count that the bytes do not bear out.
    assert!(
        OrCart::render(&[
            1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1
        ])
        .is_err()
    );
}

/// Every rule of the layout, broken one at a time.
#[test]
fn refuses_forged_states_and_says_why() {
    // One actor, `a`, seen up to 5; it set 2 of `x` under dot 1 and added 1
    // under dot 3 and 1 under dot 5.
    let good = [1, 1, 1, b'a', 5, 1, 1, b'x', 1, 0, 5, 1, 2, 2, 1, 2, 1];
    assert_eq!(view::<OrCart>(&good), r#"{"x":4}"#);
    for (at, byte, why) in [
        (0, 2, "its first byte names no version"),
        (4, 0, "actors are not in order"),
        (4, 4, "a dot is above its actor's newest"),
        (7, 0xff, "a name is not UTF-8"),
        (8, 0, "items are not in order"),
        (9, 1, "an entry names no actor"),
        (10, 0, "an entry is empty"),
        (10, 19, "an entry has too many additions"),
        (10, 7, "it ends too early"),
        (10, 3, "bytes are left over"),
        (11, 0, "dots are not in order"),
        (12, 0, "a quantity is zero"),
        (13, 0, "dots are not in order"),
        (15, 0, "dots are not in order"),
        (16, 0, "a quantity is zero"),
        (16, 0x80, "it ends too early"),
    ] {
        let mut forged = good;
        forged[at] = byte;
        let error = OrCart::render(&forged).expect_err(why);
        assert!(error.contains(why), "byte {at} as {byte}: {error}");
    }
    let twice = [1, 2, 1, b'a', 5, 1, b'a', 5, 0];
    assert!(
        OrCart::render(&twice)
            .unwrap_err()
            .contains("actors are not in order")
    );
    let huge = [1, 1, 1, b'a', 1, 1, 1, b'x', 1, 0, 3, 1, 1];
    let huge = [
        &huge[..],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1],
    ]
    .concat();
    assert!(
        OrCart::render(&huge)
            .unwrap_err()
            .contains("above its actor's newest")
    );
}
