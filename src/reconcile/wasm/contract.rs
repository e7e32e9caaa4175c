//! The contract's types for core modules that bear its names and not its types.
//!
//! Rust's `wit-bindgen` leaves the types of a guest in a custom section of the
//! core module. A compiler that knows nothing of components leaves the exports
//! alone: a C file can name them (`kinfold:reconciler/reconcile@1.0.0#fold`),
//! and only the section is missing. The contract is kinfold's own and these names
//! belong to one version of it, so kinfold adds the section.
//!
//! Promises: [`with_types`] touches no module that has such a section, and none
//! that exports nothing of the contract. Not promised: that the functions have
//! the contract's types; whoever encodes the module finds out.

use std::borrow::Cow;

use wasmparser::{Parser, Payload};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::abi;

/// The contract as `wit/reconciler.wit` has it.
const WIT: &str = include_str!("../../../wit/reconciler.wit");

/// The interfaces of the contract, by the names that exports begin with and by
/// the names that they go by within the WIT.
const INTERFACES: [(&str, &str); 3] = [
    (abi::RECONCILE, "reconcile"),
    (abi::SAMPLES, "samples"),
    (abi::DATA_TYPE, "data-type"),
];

/// How the sections begin that hold types.
const TYPES_SECTION: &str = "component-type";

/// The valid core module with the types of what it exports of the contract.
pub(super) fn with_types(module: &[u8]) -> anyhow::Result<Cow<'_, [u8]>> {
    let exported = exported(module)?;
    if exported.is_empty() {
        return Ok(Cow::Borrowed(module));
    }
    let exports: String = exported
        .iter()
        .map(|interface| format!(" export {interface};"))
        .collect();
    let mut resolve = Resolve::default();
    let package = resolve.push_source(
        "reconciler.wit",
        &format!("{WIT}\nworld exported {{{exports} }}\n"),
    )?;
    let world = resolve.select_world(&[package], Some("exported"))?;
    let mut typed = module.to_vec();
    embed_component_metadata(&mut typed, &resolve, world, StringEncoding::UTF8)?;
    Ok(Cow::Owned(typed))
}

/// The interfaces that a module without types exports functions of.
fn exported(module: &[u8]) -> anyhow::Result<Vec<&'static str>> {
    let mut names: Vec<&str> = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::CustomSection(section) if section.name().starts_with(TYPES_SECTION) => {
                return Ok(Vec::new());
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    names.push(export?.name);
                }
            }
            _ => {}
        }
    }
    let is_exported = |interface: &str| {
        names.iter().any(|name| {
            let function = name.strip_prefix(interface);
            function.is_some_and(|rest| rest.starts_with('#'))
        })
    };
    let exported = INTERFACES.iter().filter(|(name, _)| is_exported(name));
    Ok(exported.map(|(_, interface)| *interface).collect())
}

#[cfg(test)]
mod tests {
    use super::super::{InvalidModule, Sandbox, SandboxLimits};
    use super::*;
    use crate::protocol::catalog::ModuleKind;

    const C_BITMAP: &[u8] = include_bytes!("../../../reconcilers/prebuilt/test/c-bitmap.wasm");
    const MISBEHAVE_CORE: &[u8] =
        include_bytes!("../../../reconcilers/prebuilt/test/misbehave.core.wasm");

    /// The guest in C with another text in the place of this one, as long.
    fn with(this: &str, other: &str) -> Vec<u8> {
        assert_eq!(this.len(), other.len());
        let mut bytes = C_BITMAP.to_vec();
        let mut found = 0;
        for at in 0..bytes.len() - this.len() {
            if bytes[at..].starts_with(this.as_bytes()) {
                bytes[at..at + this.len()].copy_from_slice(other.as_bytes());
                found += 1;
            }
        }
        assert!(found > 0, "{this} is not in the module");
        bytes
    }

    #[test]
    fn names_stand_for_types_that_are_not_there() {
        assert_eq!(exported(C_BITMAP).expect("readable"), ["reconcile"]);
        let sandbox = Sandbox::new(SandboxLimits::default(), None).expect("a sandbox");
        let loaded = sandbox.load(C_BITMAP).expect("a module");
        assert_eq!(loaded.kind(), ModuleKind::Reconciler);
        assert_eq!(loaded.description().version, "1.0.0");
        assert_eq!(
            loaded.size_bytes(),
            C_BITMAP.len() as u64,
            "known by the bytes that came"
        );
    }

    #[test]
    fn types_that_are_there_are_left_alone() {
        for module in [MISBEHAVE_CORE, b"\0asm\x01\0\0\0"] {
            let typed = with_types(module).expect("readable");
            assert!(matches!(typed, Cow::Borrowed(bytes) if bytes == module));
        }
    }

    #[test]
    fn a_function_that_is_missing_or_of_another_version_is_named() {
        let sandbox = Sandbox::new(SandboxLimits::default(), None).expect("a sandbox");
        let refused = |bytes: &[u8]| sandbox.load(bytes).err().expect("refused").to_string();
        let error = refused(&with("1.0.0#describe", "1.0.0#descrobe"));
        assert!(error.contains("function `describe`"), "{error}");
        let error = refused(&with("1.0.0#fold", "1.0.0#gold"));
        assert!(error.contains("function `fold`"), "{error}");
        let error = sandbox.load(&with("@1.0.0#", "@9.0.0#"));
        assert_eq!(
            error.err(),
            Some(InvalidModule::MissingExport(abi::RECONCILE))
        );
    }
}
