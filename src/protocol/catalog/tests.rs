//! Catalogs that meet, change and forget.

use super::*;

fn definition(n: u32) -> TableDefinition {
    TableDefinition {
        n,
        ..TableDefinition::default()
    }
}

#[test]
fn a_file_yields_to_a_change_and_a_change_to_a_deletion() {
    let mut file = Catalog::default();
    file.propose_table("carts", definition(3));
    let mut changed = file.clone();
    changed.set_table("carts", definition(5));
    let mut deleted = file.clone();
    assert!(deleted.delete_table("carts"));

    let mut merged = changed.clone();
    assert!(!merged.merge(&file));
    assert_eq!(merged.table("carts"), Some(&definition(5)));
    assert!(merged.merge(&deleted));
    assert_eq!(merged.table("carts"), None);
    let mut other_way = deleted.clone();
    other_way.merge(&changed);
    other_way.merge(&file);
    assert_eq!(merged, other_way);
}

#[test]
fn a_table_made_again_is_another_table() {
    let mut catalog = Catalog::default();
    catalog.set_table("carts", definition(3));
    let first = catalog.resolve()["carts"].id;
    let old = catalog.clone();
    catalog.delete_table("carts");
    catalog.set_table("carts", definition(3));
    let second = catalog.resolve()["carts"].id;
    assert_ne!(first, second);
    assert!(!catalog.merge(&old), "an old life does not come back");
    // Two nodes that make the table at once make one table.
    let mut elsewhere = Catalog::default();
    elsewhere.set_table("carts", definition(5));
    assert_eq!(elsewhere.resolve()["carts"].id, first);
}

#[test]
fn concurrent_changes_settle_the_same_way_everywhere() {
    let mut base = Catalog::default();
    base.set_table("t", definition(3));
    let (mut a, mut b) = (base.clone(), base);
    a.set_table("t", definition(4));
    b.set_table("t", definition(5));
    let mut left = a.clone();
    left.merge(&b);
    let mut right = b;
    right.merge(&a);
    assert_eq!(left, right);
    assert_eq!(left.digest(), right.digest());
}

fn module(text: &str) -> ModuleInfo {
    ModuleInfo {
        digest: Digest::of(text.as_bytes()),
        size_bytes: text.len() as u64,
        kind: ModuleKind::Reconciler,
        eager: false,
        summary: "".into(),
        version: text.into(),
        lawfulness: Lawfulness::Unchecked,
        built_in: false,
    }
}

fn stamp(at_us: u64) -> Stamp {
    let by = "a".into();
    Stamp { at_us, by }
}

fn upload(catalog: &mut Catalog, name: &str, text: &str, at_us: u64) -> Applied {
    let change = CatalogChange::SetReconciler {
        name: name.into(),
        module: module(text),
    };
    catalog.apply(&change, &stamp(at_us)).unwrap()
}

fn table(reconciler: &str, pin: Option<&str>) -> TableDefinition {
    TableDefinition {
        reconciler: Some(reconciler.into()),
        reconciler_digest: pin.map(|text| Digest::of(text.as_bytes())),
        ..TableDefinition::default()
    }
}

fn set_to(name: &str, definition: TableDefinition) -> CatalogChange {
    CatalogChange::SetTable {
        name: name.into(),
        definition,
    }
}

#[test]
fn a_rollback_goes_to_what_was_current_before_and_moves_no_pin() {
    let mut catalog = Catalog::default();
    for (at_us, text) in [(1, "one"), (2, "two"), (3, "three")] {
        assert!(upload(&mut catalog, "mine", text, at_us).changed);
    }
    assert!(!upload(&mut catalog, "mine", "three", 4).changed);
    let pinned = set_to("pinned", table("mine", Some("three")));
    catalog.apply(&pinned, &stamp(4)).unwrap();
    let floating = set_to("floating", table("mine", None));
    catalog.apply(&floating, &stamp(4)).unwrap();

    let mut back = |digest, at_us| {
        let name = "mine".into();
        let change = CatalogChange::RollBack { name, digest };
        catalog.apply(&change, &stamp(at_us)).unwrap().current
    };
    let of = |text: &str| Some(Digest::of(text.as_bytes()));
    assert_eq!(back(None, 5), of("two"));
    // Taken back itself, as an undo is.
    assert_eq!(back(None, 6), of("three"));
    assert_eq!(back(of("one"), 7), of("one"));
    assert_eq!(back(None, 8), of("three"));
    assert_eq!(back(of("one"), 9), of("one"));
    let deeds: Vec<(u64, Deed)> = catalog
        .history("mine")
        .map(|entry| (entry.at_us, entry.deed))
        .collect();
    assert_eq!(deeds.len(), 8);
    assert_eq!(deeds[2], (3, Deed::Uploaded));
    assert_eq!(deeds[7], (9, Deed::RolledBack));
    let folds_with = |table: &str| Some(catalog.resolve()[table].module.as_ref().unwrap().digest);
    assert_eq!(folds_with("pinned"), of("three"));
    assert_eq!(folds_with("floating"), of("one"));
}

