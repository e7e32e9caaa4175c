//! `kinfold-encode [--allow-imports] CORE.wasm COMPONENT.wasm`: turns the core
//! module that cargo made of a guest into a component.
//!
//! Promises: what it writes is a valid component with nothing to import: no
//! function, no resource, nothing that a host could be asked for. (An instance
//! of type definitions is no such thing: `wit/reconciler.wit` keeps its records
//! in an interface of their own, and a component that exports functions over
//! them names that interface among its imports, with types and nothing else in
//! it.) An import is an error that names it, and nothing is written.
//! `--allow-imports` is for the guest that tests refuse.

use std::env;
use std::error::Error;
use std::fs;
use std::process::ExitCode;

use wasmparser::component_types::{
    ComponentAnyTypeId, ComponentEntityType, ComponentInstanceTypeId,
};
use wasmparser::types::TypesRef;
use wasmparser::{Payload, Validator, WasmFeatures};
use wit_component::ComponentEncoder;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let allow_imports = arguments
        .first()
        .is_some_and(|first| first == "--allow-imports");
    if allow_imports {
        arguments.remove(0);
    }
    let [core, component] = &arguments[..] else {
        eprintln!("usage: kinfold-encode [--allow-imports] CORE.wasm COMPONENT.wasm");
        return ExitCode::from(2);
    };
    match encode(core, component, allow_imports) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kinfold-encode: {core}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn encode(core: &str, component: &str, allow_imports: bool) -> Result<(), Box<dyn Error>> {
    let bytes = ComponentEncoder::default()
        .module(&fs::read(core)?)?
        .validate(true)
        .encode()?;
    let imports = imports(&bytes)?;
    if !imports.is_empty() && !allow_imports {
        return Err(format!(
            "a guest imports nothing, and this one: {}",
            imports.join(", ")
        )
        .into());
    }
    fs::write(component, bytes)?;
    Ok(())
}

/// The names of what a host would have to give the component.
fn imports(component: &[u8]) -> Result<Vec<String>, Box<dyn Error>> {
    let types = Validator::new_with_features(WasmFeatures::default()).validate_all(component)?;
    let types = types.as_ref();
    let mut wanted = Vec::new();
    let mut depth = 0;
    for payload in wasmparser::Parser::new(0).parse_all(component) {
        match payload? {
            // What nested modules and components import, this one gives them.
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let name = import?.name.name;
                    let item = types
                        .component_item_for_import(name)
                        .ok_or_else(|| format!("the import {name} has no type"))?;
                    if !is_types_alone(types, item.ty) {
                        wanted.push(name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    Ok(wanted)
}

/// Whether an import is nothing but definitions of types.
fn is_types_alone(types: TypesRef<'_>, entity: ComponentEntityType) -> bool {
    let of_instance = |id: ComponentInstanceTypeId| {
        types[id].exports.values().all(|export| match export.ty {
            ComponentEntityType::Type { created, .. } => {
                !matches!(created, ComponentAnyTypeId::Resource(_))
            }
            _ => false,
        })
    };
    matches!(entity, ComponentEntityType::Instance(id) if of_instance(id))
}
