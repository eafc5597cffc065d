//! JSONPath, as a table.

use pvm_asl::path::{Path, ReferencePath};
use serde_json::{Value, json};

fn document() -> Value {
    json!({
        "a": { "b": [10, { "c": "deep" }], "empty": {}, "null": null, "snake_case": 1, "kebab-case": 2 },
        "two words": 3, "Straße": 4, "0": "a field", "list": [[1, 2], [3]], "dotted.name": 5,
    })
}

#[test]
fn a_path_finds_exactly_one_place() {
    let cases = [
        ("$", Some(document())),
        ("$.a.b", Some(json!([10, { "c": "deep" }]))),
        ("$.a.b[0]", Some(json!(10))),
        ("$.a.b[1].c", Some(json!("deep"))),
        ("$['a']['b'][1][\"c\"]", Some(json!("deep"))),
        ("$['two words']", Some(json!(3))),
        ("$['dotted.name']", Some(json!(5))),
        ("$.Straße", Some(json!(4))),
        ("$.a.snake_case", Some(json!(1))),
        ("$.a.kebab-case", Some(json!(2))),
        ("$.0", Some(json!("a field"))),
        ("$.list[0][1]", Some(json!(2))),
        ("$.a.null", Some(Value::Null)),
        ("$.a.empty", Some(json!({}))),
        ("$.a.missing", None),
        ("$.missing.b", None),
        ("$.a.b[2]", None),
        ("$.a[0]", None),
        ("$.list.first", None),
        ("$.a.null.deeper", None),
        ("$.A", None),
    ];
    for (text, expected) in cases {
        let path = Path::parse(text).unwrap_or_else(|reason| panic!("{text}: {reason}"));
        assert_eq!(path.find(&document()), expected.as_ref(), "{text}");
        assert_eq!(path.text(), text);
    }
}

#[test]
fn anything_that_could_find_many_places_is_refused() {
    let cases = [
        ("", "must start with $"),
        ("a.b", "must start with $"),
        ("$a", "where a dot or a bracket belongs"),
        ("$.", "no field name"),
        ("$.a.", "no field name"),
        ("$..a", "recursive descent"),
        ("$.a..b", "recursive descent"),
        ("$.*", "wildcard"),
        ("$.a[*]", "only a plain index"),
        ("$.a[-1]", "only a plain index"),
        ("$.a[0:2]", "only a plain index"),
        ("$.a[0,1]", "only a plain index"),
        ("$.a[?(@.b == 1)]", "only a plain index"),
        ("$.a[]", "only a plain index"),
        ("$.a['b','c']", "after one quoted name"),
        ("$.a['b", "quote that is not closed"),
        ("$.a[0", "bracket that is not closed"),
        ("$.a['']", "empty or escaped"),
        ("$.a b", "where a dot or a bracket belongs"),
        ("$.a[99999999999999999999999]", "too large"),
        ("States.Format('{}', $.a)", "intrinsic"),
        ("$$$.a", "where a dot or a bracket belongs"),
    ];
    for (text, expected) in cases {
        let reason = Path::parse(text).expect_err(text);
        assert!(reason.contains(expected), "{text}: {reason}");
    }
}

#[test]
fn a_result_path_writes_where_it_says() {
    let input = json!({ "a": 1, "b": { "c": 2 } });
    let cases = [
        ("$", Some(json!("new"))),
        ("$.a", Some(json!({ "a": "new", "b": { "c": 2 } }))),
        ("$.b.c", Some(json!({ "a": 1, "b": { "c": "new" } }))),
        ("$.b.d", Some(json!({ "a": 1, "b": { "c": 2, "d": "new" } }))),
        ("$.x.y.z", Some(json!({ "a": 1, "b": { "c": 2 }, "x": { "y": { "z": "new" } } }))),
        ("$['x y']", Some(json!({ "a": 1, "b": { "c": 2 }, "x y": "new" }))),
        ("$.a.below_a_number", None),
    ];
    for (text, expected) in cases {
        let path = ReferencePath::parse(text).unwrap();
        assert_eq!(path.put(input.clone(), json!("new")), expected, "{text}");
    }
    assert_eq!(ReferencePath::parse("$.x").unwrap().put(json!([]), json!(1)), None, "a list has no fields");
    for text in ["$.a[0]", "$$.Execution", "$.a.*"] {
        assert!(ReferencePath::parse(text).is_err(), "{text}");
    }
}