#[test]
fn the_oldest_version_goes_unless_somebody_needs_it() {
    let mut catalog = Catalog::default();
    upload(&mut catalog, "mine", "pinned", 0);
    let pin = set_to("t", table("mine", Some("pinned")));
    catalog.apply(&pin, &stamp(0)).unwrap();
    for number in 0..2 * MAX_MODULE_VERSIONS as u64 {
        upload(&mut catalog, "mine", &number.to_string(), number + 1);
    }
    let known = catalog.reconciler("mine").unwrap();
    assert_eq!(known.modules.len(), MAX_MODULE_VERSIONS);
    assert!(known.module(Digest::of(b"pinned")).is_some());
    assert!(known.module(Digest::of(b"0")).is_none());
    assert!(known.module(known.current).is_some());
    assert_eq!(catalog.history("mine").count(), MAX_HISTORY);
}

#[test]
fn a_reconciler_is_deleted_only_when_nobody_names_it() {
    let mut catalog = Catalog::default();
    upload(&mut catalog, "mine", "one", 1);
    let before = catalog.clone();
    catalog
        .apply(&set_to("t", table("mine", None)), &stamp(2))
        .unwrap();
    let delete = CatalogChange::DeleteReconciler {
        name: "mine".into(),
    };
    let refused = catalog.apply(&delete, &stamp(3)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the reconciler \"mine\" is used by the table t; give it another reconciler, or delete \
         it, first"
    );
    let drop_table = CatalogChange::DeleteTable { name: "t".into() };
    catalog.apply(&drop_table, &stamp(4)).unwrap();
    assert!(catalog.apply(&delete, &stamp(5)).unwrap().changed);
    assert_eq!(catalog.reconciler("mine"), None);
    assert_eq!(catalog.history("mine").count(), 0);
    assert_eq!(
        catalog.apply(&delete, &stamp(6)),
        Err(ChangeRefused::NoSuchReconciler)
    );

    // What was known before does not bring it back, in either order.
    let mut merged = catalog.clone();
    assert!(!merged.merge(&before));
    let mut other_way = before.clone();
    other_way.merge(&catalog);
    assert_eq!(other_way.reconciler("mine"), None);
    assert_eq!(other_way.history("mine").count(), 0);

    // Someone who did not know pointed a table at it meanwhile.
    let mut elsewhere = before;
    elsewhere
        .apply(&set_to("u", table("mine", None)), &stamp(7))
        .unwrap();
    merged.merge(&elsewhere);
    let orphan = &merged.resolve()["u"];
    assert!(orphan.is_orphaned && orphan.module.is_none());
    upload(&mut merged, "mine", "two", 8);
    let healed = &merged.resolve()["u"];
    assert!(!healed.is_orphaned && healed.module.is_some());
}

#[test]
fn built_ins_stay() {
    let mut catalog = Catalog::default();
    let mut built_in = module("lww");
    built_in.lawfulness = Lawfulness::BuiltIn;
    catalog.propose_reconciler("lww", built_in);
    upload(&mut catalog, "lww", "other", 1);
    upload(&mut catalog, "lww", "lww", 2);
    let delete = CatalogChange::DeleteReconciler { name: "lww".into() };
    assert!(matches!(
        catalog.apply(&delete, &stamp(3)),
        Err(ChangeRefused::BuiltIn { .. })
    ));
}

#[test]
fn histories_merge_in_any_order() {
    let mut base = Catalog::default();
    upload(&mut base, "mine", "one", 1);
    let (mut a, mut b) = (base.clone(), base);
    for number in 0..70 {
        upload(&mut a, "mine", &format!("a{number}"), 10 + 2 * number);
        upload(&mut b, "mine", &format!("b{number}"), 11 + 2 * number);
    }
    let mut left = a.clone();
    assert!(left.merge(&b));
    assert!(!left.merge(&b) && !left.merge(&a));
    let mut right = b;
    right.merge(&a);
    assert_eq!(left, right);
    assert_eq!(left.history("mine").count(), MAX_HISTORY);
}

#[test]
fn an_excerpt_says_all_that_a_change_needs() {
    let mut catalog = Catalog::default();
    upload(&mut catalog, "mine", "one", 1);
    upload(&mut catalog, "other", "two", 1);
    let change = set_to("t", table("mine", None));
    catalog.apply(&change, &stamp(2)).unwrap();
    let mut elsewhere = Catalog::default();
    assert!(elsewhere.merge(&catalog.excerpt(&change)));
    assert!(elsewhere.resolve()["t"].module.is_some());
    assert_eq!(elsewhere.reconciler("other"), None);
}
