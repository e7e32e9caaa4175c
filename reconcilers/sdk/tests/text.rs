//! Canonical texts against a reader of JSON that others wrote, and by hand.

use std::cmp::Ordering;

use kinfold_reconciler::json::text::*;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::Value;

fn text(json: &str) -> String {
    canonical(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"))
}

#[test]
fn equal_values_have_one_text() {
    for (json, expected) in [
        (" null\n", "null"),
        ("true", "true"),
        ("-0", "0"),
        ("-0.0e5", "0"),
        ("1.0", "1"),
        ("1e0", "1"),
        ("10E-1", "1"),
        ("-1.50", "-1.5"),
        ("1e3", "1000"),
        ("1.5e3", "1500"),
        ("0.000001", "0.000001"),
        ("0.0000001", "1e-7"),
        ("12.5e-9", "1.25e-8"),
        ("9007199254740991", "9007199254740991"),
        ("-9007199254740991.0", "-9007199254740991"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("5e-324", "5e-324"),
        ("100000000000000000000e-20", "1"),
        (r#""\u0041\/\u00e9""#, "\"A/é\""),
        (r#""\ud83d\ude00""#, "\"😀\""),
        (
            r#""\u0000\u0008\u000a\u001f\"\\""#,
            r#""\u0000\b\n\u001f\"\\""#,
        ),
        ("[ ]", "[]"),
        ("[ 1 , [2.0] ]", "[1,[2]]"),
        ("{ }", "{}"),
        (
            r#"{"b":1,"a":{"d":[],"c":0}}"#,
            r#"{"a":{"c":0,"d":[]},"b":1}"#,
        ),
        (r#"{"\u0061":1,"":2}"#, r#"{"":2,"a":1}"#),
    ] {
        assert_eq!(text(json), expected, "{json}");
        assert!(is_canonical(expected), "{expected}");
        assert_eq!(is_canonical(json), json == expected, "{json}");
    }
}

/// Every refusal says where, and what would be right.
#[test]
fn refuses_what_readers_differ_on_and_says_where() {
    for (json, at, what) in [
        ("", 0, "it ends where a JSON value would begin"),
        ("nul", 0, "only null begins like this"),
        ("wrong", 0, "a JSON value would begin here"),
        ("1 2", 2, "the value has ended"),
        ("01", 0, "no leading zeros"),
        ("1.", 2, "a digit here"),
        ("-", 1, "a digit here"),
        ("1e+", 3, "a digit here"),
        ("9007199254740992", 0, "send a larger one as a string"),
        ("[-1e300]", 1, "within ±9007199254740991"),
        ("1e999999999999999999999", 0, "within ±9007199254740991"),
        ("0.1000000000000000055", 0, "round it"),
        ("1e-400", 0, "round it"),
        ("0.30000000000000001", 0, "round it"),
        ("[1,]", 3, "a JSON value would begin here"),
        ("[1 2]", 3, "with a comma or ends with ]"),
        ("[1", 2, "with a comma or ends with ]"),
        (r#"{"a":1,}"#, 7, "an object's key would begin here"),
        (r#"{"a" 1}"#, 5, "a colon would follow"),
        (r#"{"a":1"#, 6, "with a comma or ends with }"),
        (r#"{"a":1,"\u0061":2}"#, 7, r#"the key "a" is there twice"#),
        (
            r#"[{"b":0,"a":1,"b":2}]"#,
            14,
            r#"the key "b" is there twice"#,
        ),
        (r#""a"#, 2, "a string has no end"),
        ("\"\t\"", 1, "a control character"),
        (r#""\x""#, 1, "after a backslash"),
        (r#""\u12g4""#, 1, "four hexadecimal digits"),
        (r#""\ud83d""#, 1, "half of a surrogate pair"),
        (r#""\ud83dA""#, 1, "half of a surrogate pair"),
        (r#""\ude00""#, 1, "half of a surrogate pair"),
        (r#""\ud83d\ud83d""#, 1, "half of a surrogate pair"),
    ] {
        let error = canonical(json.as_bytes()).expect_err(json);
        assert!(
            error.starts_with(&format!("at byte {at}: ")),
            "{json}: {error}"
        );
        assert!(error.contains(what), "{json}: {error}");
    }
    let error = canonical(b"[\"\xff\"]").unwrap_err();
    assert!(error.starts_with("at byte 2: JSON is UTF-8"), "{error}");
}

#[test]
fn depth_and_length_are_bounded() {
    let nested = |depth| [vec![b'['; depth], vec![b']'; depth]].concat();
    assert!(canonical(&nested(MAX_DEPTH + 1)).is_ok());
    let error = canonical(&nested(MAX_DEPTH + 2)).unwrap_err();
    assert!(error.contains("nests more than 64 deep"), "{error}");
    assert!(canonical(&vec![b'['; MAX_BYTES]).is_err());
    let long = format!("\"{}\"", "x".repeat(MAX_BYTES - 2));
    assert_eq!(text(&long), long);
    let error = canonical(format!("{long} ").as_bytes()).unwrap_err();
    assert!(error.contains("at most 1048576"), "{error}");
}

/// The order, spelt out: each lies before the next.
#[test]
fn values_have_an_order() {
    let ascending = [
        "null",
        "false",
        "true",
        "-10",
        "-9.5",
        "0",
        "1e-7",
        "0.5",
        "2",
        "10",
        "\"\"",
        r#""\u0000""#,
        r#""\n""#,
        "\" \"",
        r#""\"""#,
        "\"10\"",
        "\"2\"",
        "\"A\"",
        r#""\\""#,
        "\"a\"",
        "\"aa\"",
        "\"a\u{7f}\"",
        "\"é\"",
        "\"\u{ffff}\"",
        "\"😀\"",
        "[]",
        "[null]",
        "[null,null]",
        "[1]",
        "[1,\"]\"]",
        "[2]",
        "[10]",
        "[[]]",
        "{}",
        r#"{"a":1}"#,
        r#"{"a":1,"b":0}"#,
        r#"{"a":2}"#,
        r#"{"b":0}"#,
    ];
    for (place, one) in ascending.iter().enumerate() {
        assert!(is_canonical(one), "{one}");
        for (other_place, other) in ascending.iter().enumerate() {
            let order = Ordered(one).cmp(&Ordered(other));
            assert_eq!(order, place.cmp(&other_place), "{one} and {other}");
        }
    }
}

#[test]
fn takes_arrays_and_objects_apart() {
    let array = r#"["a,]",[1,[2]],{"x":[3]},4]"#;
    let parts: Vec<&str> = items(array).collect();
    assert_eq!(parts, ["\"a,]\"", "[1,[2]]", "{\"x\":[3]}", "4"]);
    assert_eq!(items("[]").count(), 0);
    let object = r#"{"":0,"a:,\"":{"b":1},"c":[2,3]}"#;
    let parts: Vec<(String, &str)> = members(object)
        .map(|(key, value)| (unquoted(key), value))
        .collect();
    assert_eq!(
        parts,
        [
            (String::new(), "0"),
            ("a:,\"".to_owned(), "{\"b\":1}"),
            ("c".to_owned(), "[2,3]")
        ]
    );
    assert_eq!(members("{}").count(), 0);
}

/// Any value of which every reader keeps everything.
fn value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        (-(1_i64 << 53) + 1..1 << 53).prop_map(Value::from),
        (-4..4_i64).prop_map(Value::from),
        (-1e9..1e9_f64).prop_map(Value::from),
        (-324..16_i32, 1.0..10.0_f64).prop_map(|(power, digit)| {
            let double: f64 = format!("{digit}e{power}").parse().unwrap();
            Value::from(if double.abs() < 9e15 { double } else { 0.0 })
        }),
    ];
    let string = "[a-c\\x00-\\x20\"\\\\é😀]{0,4}";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number,
        string.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(string, inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The order of values, said once more over serde's tree.
fn plainly(one: &Value, other: &Value) -> Ordering {
    let kind = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(false) => 1,
        Value::Bool(true) => 2,
        Value::Number(_) => 3,
        Value::String(_) => 4,
        Value::Array(_) => 5,
        Value::Object(_) => 6,
    };
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one.as_f64().partial_cmp(&other.as_f64()).unwrap()
        }
        (Value::String(one), Value::String(other)) => one.cmp(other),
        (Value::Array(one), Value::Array(other)) => {
            let pairs = one.iter().zip(other).map(|(a, b)| plainly(a, b));
            let first = pairs.into_iter().find(|order| order.is_ne());
            first.unwrap_or(one.len().cmp(&other.len()))
        }
        (Value::Object(one), Value::Object(other)) => {
            let pairs = one
                .iter()
                .zip(other)
                .map(|((k, v), (key, value))| k.cmp(key).then_with(|| plainly(v, value)));
            let first = pairs.into_iter().find(|order| order.is_ne());
            first.unwrap_or(one.len().cmp(&other.len()))
        }
        _ => kind(one).cmp(&kind(other)),
    }
}

/// 594794310044490.25 is the double, and two texts of 16 digits are as near.
#[test]
fn a_double_between_two_texts_has_one() {
    assert_eq!(text("594794310044490.2"), text("594794310044490.3"));
    assert!(canonical(b"594794310044490.25").is_err());
}

proptest! {
    /// What serde writes is read, loses nothing, and is then canonical.
    #[test]
    fn keeps_every_value(value in value()) {
        let written = serde_json::to_string(&value).unwrap();
        let canonical = text(&written);
        prop_assert!(is_canonical(&canonical), "{canonical}");
        let pretty = serde_json::to_string_pretty(&value);
        if let Ok(pretty) = pretty {
            prop_assert_eq!(&text(&pretty), &canonical);
        }
        let again: Value = serde_json::from_str(&canonical).unwrap();
        prop_assert_eq!(plainly(&again, &value), Ordering::Equal, "{} {}", written, canonical);
    }

    #[test]
    fn orders_as_the_plain_order_does(one in value(), other in value()) {
        let (ours, theirs) = (text(&one.to_string()), text(&other.to_string()));
        let order = Ordered(&ours).cmp(&Ordered(&theirs));
        prop_assert_eq!(order, plainly(&one, &other), "{} {}", ours, theirs);
        prop_assert_eq!(order.is_eq(), ours == theirs);
    }

    /// Any bytes at all are refused, or are what another reader takes too and
    /// have a canonical text.
    #[test]
    fn reads_any_bytes(
        value in value(),
        edits in vec((any::<prop::sample::Index>(), prop::sample::select(&b"\"\\{}[]:,0-1.eEu\x00x\xff "[..])), 0..4),
    ) {
        let mut bytes = value.to_string().into_bytes();
        for (index, byte) in edits {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(canonical) = canonical(&bytes) {
            prop_assert!(is_canonical(&canonical), "{canonical}");
            prop_assert!(serde_json::from_slice::<Value>(&bytes).is_ok(), "{canonical}");
            prop_assert!(Ordered(&canonical).cmp(&Ordered(&canonical)).is_eq());
        }
    }
}
